package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/e2e/testenv"
	"aegis.io/aegis/ticket"
)

const (
	// sceneTimeout bounds one incident.
	sceneTimeout = 4 * time.Minute
	lookEvery    = 100 * time.Millisecond
)

// scene is one incident of the story.
type scene struct {
	node, fault, condition string
	// fixedBy overrides what repairs the fault. Empty leaves it.
	fixedBy nodesim.FixedBy
	// source is the source that finds it by a query. Empty where an alert tells of it.
	source string
	// about says what is broken, in a sentence.
	about string
	// clearAfter takes the fault away by itself once the node is isolated. Zero never does.
	clearAfter time.Duration
	// jobsEnd ends the training jobs on the node by themselves once it is isolated.
	jobsEnd bool
	// ends is who has the node in the end: a team, or empty for back in service.
	ends string
}

func scenes() []scene {
	return []scene{
		{
			node: "gpu-03", fault: nodesim.GPUHung, condition: "GpuHung", fixedBy: nodesim.FixedByReboot,
			about: "A GPU is hung: busy, cold, and moving no data. A boot helps.",
		},
		{
			node: "gpu-09", fault: nodesim.XIDFault(95), condition: "Xid95UncontainedECCError",
			about: "Uncontained ECC error, XID 95. A reset of the GPU is enough, no boot is needed.",
		},
		{
			node: "gpu-12", fault: nodesim.DevicePluginDown, condition: "GpuRegisterFailed",
			about: "The device plugin offers no GPU to the scheduler. Its pod is restarted, the node stays in service.",
		},
		{
			node: "gpu-17", fault: nodesim.CreateContainerErrors, condition: "KubeletFailedCreatePodContainer",
			about: "The kubelet fails to start containers. It is restarted in place.",
		},
		{
			node: "gpu-20", fault: nodesim.NotReady, condition: "NodeNotReady", clearAfter: 8 * time.Second,
			about: "The node stops being ready, and comes back by itself. It is checked before it is returned.",
		},
		{
			node: "gpu-23", fault: nodesim.HighLoad, condition: "NodeOverloaded", source: "overload", clearAfter: 8 * time.Second,
			about: "The node is overloaded. No alert says so: Aegis finds it by a query. New pods are kept away until the load is gone.",
		},
		{
			node: "gpu-05", fault: nodesim.IBFlapping, condition: "IBLinkFrequentDown", jobsEnd: true, ends: "network",
			about: "An InfiniBand link flaps. No software mends a cable: the jobs end, then people take over.",
		},
		{
			node: "gpu-14", fault: nodesim.GPULost, condition: "Xid79GPULost", fixedBy: nodesim.FixedByNever, ends: "gpu",
			about: "A GPU falls off the bus, XID 79, and a boot does not bring it back. The node is powered off for people.",
		},
	}
}

// result is how a scene ended.
type result struct {
	scene   scene
	took    time.Duration
	ending  string
	stepped string
	err     error
}

// tell plays the scenes and returns how each ended. Only the end of the demo itself is an error.
func tell(ctx context.Context, say printer, l *testenv.Environment) ([]result, error) {
	var ended []result
	for i, s := range scenes() {
		say.title("%d/%d  %s  %s", i+1, len(scenes()), s.node, s.about)
		r := play(ctx, say, l, s)
		if ctx.Err() != nil {
			return ended, context.Cause(ctx)
		}
		if r.err != nil {
			say.line("%s%v", mark(false), r.err)
		}
		ended = append(ended, r)
	}
	return ended, nil
}

// play breaks a node and follows it to the end.
func play(ctx context.Context, say printer, l *testenv.Environment, s scene) result {
	ctx, cancel := context.WithTimeout(ctx, sceneTimeout)
	defer cancel()
	f := follower{env: l, scene: s, say: say, began: time.Now(), told: make(map[string]bool)}
	if err := l.Sim.Inject(s.node, nodesim.Injection{Fault: s.fault, FixedBy: s.fixedBy}); err != nil {
		return result{scene: s, err: err}
	}
	f.tell("fault", "%s injected", s.fault)
	ending, err := f.follow(ctx)
	r := result{scene: s, took: time.Since(f.began), ending: ending, stepped: f.steps(), err: err}
	if err == nil && s.source != "" && !f.told["source"] {
		r.err = fmt.Errorf("was not found by source %s", s.source)
	}
	if err == nil && ending != s.wanted() {
		r.err = fmt.Errorf("ended as %q, not as %q", ending, s.wanted())
	}
	return r
}

func (s scene) wanted() string {
	if s.ends == "" {
		return "back in service"
	}
	return "with team " + s.ends
}

// follower watches one node and tells each thing once, when it is first seen.
type follower struct {
	env   *testenv.Environment
	scene scene
	say   printer
	began time.Time
	told  map[string]bool
	// journal is the last ticket that was seen.
	journal *ticket.Ticket
	cleared bool
}

func (f *follower) tell(what, format string, args ...any) {
	f.say.event(time.Since(f.began), what, fmt.Sprintf(format, args...))
}

// once tells something the first time only.
func (f *follower) once(key, what, format string, args ...any) {
	if !f.told[key] {
		f.told[key] = true
		f.tell(what, format, args...)
	}
}

// follow returns how the incident ended.
func (f *follower) follow(ctx context.Context) (string, error) {
	for {
		ending, err := f.look(ctx)
		if ending != "" || err != nil {
			return ending, err
		}
		select {
		case <-ctx.Done():
			return "", errors.New("did not end in time")
		case <-time.After(lookEvery):
		}
	}
}

func (f *follower) look(ctx context.Context) (ending string, err error) {
	node, err := f.env.Cluster.Client().CoreV1().Nodes().Get(ctx, f.scene.node, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("read node: %w", err)
	}
	f.tellAlert(ctx)
	r := ticket.ReadNode(node)
	if r.Broken != nil {
		return "", r.Broken
	}
	if r.Ticket != nil && r.Ticket.Condition == f.scene.condition {
		f.tellTicket(r)
		return f.handedOver(r), errors.Join(f.clear(r), f.endJobs(ctx, r))
	}
	return f.closed(r), nil
}

// tellAlert tells when the alert of the scene is seen to fire.
func (f *follower) tellAlert(ctx context.Context) {
	if f.told["alert"] {
		return
	}
	firing, err := f.env.Monitoring.Firing(ctx)
	if err != nil {
		return
	}
	for _, a := range firing {
		if a.State == "firing" && a.Labels["node"] == f.scene.node && a.Labels["condition"] == f.scene.condition {
			f.once("alert", "alert", "%s fires in Prometheus and goes through Alertmanager", a.Name)
		}
	}
}

func (f *follower) tellTicket(r ticket.Record) {
	f.journal = r.Ticket
	if f.scene.source != "" && r.Ticket.Source == f.scene.source {
		f.once("source", "source", "%s finds it with a query of PromQL, without an alert: %s", r.Ticket.Source, r.Ticket.Reason)
	}
	f.once("ticket", "ticket", "%s, procedure %s", r.Ticket.ID, r.Ticket.SOP)
	counts := make(map[ticket.Action]int)
	for _, s := range r.Ticket.Workflows {
		counts[s.Action]++
		if s.Status == ticket.Running {
			f.once(fmt.Sprint(s.Action, counts[s.Action], "running"), string(s.Action), "...")
			continue
		}
		f.once(fmt.Sprint(s.Action, counts[s.Action]), string(s.Action), "%s  %s", s.Status, s.Message)
	}
	if hold := r.Ticket.Hold; hold != "" {
		f.once("hold"+hold, "held", "%s", hold)
	}
}

func (f *follower) handedOver(r ticket.Record) string {
	if r.Ticket.Status != ticket.StatusAssigned {
		return ""
	}
	f.tell("people", "team %s: %s", r.Ticket.Supervisor, r.Ticket.Reason)
	return "with team " + r.Ticket.Supervisor
}

// clear takes a fault away that passes by itself.
func (f *follower) clear(r ticket.Record) error {
	if f.cleared || f.scene.clearAfter == 0 || !r.Node.Spec.Unschedulable || time.Since(f.began) < f.scene.clearAfter {
		return nil
	}
	f.cleared = true
	f.tell("fault", "passes by itself")
	return f.env.Sim.Clear(f.scene.node, f.scene.fault)
}

// jobTime is how long the training jobs of the story still run.
const jobTime = 6 * time.Second

// endJobs lets the training jobs on the node end by themselves.
func (f *follower) endJobs(ctx context.Context, r ticket.Record) error {
	if f.cleared || !f.scene.jobsEnd || !r.Node.Spec.Unschedulable || time.Since(f.began) < jobTime {
		return nil
	}
	f.cleared = true
	n, err := completeJobs(ctx, f.env, f.scene.node)
	f.tell("jobs", "%d training jobs end by themselves", n)
	return err
}

// closed reports a healed node: the ticket is in the history, and the node takes work again.
func (f *follower) closed(r ticket.Record) string {
	for _, i := range r.History.Incidents {
		if i.Condition != f.scene.condition || i.Outcome != "resolved" {
			continue
		}
		if r.Node.Spec.Unschedulable {
			return "left cordoned"
		}
		f.tell("resolved", "node is back in service, boot ID %.8s", r.Node.Status.NodeInfo.BootID)
		return "back in service"
	}
	return ""
}

// steps lists what was done, for the summary.
func (f *follower) steps() string {
	if f.journal == nil {
		return ""
	}
	text := ""
	for _, s := range f.journal.Workflows {
		if text != "" {
			text += " > "
		}
		text += string(s.Action)
		if s.Status == ticket.Failed {
			text += "(failed)"
		}
	}
	return text
}
