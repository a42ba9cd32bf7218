package sop

import (
	"context"
	"log/slog"
	"maps"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// ApiBridge gives one procedure its steps on one node. Each step is journaled on the node's ticket: a step that had
// succeeded before a restart returns at once, one that had failed fails again, one that was running is resumed. A bridge
// serves one incident and one goroutine.
type ApiBridge struct { //nolint:revive // The name is part of the interface that plugins are written against.
	*scene
	executor   executor
	operations *operations
	// drained is set once the workload is gone as the policy wants it.
	drained bool
	// cleared is what the procedure has cleared off the node so far. A remedy that comes after it needs it to be so still.
	cleared clearance
	// checked is true while the last healthcheck passed and nothing destructive was done since.
	checked bool
}

// newBridge returns a bridge that carries the steps of the assignment out.
func newBridge(e environment, a assignment) *ApiBridge {
	scene := newScene(e, a)
	calls, found := make(map[ticket.Action]int), make(map[ticket.Action]int)
	if t := scene.journal.ticket(); t != nil {
		maps.Copy(calls, t.Past)
		for _, action := range ticket.Actions() {
			found[action] = t.Count(action)
		}
	}
	scene.keeps.Store(scene.journal.isolated())
	node := &machine{scene: scene}
	return &ApiBridge{scene: scene, executor: &journaled{machine: node, calls: calls, found: found}, operations: &operations{node}}
}

// newPlan returns a bridge that notes the steps in the dry run.
func newPlan(e environment, status prom.AegisNodeStatus, run *dryRun) *ApiBridge {
	scene := newScene(e, assignment{status: status})
	return &ApiBridge{scene: scene, executor: run, operations: &operations{&machine{scene: scene}}}
}

// Node returns the name of the node.
func (b *ApiBridge) Node() string { return b.node }

// Status returns the condition that the procedure repairs.
func (b *ApiBridge) Status() prom.AegisNodeStatus { return b.status.Clone() }

// Policy returns what the procedure may do.
func (b *ApiBridge) Policy() prom.Policy { return b.status.Policy }

// Reason returns why the incident was opened, in the words of its ticket.
func (b *ApiBridge) Reason() string { return b.journal.incident.reason }

// Snapshot returns the node as the journal has last seen it, nil while the steps are only planned. It is read-only.
func (b *ApiBridge) Snapshot() *corev1.Node { return b.journal.record.Node }

// Logger returns the logger of the incident.
func (b *ApiBridge) Logger() *slog.Logger { return b.logger }

// do is the one door through which every step goes.
func (b *ApiBridge) do(ctx context.Context, s step) error {
	if s.action.Destructive() {
		b.checked = false
	}
	err := b.listed(ctx, func() error { return b.executor.execute(ctx, s) })
	if s.action == ticket.Healthcheck {
		b.checked = err == nil
	}
	return err
}

// nodeReference names a node in an Event, so that kubectl describe shows the Event with the node.
func nodeReference(node *corev1.Node) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: node.Name, UID: node.UID}
}
