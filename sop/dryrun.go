package sop

import (
	"context"
	"fmt"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// dryRun is the executor that only writes down the steps. It answers as if each of them had gone well, on a node that Aegis may act on
// and that is not what it was before.
type dryRun struct {
	steps    []string
	cordoned bool
}

func (d *dryRun) execute(_ context.Context, s step) error {
	d.steps = append(d.steps, planned(s))
	d.cordoned = d.cordoned || s.action == ticket.Cordon
	return nil
}

func planned(s step) string {
	if s.detail == "" {
		return string(s.action)
	}
	return fmt.Sprintf("%s (%s)", s.action, s.detail)
}

func (d *dryRun) withdraw(_ context.Context, _ ticket.Action, why error) error { return why }

func (d *dryRun) confirm(context.Context) bool                       { return true }
func (d *dryRun) hasCordoned() bool                                  { return d.cordoned }
func (d *dryRun) unharmed() bool                                     { return true }
func (d *dryRun) full(context.Context) (bool, error)                 { return false, nil }
func (d *dryRun) vanished(context.Context) bool                      { return false }
func (d *dryRun) rebootsLeft() bool                                  { return true }
func (d *dryRun) recovery() prom.XIDClass                            { return "" }
func (d *dryRun) reopen(_ context.Context, failure *StepError) error { return failure }
