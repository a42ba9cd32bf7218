package sop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// trial asks all that may stand against one repair, through those who act.
type trial struct {
	*world
	d *Dispatcher
	// status is the condition to be repaired, others are the other ones of the node.
	status prom.AegisNodeStatus
	others []prom.AegisNodeStatus
	// ticket is nil while no ticket is open.
	ticket  *ticket.Ticket
	history *ticket.History
	cache   *laggingCache
	// before is the node as it was when nothing stood in the way.
	before *corev1.Node
	// later is what happens once the ticket is written and the sources have confirmed the condition.
	later func()
}

// laggingCache shows a node once as it was.
type laggingCache struct {
	corelisters.NodeLister
	once *corev1.Node
}

func (c *laggingCache) Get(name string) (*corev1.Node, error) {
	if stale := c.once; stale != nil {
		c.once = nil
		return stale, nil
	}
	return c.NodeLister.Get(name)
}

// obstacle puts one thing in the way of the repair of a trial.
type obstacle func(*trial)

// obstacles has one for each guard, by its name.
func obstacles() map[string]obstacle {
	all := make(map[string]obstacle)
	for _, group := range []map[string]obstacle{
		ownershipObstacles(), configuredObstacles(), clusterObstacles(), nodeObstacles(), historyObstacles(), modeObstacles(), sourceObstacles(),
	} {
		for name, o := range group {
			all[name] = o
		}
	}
	return all
}

func ownershipObstacles() map[string]obstacle {
	otherCondition := func(w *trial) { w.open().Condition = "Other" }
	otherDevice := func(w *trial) { w.open().Device = "3" }
	return map[string]obstacle{
		"no such node": func(w *trial) {
			w.later = func() {
				w.cluster.Do(func() { w.cluster.DeleteNode(nodeA) })
			}
		},
		"ticket of people": func(w *trial) {
			if w.ticket != nil {
				w.ticket.Supervisor = "alice"
				return
			}
			w.edit(func(n *corev1.Node) { n.Annotations = map[string]string{ticket.Annotation: "{not a ticket"} })
		},
		"requested before":            func(w *trial) { w.open() },
		"busy for a request":          otherCondition,
		"excluded":                    func(w *trial) { w.label(policy.DisableLabel, "true") },
		"busy with another condition": otherCondition,
		"busy with another device":    otherDevice,
	}
}

func configuredObstacles() map[string]obstacle {
	return map[string]obstacle{
		"unknown condition": func(w *trial) { w.policy.Mode = "" },
		"band MustIgnore": func(w *trial) {
			w.status.Priority, w.priorities = 1000, map[string]int{w.status.Condition: 1000}
		},
		"mode off": func(w *trial) { w.policy.Mode = prom.ModeOff },
		"harmless XID": func(w *trial) {
			w.xid = prom.XID{Code: 43, Class: prom.XIDIgnore}
			w.status.XID = w.xid
		},
		"no procedure": func(w *trial) {
			delete(w.table, "test/reboot")
			delete(w.table, "test/nodecordon")
		},
		"control plane": func(w *trial) { w.label("node-role.kubernetes.io/control-plane", "") },
	}
}

func clusterObstacles() map[string]obstacle {
	return map[string]obstacle{
		"node not read":   func(w *trial) { w.later = func() { w.fail("nodes") } },
		"orders not read": func(w *trial) { w.later = func() { w.fail("leases") } },
		"paused":          func(w *trial) { w.settings.Paused = true },
		"maintenance window": func(w *trial) {
			closed := (time.Now().UTC().Hour() + 2) % 24
			w.settings.Pools[0].Windows = []policy.Window{{From: closed * 60, To: closed*60 + 1, Location: time.UTC}}
		},
		"storm": func(w *trial) {
			w.settings.Pools[0].StormRelease = time.Hour
			w.d.storms.active = []policy.Storm{{Condition: w.status.Condition, Pool: "test", Nodes: 9, Limit: 3}}
		},
		"budget at a visit": (*trial).fill,
		"budget":            (*trial).fill,
	}
}

func nodeObstacles() map[string]obstacle {
	return map[string]obstacle{
		"contested": func(w *trial) { w.status.Contested = true },
		"older than its node": func(w *trial) {
			w.status.FirstSeen = time.Now().Add(-time.Hour)
			w.edit(func(n *corev1.Node) { n.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Minute)) })
		},
		"cordon of a person": func(w *trial) { w.edit(func(n *corev1.Node) { n.Spec.Unschedulable = true }) },
		"no cordon":          func(w *trial) { w.status.Priority = 1 },
		"more urgent condition": func(w *trial) {
			w.others = []prom.AegisNodeStatus{{Node: nodeA, Condition: "NodeNotReady", Priority: 0, Policy: testPolicy()}}
		},
		"explained": func(w *trial) {
			w.inhibits = map[string]string{"Cause": w.status.Condition}
			w.others = []prom.AegisNodeStatus{{Node: nodeA, Condition: "Cause", Priority: 3}}
		},
		"node in use": func(w *trial) { w.status.Priority = 150 },
		"request not understood": func(w *trial) {
			w.edit(func(n *corev1.Node) { n.Annotations = map[string]string{policy.CheckAnnotation: "yes"} })
		},
		"not ready for a check": func(w *trial) {
			w.edit(func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown })
		},
	}
}

func historyObstacles() map[string]obstacle {
	return map[string]obstacle{
		"dealt with": func(w *trial) {
			w.history.Add(ticket.Incident{ID: "n", Condition: w.status.Condition, Outcome: ticket.Noted, Opened: time.Now(), Closed: time.Now()})
		},
		"own boot": func(w *trial) {
			w.policy.OwnBoot, w.policy.Cooldown = time.Hour, 0
			w.booted(10 * time.Minute)
		},
		"checked a moment ago": func(w *trial) {
			w.history.Add(ticket.Incident{ID: "c", Condition: policy.CheckedCondition, Outcome: ticket.Passed, Opened: time.Now(), Closed: time.Now()})
		},
		"cooldown":        func(w *trial) { w.booted(10 * time.Minute) },
		"reboots used up": func(w *trial) { w.booted(3*time.Hour, 2*time.Hour) },
		"suspected hardware": func(w *trial) {
			w.policy.MaxRepairs, w.policy.RepairWindow = 1, 24*time.Hour
			w.booted(3 * time.Hour)
		},
		"repeat offender": func(w *trial) {
			w.settings.Pools[0].MaxIncidents, w.settings.Pools[0].IncidentWindow = 1, 24*time.Hour
			w.booted(3 * time.Hour)
		},
	}
}

func modeObstacles() map[string]obstacle {
	set := func(m prom.Mode) obstacle { return func(w *trial) { w.policy.Mode = m } }
	return map[string]obstacle{
		"mode observe": set(prom.ModeObserve),
		"mode approve": set(prom.ModeApprove),
	}
}

func sourceObstacles() map[string]obstacle {
	say := func(e prom.Evidence, p prom.Permission) obstacle {
		return func(w *trial) {
			w.status.LastSeen = time.Now().Add(-time.Hour)
			w.source.set(prom.Finding{Evidence: e, Permission: p})
		}
	}
	silenced := say(prom.EvidenceFiring, prom.PermissionSilenced)
	silent := say(prom.EvidenceUnknown, prom.PermissionUnknown)
	pending := say(prom.EvidencePending, prom.PermissionGranted)
	return map[string]obstacle{
		"confirmed long ago":      func(w *trial) { w.later = func() { time.Sleep(3 * time.Minute) } },
		"sources silent at first": silent,
		"not reported at first":   pending,
		"silenced":                silenced,
		"several clusters":        say(prom.EvidenceUnknown, prom.PermissionAmbiguous),
		"sources silent":          silent,
		"not reported":            pending,
		"reported too briefly": func(w *trial) {
			w.policy.ConfirmFor, w.status.FirstSeen = time.Hour, time.Now().Add(-2*time.Hour)
			w.source.set(prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionGranted, Since: time.Now()})
		},
	}
}

// open makes sure that a ticket is open on the node.
func (w *trial) open() *ticket.Ticket {
	if w.ticket == nil {
		w.ticket = &ticket.Ticket{
			ID: "t1", Condition: w.status.Condition, SOP: w.status.SOP, Origin: string(prom.OriginAlert), Supervisor: ticket.Self,
			Status: ticket.StatusResolving, CreatedAt: time.Now(), BootID: "boot-0",
		}
	}
	return w.ticket
}

func (w *trial) label(key, value string) {
	w.edit(func(n *corev1.Node) { n.Labels = map[string]string{key: value} })
}

// booted writes repairs of the condition with a boot into the history, so long ago.
func (w *trial) booted(ago ...time.Duration) {
	for i, d := range ago {
		at := time.Now().Add(-d)
		w.history.Add(ticket.Incident{
			ID: fmt.Sprint(i), Condition: w.status.Condition, Outcome: ticket.Resolved, Opened: at, Closed: at, Isolated: true,
			Destructive: []ticket.Destructive{{Action: ticket.Reboot, At: at}},
		})
	}
}

// fill takes the only place in the budget of nodes, and the only one of destructive steps.
func (w *trial) fill() {
	w.settings.Pools[0].MaxPercent, w.settings.Pools[0].MaxDestructive = 1, 1
	other := testNode("gpu-other", "uid-other")
	other.Spec.Unschedulable = true
	w.cluster.Do(func() { w.cluster.AddNode(other) })
	w.d.services.limits.resume(other.Name, ticket.Reboot)
}

// fail has the API server answer no more reads of the resource.
func (w *trial) fail(resource string) {
	w.client.Before = func(call soptest.Call) error {
		if call.Verb == soptest.VerbGet && call.Resource == resource {
			return apierrors.NewInternalError(errors.New("etcd is away"))
		}
		return nil
	}
}

// newTrial returns one in which nothing stands against the repair but the obstacle.
func newTrial(t *testing.T, stage policy.Stage, origin policy.Origins, put obstacle) *trial {
	t.Helper()
	w := &trial{world: newWorld(t, testPolicy()), history: &ticket.History{}, later: func() {}}
	w.cache = &laggingCache{NodeLister: w.nodes}
	w.nodes = w.cache
	w.d = w.dispatcher()
	_, err := w.d.services.Orders.Read(t.Context())
	require.NoError(t, err)
	w.status = w.Status(nodeA, "Reboot", "", 0)
	w.table["test/nodecordon"] = w.table["test/cordon"]
	switch {
	case origin == policy.Check && (stage == policy.Visit || stage == policy.Entry):
		w.status = w.d.checkStatus(nodeA, prom.OriginCheck)
	case origin == policy.Intake:
		w.status = w.d.checkStatus(nodeA, prom.OriginIntake)
	case origin == policy.Requested && (stage == policy.Visit || stage == policy.Entry):
		w.status.Origin = prom.OriginHeal
	case origin == policy.Approved && stage == policy.Entry:
		w.policy.Mode = prom.ModeApprove
	case origin != policy.Alert:
		w.open()
	}
	w.attribute(origin)
	w.before = w.node()
	put(w)
	w.status.Policy = w.policy
	return w
}

// attribute makes the ticket, if one is open, that of a person who asked for it.
func (w *trial) attribute(origin policy.Origins) {
	switch {
	case w.ticket == nil:
	case origin == policy.Requested:
		w.ticket.Origin = requestedPrefix + "alice"
	case origin == policy.Check:
		w.ticket.Origin = checkPrefix + "alice"
	case origin == policy.Approved:
		w.ticket.ApprovedBy = "alice"
	}
}

// write puts the ticket and the history on the node.
func (w *trial) write() {
	if w.ticket == nil && len(w.history.Incidents) == 0 {
		return
	}
	_, err := w.d.services.Tickets.Update(w.t.Context(), nodeA, nil, func(_ ticket.Record, c *ticket.Change) error {
		c.Ticket, c.History = w.ticket, w.history
		return nil
	})
	require.NoError(w.t, err)
}

// ask returns what stands against the repair at the stage, as the one who acts is told it.
func (w *trial) ask(stage policy.Stage, origin policy.Origins) policy.Verdict {
	switch {
	case stage == policy.Visit && origin == policy.Requested:
		w.write()
		w.later()
		_, v, err := w.d.considerRequest(w.status)
		require.Equal(w.t, v.Name != policy.VerdictExecute, err != nil)
		return v
	case stage == policy.Visit:
		w.write()
		w.later()
		return w.visit()
	case stage == policy.Entry:
		return w.enter(origin)
	case stage == policy.Isolate:
		w.write()
		return w.isolate()
	default:
		w.write()
		return w.step()
	}
}

// visit decides on the node, if the cache has it.
func (w *trial) visit() policy.Verdict {
	node, err := w.d.Node(nodeA)
	switch {
	case apierrors.IsNotFound(err):
		w.d.visit(w.t.Context(), nodeA, []prom.AegisNodeStatus{w.status})
		return w.verdicts.Node(nodeA)[0].Verdict
	case err != nil:
		return policy.Verdict{}
	}
	_, verdicts, _ := w.d.choose(node, w.d.services.Tickets.Read(node), slices.Concat([]prom.AegisNodeStatus{w.status}, w.others))
	return verdicts[0]
}

// enter has a person ask for a ticket on a node that the cache shows as it was before.
func (w *trial) enter(origin policy.Origins) policy.Verdict {
	order := policy.NodeOrder{Node: nodeA, Condition: w.status.Condition, By: "alice"}
	if origin == policy.Begun {
		w.write()
		err := w.d.Cancel(w.t.Context(), order)
		return refusedAs(err)
	}
	w.raise(w.status.Condition)
	w.write()
	w.cache.once = w.before
	if origin == policy.Check {
		_, err := w.d.Check(w.t.Context(), order)
		return refusedAs(err)
	}
	if origin == policy.Requested {
		_, err := w.d.Heal(w.t.Context(), policy.HealRequest{Status: w.status, By: "alice"})
		return refusedAs(err)
	}
	_, err := w.d.Approve(w.t.Context(), order)
	return refusedAs(err)
}

// refusedAs returns the verdict that the error tells.
func refusedAs(err error) policy.Verdict {
	for _, name := range policy.VerdictNames() {
		if err != nil && errors.Is(err, policy.ErrRefused) && len(err.Error()) > len("refused: "+name) &&
			err.Error()[:len("refused: "+name)] == "refused: "+string(name) {
			return policy.Verdict{Name: name, Reason: err.Error()}
		}
	}
	return policy.Verdict{}
}

func (w *trial) bridge() *ApiBridge {
	record := w.record()
	i := w.d.newIncident(w.status, w.status.SOP, string(prom.OriginAlert))
	if t := record.Ticket; t != nil {
		i = incident{id: t.ID, condition: t.Condition, device: t.Device, sop: t.SOP, origin: t.Origin}
	}
	return newBridge(w.d.services, assignment{
		status: w.status, record: record, incident: i, hooks: hooks{begun: func() {}, settled: func() {}},
	})
}

// isolate confirms the condition and cordons the node.
func (w *trial) isolate() policy.Verdict {
	b := w.bridge()
	if !b.Confirm(w.t.Context()) {
		return b.gate.refusal
	}
	w.later()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	return held(b.Cordon(ctx))
}

// step asks for permission to boot the node.
func (w *trial) step() policy.Verdict {
	b := w.bridge()
	w.later()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
	defer cancel()
	_, err := b.gate.admit(ctx, ticket.Reboot)
	if errors.Is(err, context.DeadlineExceeded) {
		return w.verdicts.Node(nodeA)[0].Verdict
	}
	return held(err)
}

func held(err error) policy.Verdict {
	var held *heldError
	if errors.As(err, &held) {
		return held.verdict
	}
	return policy.Verdict{}
}

// reasons returns for what the stage is reached at all.
func reasons(stage policy.Stage) []policy.Origins {
	all := []policy.Origins{policy.Alert, policy.Begun, policy.Requested, policy.Approved, policy.Check}
	switch stage {
	case policy.Entry:
		return all[1:]
	case policy.Visit:
		return append(all, policy.Intake)
	}
	return all
}

// Where nothing stands against a repair, it may go on at each stage, whatever the reason to act.
func TestNothingElseRefuses(t *testing.T) {
	for _, stage := range policy.Stages() {
		for _, origin := range reasons(stage) {
			t.Run(fmt.Sprintf("%s for %d", stage, origin), func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					v := newTrial(t, stage, origin, func(*trial) {}).ask(stage, origin)
					require.Contains(t, []policy.VerdictName{"", policy.VerdictExecute}, v.Name, v.Reason)
				})
			})
		}
	}
}

// Each guard is asked by those who act, at each of its stages and for each of its reasons to act, and at no other.
func TestEachGuardIsAskedWhereTheTableSays(t *testing.T) {
	put := obstacles()
	for _, g := range policy.Guards() {
		require.Contains(t, put, g.Name)
		for _, stage := range policy.Stages() {
			for _, origin := range reasons(stage) {
				asked := g.At(stage)&origin != 0
				if !asked && givenElsewhere(g.Verdict, stage, origin) {
					continue
				}
				t.Run(fmt.Sprintf("%s at %s for %d", g.Name, stage, origin), func(t *testing.T) {
					inBubble(t, func(t *testing.T) {
						w := newTrial(t, stage, origin, put[g.Name])
						if stage == policy.Visit && origin == policy.Alert && w.ticket != nil {
							return // The obstacle is a ticket, and so the trial is of an incident that has begun.
						}
						v := w.ask(stage, origin)
						require.Equal(t, asked, v.Name == g.Verdict, "%s: %s", v.Name, v.Reason)
					})
				})
			}
		}
	}
}

// givenElsewhere reports whether another guard gives the verdict there, or at the visit that comes before an entry.
func givenElsewhere(name policy.VerdictName, stage policy.Stage, origin policy.Origins) bool {
	return givenBy(name, stage, origin) || stage == policy.Entry && givenBy(name, policy.Visit, origin|policy.Alert)
}

// givenBy reports whether any guard gives the verdict there.
func givenBy(name policy.VerdictName, stage policy.Stage, origin policy.Origins) bool {
	return slices.ContainsFunc(policy.Guards(), func(g policy.Guard) bool { return g.Verdict == name && g.At(stage)&origin != 0 })
}
