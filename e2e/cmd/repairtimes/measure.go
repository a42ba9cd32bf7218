package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/e2e/monitoring"
	"aegis.io/aegis/e2e/nodesim"
	"aegis.io/aegis/e2e/testenv"
	"aegis.io/aegis/ticket"
)

const (
	// within bounds the whole measurement.
	within    = 75 * time.Minute
	lookEvery = 500 * time.Millisecond
	// settle is how long everything is healthy before the first fault.
	settle = time.Minute
	// watched is how long Prometheus must have watched a GPU before the birth of a counter counts as an event.
	watched = 10*time.Minute + 2*scrapeInterval
)

// scene is one fault to measure.
type scene struct {
	node, fault, condition string
	// after is when it is injected, counted from the start of Prometheus.
	after time.Duration
	// repairs are the actions that repair the condition. None means that it passes by itself, passes after the cordon.
	repair ticket.Action
	passes time.Duration
}

func scenes() []scene {
	return []scene{
		{node: "gpu-down", fault: nodesim.GPUMissing, condition: "GpuDown", after: settle, repair: ticket.Reboot},
		{node: "gpu-hung", fault: nodesim.GPUHung, condition: "GpuHung", after: settle, repair: ticket.Reboot},
		{node: "not-ready", fault: nodesim.NetworkLost, condition: "NodeNotReady", after: settle, passes: 10 * time.Second},
		{node: "xid-79", fault: nodesim.XIDFault(79), condition: "Xid79GPULost", after: watched, repair: ticket.Reboot},
	}
}

// stage is a point on the way of a repair.
type stage string

// The stages, in their order.
const (
	stageFault    stage = "fault"
	stageAlert    stage = "alert"
	stageCordon   stage = "cordon"
	stageEmpty    stage = "empty"
	stageRepaired stage = "repaired"
	stageProven   stage = "proven"
	stageReturned stage = "returned"
)

func stages() []stage {
	return []stage{stageFault, stageAlert, stageCordon, stageEmpty, stageRepaired, stageProven, stageReturned}
}

// course is when one scene reached each stage.
type course struct {
	scene scene
	at    map[stage]time.Time
	// unanswered is why Prometheus could not be asked for the alert the last time.
	unanswered error
}

// reach notes when a stage was seen first.
func (c *course) reach(out io.Writer, s stage) {
	if _, ok := c.at[s]; ok {
		return
	}
	c.at[s] = time.Now()
	fmt.Fprintf(out, "%s  %-14s %-9s %s\n", c.at[s].UTC().Format(time.TimeOnly), c.scene.condition, s, c.since(s))
}

// since returns how long after the fault the stage was reached.
func (c *course) since(s stage) time.Duration {
	return c.at[s].Sub(c.at[stageFault]).Round(time.Second)
}

func (c *course) done() bool { _, ok := c.at[stageReturned]; return ok }

// measure plays all scenes at once.
func measure(ctx context.Context, out io.Writer, l *testenv.Environment) ([]*course, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	began := time.Now()
	var all []*course
	for _, s := range scenes() {
		all = append(all, &course{scene: s, at: make(map[stage]time.Time)})
	}
	for {
		open := 0
		for _, c := range all {
			if c.done() {
				continue
			}
			open++
			if err := c.look(ctx, out, l, began); err != nil {
				return all, fmt.Errorf("%s: %w", c.scene.condition, err)
			}
		}
		if open == 0 {
			return all, nil
		}
		select {
		case <-ctx.Done():
			return all, errors.Join(errors.New("not all nodes were returned in time"), unasked(all))
		case <-time.After(lookEvery):
		}
	}
}

// unasked tells of the courses whose alert was never seen why Prometheus could not be asked for it.
func unasked(all []*course) error {
	var errs []error
	for _, c := range all {
		if _, ok := c.at[stageAlert]; !ok && c.unanswered != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.scene.condition, c.unanswered))
		}
	}
	return errors.Join(errs...)
}

func (c *course) look(ctx context.Context, out io.Writer, l *testenv.Environment, began time.Time) error {
	if _, ok := c.at[stageFault]; !ok {
		if time.Since(began) < c.scene.after {
			return nil
		}
		c.reach(out, stageFault)
		return l.Sim.Inject(c.scene.node, nodesim.Injection{Fault: c.scene.fault})
	}
	c.lookForAlert(ctx, out, l)
	node, err := l.Cluster.Client().CoreV1().Nodes().Get(ctx, c.scene.node, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read node: %w", err)
	}
	r := ticket.ReadNode(node)
	if r.Broken != nil {
		return r.Broken
	}
	if node.Spec.Unschedulable {
		c.reach(out, stageCordon)
	}
	if r.Ticket != nil {
		c.lookAtTicket(out, r.Ticket)
	}
	return errors.Join(c.pass(out, l), c.lookForReturn(out, r))
}

// lookForAlert asks for the alert until it fires. A Prometheus that is busy is asked again.
func (c *course) lookForAlert(ctx context.Context, out io.Writer, l *testenv.Environment) {
	if _, ok := c.at[stageAlert]; ok {
		return
	}
	var firing []monitoring.Alert
	firing, c.unanswered = l.Monitoring.Firing(ctx)
	for _, a := range firing {
		if a.State == "firing" && a.Labels["node"] == c.scene.node && a.Labels["condition"] == c.scene.condition {
			c.reach(out, stageAlert)
		}
	}
}

func (c *course) lookAtTicket(out io.Writer, t *ticket.Ticket) {
	for _, s := range t.Workflows {
		if s.Status != ticket.Succeeded {
			continue
		}
		switch s.Action {
		case ticket.Drain, ticket.DrainGPU:
			c.reach(out, stageEmpty)
		case c.scene.repair:
			c.reach(out, stageRepaired)
		case ticket.Healthcheck:
			c.reach(out, stageProven)
		}
	}
}

// pass takes away a fault that passes by itself.
func (c *course) pass(out io.Writer, l *testenv.Environment) error {
	cordoned, ok := c.at[stageCordon]
	if _, gone := c.at[stageRepaired]; c.scene.passes == 0 || !ok || gone || time.Since(cordoned) < c.scene.passes {
		return nil
	}
	c.reach(out, stageRepaired)
	return l.Sim.Clear(c.scene.node, c.scene.fault)
}

// lookForReturn notes the return of a healed node. A node that people got instead is an error.
func (c *course) lookForReturn(out io.Writer, r ticket.Record) error {
	if r.Ticket != nil && r.Ticket.Status == ticket.StatusAssigned {
		return fmt.Errorf("handed over to %s: %s", r.Ticket.Supervisor, r.Ticket.Reason)
	}
	for _, i := range r.History.Incidents {
		if i.Condition == c.scene.condition && i.Outcome == "resolved" && !r.Node.Spec.Unschedulable {
			c.reach(out, stageProven)
			c.reach(out, stageReturned)
		}
	}
	return nil
}

// startWorkload runs a pod on each node that must be emptied.
func startWorkload(ctx context.Context, l *testenv.Environment) error {
	pods := l.Cluster.Client().CoreV1().Pods(corev1.NamespaceDefault)
	for _, s := range scenes() {
		_, err := pods.Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "trainer-" + s.node, Labels: map[string]string{"app": "trainer"}},
			Spec: corev1.PodSpec{
				NodeName: s.node, TerminationGracePeriodSeconds: new(int64(1)),
				Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
				Containers:  []corev1.Container{{Name: "trainer", Image: "example/trainer:1"}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("start workload: %w", err)
		}
	}
	return nil
}

// printTable writes when each stage was reached, counted from the fault.
func printTable(out io.Writer, all []*course) {
	fmt.Fprint(out, "| condition |")
	for _, s := range stages()[1:] {
		fmt.Fprintf(out, " %s |", s)
	}
	fmt.Fprintln(out)
	for _, c := range all {
		fmt.Fprintf(out, "| %s |", c.scene.condition)
		for _, s := range stages()[1:] {
			text := "-"
			if _, ok := c.at[s]; ok {
				text = c.since(s).String()
			}
			fmt.Fprintf(out, " %s |", text)
		}
		fmt.Fprintln(out)
	}
}
