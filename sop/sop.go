// Package sop decides what may be done to a node and does it: the procedures' interface, the steps that they are
// made of, the limits, and the dispatcher that runs one procedure per node at a time.
package sop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"aegis.io/aegis/rules/prom"
)

// SOP is the procedure that repairs one condition. A factory makes a fresh instance per incident, so an instance may
// keep its bridge.
type SOP interface {
	// CreateInstance gives the instance its bridge to the cluster.
	CreateInstance(ctx context.Context, bridge *ApiBridge) error
	// Evaluate observes anew and reports whether the condition still holds and may be acted on.
	Evaluate(ctx context.Context, node string, status *prom.AegisNodeStatus) bool
	// Execute runs the steps. It is called again from the top after a restart; finished steps return at once.
	Execute(ctx context.Context, node string, status *prom.AegisNodeStatus) error
}

// Factory makes a fresh instance of a procedure.
type Factory func() SOP

// Procedures are the procedures by their names. The dispatcher looks a name up anew at each decision, so that an implementation may
// change while Aegis runs, as one that reads runbooks from files. A name that has gone is decided on as one that never was.
type Procedures interface {
	// Lookup returns the factory of the procedure.
	Lookup(name string) (Factory, bool)
	// Names returns all names, sorted.
	Names() []string
}

// Remediation says how a procedure carries out the remedy or the repair that the policy of its condition names.
type Remediation string

// The ways in which a procedure does it.
const (
	RemediatesNothing  Remediation = ""         // It carries out nothing that the policy names.
	RemediatesInPlace  Remediation = "in place" // Under the workload of a node in service.
	RemediatesIsolated Remediation = "isolated" // On a cordoned node, whose workload has gone as the policy says.
)

// RemediationOf returns how the named procedure does it.
func RemediationOf(p Procedures, name string) Remediation {
	remediates, ok := instance[interface{ Remediates() Remediation }](p, name)
	if !ok {
		return RemediatesNothing
	}
	return remediates.Remediates()
}

// onlyNotifies reports whether the named procedure is known never to touch the node.
func onlyNotifies(p Procedures, name string) bool {
	notifier, ok := instance[interface{ OnlyNotifies() bool }](p, name)
	return ok && notifier.OnlyNotifies()
}

// instance returns a fresh instance of the named procedure, if there is one that has the methods of T.
func instance[T any](p Procedures, name string) (T, bool) {
	factory, found := p.Lookup(name)
	if !found {
		var none T
		return none, false
	}
	of, ok := factory().(T)
	return of, ok
}

// Table maps the names of procedures, such as "gpu/hung", to their factories.
type Table map[string]Factory

var _ Procedures = Table(nil)

// Lookup returns the factory of the procedure.
func (t Table) Lookup(name string) (Factory, bool) {
	factory, found := t[name]
	return factory, found
}

// Names returns the names of the table, sorted.
func (t Table) Names() []string { return slices.Sorted(maps.Keys(t)) }

// Merge returns one table of the procedures of all tables. A name that two of them have, or one without a factory, is an
// error: which of the two would repair a node must not depend on the order of the tables.
func Merge(tables ...Table) (Table, error) {
	merged := make(Table)
	var errs []error
	for _, t := range tables {
		for _, name := range t.Names() {
			switch _, taken := merged[name]; {
			case taken:
				errs = append(errs, fmt.Errorf("procedure %q is registered twice, give one of them another name", name))
			case t[name] == nil:
				errs = append(errs, fmt.Errorf("procedure %q has no factory", name))
			default:
				merged[name] = t[name]
			}
		}
	}
	return merged, errors.Join(errs...)
}

// Procedure is an SOP whose steps are one function of the bridge. Plugins are built from it, so that a plugin is the
// runbook of its condition and nothing else.
type Procedure struct {
	bridge *ApiBridge
	steps  func(ctx context.Context, b *ApiBridge) error
	// onlyNotifies is true for one that never touches the node.
	onlyNotifies bool
	// remediates says how it carries out what the policy of its condition names.
	remediates Remediation
}

var _ SOP = (*Procedure)(nil)

// NewProcedure returns a procedure that confirms its condition at the source and then runs the steps.
func NewProcedure(steps func(ctx context.Context, b *ApiBridge) error) *Procedure {
	return &Procedure{steps: steps}
}

// NewRemediating returns a procedure that carries out the remedy or the repair which the policy of its condition names. A condition
// with such a procedure has to name one, and one with another procedure must not.
func NewRemediating(how Remediation, steps func(ctx context.Context, b *ApiBridge) error) *Procedure {
	return &Procedure{steps: steps, remediates: how}
}

// Remediates says how the procedure carries out what the policy of its condition names.
func (p *Procedure) Remediates() Remediation { return p.remediates }

// OnlyNotifies reports whether the procedure never touches the node.
func (p *Procedure) OnlyNotifies() bool { return p.onlyNotifies }

// CreateInstance keeps the bridge.
func (p *Procedure) CreateInstance(_ context.Context, bridge *ApiBridge) error {
	if bridge == nil {
		return fmt.Errorf("a procedure needs a bridge")
	}
	p.bridge = bridge
	return nil
}

// Evaluate asks Prometheus and Alertmanager whether the condition still holds and may be acted on.
func (p *Procedure) Evaluate(ctx context.Context, _ string, _ *prom.AegisNodeStatus) bool {
	return p.bridge.Confirm(ctx)
}

// Execute runs the steps.
func (p *Procedure) Execute(ctx context.Context, _ string, _ *prom.AegisNodeStatus) error {
	return p.steps(ctx, p.bridge)
}
