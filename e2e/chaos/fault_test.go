package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"

	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/ticket"
)

const (
	// disableLabel keeps Aegis off a node.
	disableLabel = "aegis.io/disable"
	// pausedAnnotation is on the Lease of Aegis while everything is paused.
	pausedAnnotation = "aegis.io/paused"
	// person is who takes tickets over.
	person = "alice"
	// A trouble comes after this time.
	leastRest, mostRest = 200 * time.Millisecond, 1500 * time.Millisecond
	// callWithin bounds what a person waits for the API server.
	callWithin = 5 * time.Second
)

// errNobody says that no node qualifies for the fault.
var errNobody = errors.New("no node is fit for it")

// trouble is something that can happen to nodes at any time. What it begins it ends later by itself.
type trouble struct {
	name   string
	weight int
	do     func(*actor) error
}

// actor makes troubles until it is told to stop, and then undoes what people have to undo.
type actor struct {
	*world
	ctx    context.Context
	random *rand.Rand
	names  []string
	later  sync.WaitGroup
}

func (w *world) newActor(ctx context.Context, random *rand.Rand) *actor {
	a := &actor{world: w, ctx: ctx, random: random}
	for _, s := range w.env.Sim.States() {
		a.names = append(a.names, s.Node)
	}
	return a
}

// act makes one trouble after the other until the context ends.
func (a *actor) act() {
	all := slices.Concat(faults(), people())
	total := 0
	for _, t := range all {
		total += t.weight
	}
	for pause(a.ctx, a.between(leastRest, mostRest)) == nil {
		throw := a.random.IntN(total)
		for _, t := range all {
			if throw -= t.weight; throw < 0 {
				a.eventLog.note(t.name, t.do(a))
				break
			}
		}
	}
	a.later.Wait()
}

func (a *actor) between(least, most time.Duration) time.Duration {
	return least + time.Duration(a.random.Int64N(int64(most-least)))
}

// after does something later, at the latest when the misfortune ends.
func (a *actor) after(d time.Duration, do func()) {
	a.later.Go(func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-a.ctx.Done():
		}
		do()
	})
}

// faults are what the machines may suffer.
func faults() []trouble {
	fault := func(weight int, gpu bool, by nodesim.FixedBy, names ...string) trouble {
		name := "fault " + strings.Join(names, "+")
		if by != "" {
			name += " (" + string(by) + ")"
		}
		return trouble{name, weight, func(a *actor) error { return a.inject(a.machine(gpu), by, 0, names...) }}
	}
	passing := func(weight int, names ...string) trouble {
		return trouble{"passing " + strings.Join(names, "+"), weight, func(a *actor) error {
			return a.inject(a.machine(false), "", a.between(3*time.Second, 40*time.Second), names...)
		}}
	}
	return []trouble{
		fault(6, true, nodesim.FixedByReboot, nodesim.GPUHung),
		fault(2, true, nodesim.FixedByNever, nodesim.GPUHung),
		fault(2, true, nodesim.FixedByReboot, nodesim.GPUHung, nodesim.HealthcheckGPU),
		fault(1, true, nodesim.FixedByReboot, nodesim.GPUHung, nodesim.RebootIgnored),
		fault(1, true, nodesim.FixedByReboot, nodesim.GPUHung, nodesim.SystemctlBroken),
		fault(1, true, nodesim.FixedByReboot, nodesim.GPUHung, nodesim.BootHangs),
		fault(3, true, nodesim.FixedByReboot, nodesim.GPULost),
		fault(3, true, "", nodesim.XIDFault(95)),
		fault(1, true, nodesim.FixedByReboot, nodesim.XIDFault(95)),
		fault(2, true, "", nodesim.DevicePluginDown),
		fault(2, true, "", nodesim.IBFlapping),
		fault(4, false, "", nodesim.CreateContainerErrors),
		fault(2, false, nodesim.FixedByReboot, nodesim.CreateContainerErrors),
		fault(1, false, "", nodesim.BondSlaveDown),
		passing(2, nodesim.BondSlaveDown),
		passing(5, nodesim.MemoryPressure),
		passing(3, nodesim.NotReady),
		passing(3, nodesim.NetworkLost),
		passing(2, nodesim.KubeletStuck),
		passing(2, nodesim.GPUHung),
		{"kernel panic", 2, (*actor).panics},
		{"power cycle", 1, (*actor).powerCycle},
	}
}

// machine picks one, with GPUs if it has to have some.
func (a *actor) machine(gpu bool) string {
	for {
		name := a.names[a.random.IntN(len(a.names))]
		if !gpu || hasGPUs(name[:strings.LastIndex(name, "-")]) {
			return name
		}
	}
}

// inject gives the machine faults. They pass by themselves after the given time, unless that is zero.
func (a *actor) inject(node string, by nodesim.FixedBy, passAfter time.Duration, names ...string) error {
	state, err := a.env.Sim.State(node)
	if err != nil {
		return err
	}
	for i, name := range names {
		injection := nodesim.Injection{Fault: name}
		if i == 0 {
			injection.FixedBy = by
		}
		if state.GPUs > 0 && strings.Contains(name, "gpu") {
			injection.GPU = a.random.IntN(state.GPUs)
		}
		if err := a.env.Sim.Inject(node, injection); err != nil {
			return err
		}
	}
	if passAfter > 0 {
		a.after(passAfter, func() { a.eventLog.note("fault passed", a.env.Sim.Clear(node, names...)) })
	}
	return nil
}

func (a *actor) panics() error {
	node := a.machine(false)
	if s, err := a.env.Sim.State(node); err != nil || s.Power != nodesim.PowerOn {
		return errors.Join(err, errNobody)
	}
	a.eventLog.booted(node)
	if err := a.env.Sim.Inject(node, nodesim.Injection{Fault: nodesim.KernelPanic}); err != nil {
		return err
	}
	// It boots twice: the problem outlives its own boot.
	a.after(20*time.Second, func() { a.eventLog.note("fault passed", a.env.Sim.Clear(node, nodesim.KernelPanic)) })
	return nil
}

// powerCycle is a person at the machine who switches it off, and later on again.
func (a *actor) powerCycle() error {
	node := a.machine(false)
	if err := a.env.Sim.Power(node, false); err != nil {
		return err
	}
	a.after(a.between(5*time.Second, 40*time.Second), func() { a.eventLog.note("power on", a.powerOn(node)) })
	return nil
}

func (a *actor) powerOn(node string) error {
	s, err := a.env.Sim.State(node)
	if err != nil || s.Power != nodesim.PowerOff {
		return err
	}
	a.eventLog.booted(node)
	return a.env.Sim.Power(node, true)
}

// people are what operators may do at any time.
func people() []trouble {
	return []trouble{
		{"person cordons for a while", 2, (*actor).cordon},
		{"person cordons for good", 1, (*actor).cordonForGood},
		{"person uncordons a cordon of Aegis", 1, (*actor).uncordonOfAegis},
		{"person excludes", 2, (*actor).exclude},
		{"person pauses everything", 1, (*actor).pauseAll},
		{"person silences", 3, (*actor).silence},
		{"person takes over and gives back", 2, (*actor).takeOver},
		{"person takes over for good", 1, (*actor).takeOverForGood},
		{"person removes a ticket", 1, (*actor).removeTicket},
		{"person repairs what was handed over", 4, (*actor).repair},
	}
}

// edit changes a node that is fit for it, as kubectl edit does: not if somebody else was faster.
func (a *actor) edit(fit func(ticket.Record) bool, change func(*corev1.Node)) (node string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), callWithin)
	defer cancel()
	list, err := a.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	for _, i := range a.random.Perm(len(list.Items)) {
		n := &list.Items[i]
		if !fit(ticket.ReadNode(n)) {
			continue
		}
		change(n)
		_, err := a.client.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{})
		return n.Name, err
	}
	return "", errNobody
}

// insist tries until it works.
func insist(try func() error) error {
	backoff := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Steps: 20, Cap: 5 * time.Second}
	return retry.OnError(backoff, func(error) bool { return true }, try)
}

// change changes a named node, as a person who tries until it works.
func (a *actor) change(node string, change func(*corev1.Node)) error {
	return insist(func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), callWithin)
		defer cancel()
		n, err := a.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(n)
		_, err = a.client.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{})
		return err
	})
}

func inService(r ticket.Record) bool { return r.Ticket == nil && !r.Node.Spec.Unschedulable }

func withAegis(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Owned() }

func handedOver(r ticket.Record) bool {
	return r.Ticket != nil && !r.Ticket.Owned() && r.Ticket.Supervisor != person
}

func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }

func (a *actor) cordonForGood() error {
	_, err := a.edit(inService, cordoned)
	return err
}

func (a *actor) cordon() error {
	node, err := a.edit(inService, cordoned)
	if err == nil {
		a.after(a.between(10*time.Second, time.Minute), func() {
			a.eventLog.note("person uncordons", a.change(node, func(n *corev1.Node) { n.Spec.Unschedulable = false }))
		})
	}
	return err
}

func (a *actor) uncordonOfAegis() error {
	_, err := a.edit(func(r ticket.Record) bool { return withAegis(r) && r.Node.Spec.Unschedulable },
		func(n *corev1.Node) { n.Spec.Unschedulable = false })
	return err
}

func (a *actor) exclude() error {
	node, err := a.edit(func(r ticket.Record) bool { return r.Node.Labels[disableLabel] == "" },
		func(n *corev1.Node) { n.Labels[disableLabel] = "true" })
	if err == nil {
		a.after(a.between(10*time.Second, time.Minute), func() {
			a.eventLog.note("person includes", a.change(node, func(n *corev1.Node) { delete(n.Labels, disableLabel) }))
		})
	}
	return err
}

// pauseAll writes on the Lease, as kubectl annotate does.
func (a *actor) pauseAll() error {
	if a.eventLog.open(pausedTimes) {
		return errNobody
	}
	if err := a.annotateLease("chaos"); err != nil {
		return err
	}
	a.eventLog.begin(pausedTimes)
	a.after(a.between(20*time.Second, 30*time.Second), func() {
		a.eventLog.end(pausedTimes)
		a.eventLog.note("person resumes", insist(func() error { return a.annotateLease(nil) }))
	})
	return nil
}

func (a *actor) annotateLease(why any) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), callWithin)
	defer cancel()
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{pausedAnnotation: why}}})
	if err != nil {
		return err
	}
	_, err = a.client.CoordinationV1().Leases("monitoring").Patch(ctx, "aegis", types.MergePatchType, body, metav1.PatchOptions{})
	return err
}

func (a *actor) silence() error {
	node := a.machine(false)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), callWithin)
	defer cancel()
	id, err := a.env.Monitoring.Silence(ctx, map[string]string{"node": node}, time.Hour)
	if err != nil {
		return err
	}
	end := a.eventLog.silence(node)
	a.after(a.between(15*time.Second, time.Minute), func() {
		end()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), callWithin)
		defer cancel()
		a.eventLog.note("silence expires", a.env.Monitoring.Expire(ctx, id))
	})
	return nil
}

// supervised returns a change of the ticket's supervisor, made in the text as an editor does.
func supervised(by string) func(*corev1.Node) {
	line := regexp.MustCompile(`(?m)^supervisor:.*$`)
	return func(n *corev1.Node) {
		if text, found := n.Annotations[ticket.Annotation]; found {
			n.Annotations[ticket.Annotation] = line.ReplaceAllString(text, "supervisor: "+by)
		}
	}
}

func (a *actor) takeOverForGood() error {
	_, err := a.edit(withAegis, supervised(person))
	return err
}

func (a *actor) takeOver() error {
	node, err := a.edit(withAegis, supervised(person))
	if err == nil {
		a.after(a.between(5*time.Second, 40*time.Second), func() {
			a.eventLog.note("person gives back", a.change(node, supervised(ticket.Self)))
		})
	}
	return err
}

func (a *actor) removeTicket() error {
	_, err := a.edit(withAegis, func(n *corev1.Node) { delete(n.Annotations, ticket.Annotation) })
	return err
}

// repair is a team that gets a node in order that was handed over to it, and gives it back.
func (a *actor) repair() error {
	node, err := a.edit(handedOver, func(n *corev1.Node) { n.Labels["e2e.aegis.io/repaired"] = "true" })
	if err != nil {
		return err
	}
	if err := errors.Join(a.env.Sim.Clear(node), a.powerOn(node)); err != nil {
		return fmt.Errorf("repair: %w", err)
	}
	return a.change(node, supervised(ticket.Self))
}

// poolOf returns the pool of a node.
func poolOf(n *corev1.Node) string { return n.Labels[cluster.PoolLabel] }
