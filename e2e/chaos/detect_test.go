package chaos

import (
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/ticket"
)

// tape is an audit log made by hand.
type tape struct {
	t        *testing.T
	now      time.Time
	revision int
	nodes    map[string]*corev1.Node
	events   []cluster.AuditEvent
}

func newTape(t *testing.T) *tape {
	return &tape{t: t, now: time.Unix(1_000_000, 0), nodes: make(map[string]*corev1.Node)}
}

// write records that the node became so.
func (p *tape) write(user, name, patch string, change func(*corev1.Node)) {
	n, known := p.nodes[name]
	if !known {
		n = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{cluster.PoolLabel: "a"}}}
		n.Annotations = make(map[string]string)
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		p.nodes[name] = n
	}
	change(n)
	p.revision++
	n.ResourceVersion = strconv.Itoa(p.revision)
	body, err := json.Marshal(n)
	require.NoError(p.t, err)
	p.events = append(p.events, cluster.AuditEvent{
		At: p.now, User: user, Verb: "patch", Resource: "nodes", Name: name, Code: 200, Request: []byte(patch), Response: body,
	})
}

func (p *tape) exist(names ...string) {
	for _, name := range names {
		p.write("admin", name, "{}", func(*corev1.Node) {})
	}
}

func (p *tape) aegisCordons(name, incident string) {
	p.write(cluster.AegisUser, name, `[{"op":"test","path":"/spec/unschedulable","value":null},{"op":"add","path":"/spec/unschedulable","value":true}]`,
		func(n *corev1.Node) {
			n.Spec.Unschedulable = true
			n.Annotations[ticket.OwnerAnnotation] = "aegis/" + incident
			n.Annotations[ticket.Annotation] = fmt.Sprintf("id: %s\ncondition: GpuHung\nsupervisor: aegis\nstatus: resolving\n", incident)
		})
}

func (p *tape) aegisUncordons(name string) {
	p.write(cluster.AegisUser, name, `[{"op":"add","path":"/spec/unschedulable","value":false}]`, func(n *corev1.Node) {
		n.Spec.Unschedulable = false
		delete(n.Annotations, ticket.OwnerAnnotation)
	})
}

func (p *tape) personCordons(name string) {
	p.write("admin", name, "{}", func(n *corev1.Node) { n.Spec.Unschedulable = true })
}

func (p *tape) job(action, node, incident, attempt string) {
	job := batchv1.Job{ObjectMeta: metav1.ObjectMeta{
		Name:        action + "-" + node + "-" + attempt,
		Annotations: map[string]string{"aegis.io/node": node},
		Labels:      map[string]string{"aegis.io/action": action, "aegis.io/incident": incident, "aegis.io/attempt": attempt},
	}}
	body, err := json.Marshal(job)
	require.NoError(p.t, err)
	p.events = append(p.events, cluster.AuditEvent{
		At: p.now, User: cluster.AegisUser, Verb: "create", Resource: "jobs", Code: 201, Request: body,
	})
}

// withdrawn records that Aegis deletes a Job, in the second after what was before.
func (p *tape) withdrawn(name string) {
	p.wait(time.Second)
	p.events = append(p.events, cluster.AuditEvent{At: p.now, User: cluster.AegisUser, Verb: "delete", Resource: "jobs", Name: name, Code: 200})
	p.wait(time.Second)
}

func (p *tape) wait(d time.Duration) { p.now = p.now.Add(d) }

func (p *tape) evidence(d *eventLog) evidence {
	return evidence{
		history: readHistory(p.t, p.events, &podPlaces{nodes: map[string]string{"/p": "n1"}}), eventLog: d,
		machines: map[string]nodesim.State{"n1": {Boots: 2}}, allowed: map[string]int{"a": 1},
	}
}

// Each invariant catches what it is there for, and what is right breaks none.
func TestInvariantsCatch(t *testing.T) {
	t.Parallel()
	const passed = "\nworkflows:\n- {action: reboot, status: Succeeded}\n- {action: healthcheck, status: Succeeded}\n"
	tests := []struct {
		name, broken string
		happens      func(*tape, *eventLog)
	}{
		{"a repair", "", func(p *tape, _ *eventLog) {
			p.aegisCordons("n1", "i1")
			p.job("reboot", "n1", "i1", "1")
			p.write(cluster.AegisUser, "n1", "[]", func(n *corev1.Node) { n.Annotations[ticket.Annotation] += passed[1:] })
			p.aegisUncordons("n1")
		}},
		{"a Job twice", "each Job is made once", func(p *tape, d *eventLog) {
			d.booted("n1")
			p.job("reboot", "n1", "i1", "1")
			p.job("reboot", "n1", "i1", "1")
		}},
		{"a healthcheck that was taken back", "", func(p *tape, d *eventLog) {
			d.booted("n1")
			p.job("reboot", "n1", "i1", "1")
			p.job("healthcheck", "n1", "i1", "1")
			p.withdrawn("healthcheck-n1-1")
			p.job("healthcheck", "n1", "i1", "1")
		}},
		{"a healthcheck that was taken back, twice again", "each Job is made once", func(p *tape, d *eventLog) {
			d.booted("n1")
			p.job("healthcheck", "n1", "i1", "1")
			p.withdrawn("healthcheck-n1-1")
			p.job("healthcheck", "n1", "i1", "1")
			p.job("healthcheck", "n1", "i1", "1")
		}},
		{"a reboot that was taken back", "each Job is made once", func(p *tape, d *eventLog) {
			d.booted("n1")
			p.job("reboot", "n1", "i1", "1")
			p.withdrawn("reboot-n1-1")
			p.job("reboot", "n1", "i1", "1")
		}},
		{"three reboots", "no more reboots than the policy allows", func(p *tape, _ *eventLog) {
			for _, attempt := range []string{"1", "2", "3"} {
				p.job("reboot", "n1", "i1", attempt)
			}
		}},
		{"a boot without a Job", "each boot was ordered by one Job", func(*tape, *eventLog) {}},
		{"two cordons at once", "the budget is kept", func(p *tape, d *eventLog) {
			d.booted("n1")
			p.aegisCordons("n1", "i1")
			p.aegisCordons("n2", "i2")
		}},
		{"a cordon beside one of a person", "the budget is kept", func(p *tape, d *eventLog) {
			d.booted("n1")
			p.personCordons("n1")
			p.wait(time.Minute)
			p.aegisCordons("n2", "i2")
		}},
		{"a cordon that could not know of another one", "", func(p *tape, d *eventLog) {
			d.booted("n1")
			p.personCordons("n1")
			p.wait(time.Second)
			p.aegisCordons("n2", "i2")
		}},
		{"a person's cordon undone", "cordons of people stay", func(p *tape, d *eventLog) {
			d.booted("n1")
			p.write("admin", "n1", "{}", func(n *corev1.Node) {
				n.Annotations[ticket.Annotation] = "id: i1\ncondition: GpuHung\nsupervisor: aegis\n"
			})
			p.personCordons("n1")
			p.aegisUncordons("n1")
		}},
		{"a return without a healthcheck", "nodes return only after a passed healthcheck", func(p *tape, d *eventLog) {
			d.booted("n1")
			p.aegisCordons("n1", "i1")
			p.write(cluster.AegisUser, "n1", "[]", func(n *corev1.Node) {
				n.Annotations[ticket.Annotation] += "workflows:\n- {action: healthcheck, status: Succeeded}\n- {action: reboot, status: Succeeded}\n"
			})
			p.aegisUncordons("n1")
		}},
		{"a ticket without a trace", "no ticket is lost", func(p *tape, d *eventLog) {
			d.booted("n1")
			p.aegisCordons("n1", "i1")
			p.write(cluster.AegisUser, "n1", "[]", func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) })
		}},
		{"a ticket that a person removed", "", func(p *tape, d *eventLog) {
			d.booted("n1")
			p.aegisCordons("n1", "i1")
			p.write("admin", "n1", "{}", func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) })
		}},
		{"a reboot of an excluded node", "nothing destructive is done where it is forbidden", func(p *tape, _ *eventLog) {
			p.write("admin", "n1", "{}", func(n *corev1.Node) { n.Labels[disableLabel] = "true" })
			p.wait(time.Minute)
			p.job("reboot", "n1", "i1", "1")
		}},
		{"an eviction while it is silenced", "nothing destructive is done where it is forbidden", func(p *tape, d *eventLog) {
			d.booted("n1")
			d.silenced["n1"] = []*silence{{period: period{from: p.now}}}
			p.wait(time.Minute)
			p.events = append(p.events, cluster.AuditEvent{
				At: p.now, User: cluster.AegisUser, Verb: "create", Resource: "pods", Subresource: "eviction", Name: "p", Code: 201,
			})
		}},
		{"a leader that decides nothing", "whoever leads decides", func(p *tape, d *eventLog) {
			d.started = p.now
			p.wait(5 * time.Minute)
			d.ended = p.now
			d.booted("n1")
		}},
		{"a leader that decides nothing while all is paused", "", func(p *tape, d *eventLog) {
			d.started = p.now
			d.paused = []period{{from: p.now}}
			p.wait(5 * time.Minute)
			d.ended = p.now
			d.booted("n1")
		}},
		{"a request without the right", "Aegis uses no right that it lacks", func(p *tape, d *eventLog) {
			d.booted("n1")
			p.events = append(p.events, cluster.AuditEvent{At: p.now, User: cluster.AegisUser, Verb: "delete", Resource: "nodes", Code: 403})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, d := newTape(t), newEventLog()
			p.exist("n1", "n2")
			tt.happens(p, d)
			e := p.evidence(d)
			for _, i := range invariants() {
				wrong := i.check(e)
				require.Equal(t, i.name == tt.broken, len(wrong) > 0, "%s: %v", i.name, wrong)
			}
		})
	}
}
