package main

import (
	"context"
	"errors"
	"fmt"

	"aegis.io/aegis/handler"
	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// The values that say where a pause or a mode comes from.
const (
	sourceAPI    = "api"
	sourceConfig = "config"
)

// orders takes what people order over the API to the dispatcher.
type orders struct {
	dispatcher *sop.Dispatcher
	rules      *rules.Store
	queue      *queue.Queue
	settings   func() policy.Settings
}

// Pause says whether everything is paused.
func (o orders) Pause(context.Context) (handler.PauseView, error) {
	if pause := o.dispatcher.Orders().Pause; pause != nil {
		return handler.PauseView{Paused: true, By: pause.By, Reason: pause.Reason, Since: pause.At, Source: sourceAPI}, nil
	}
	if o.settings().Paused {
		return handler.PauseView{Paused: true, Source: sourceConfig}, nil
	}
	return handler.PauseView{}, nil
}

// SetPause pauses everything.
func (o orders) SetPause(ctx context.Context, by handler.Order) error {
	return o.dispatcher.Pause(ctx, policy.Order{By: by.By, Reason: by.Reason})
}

// Resume ends a pause, unless it is the configuration's.
func (o orders) Resume(ctx context.Context, by string) error {
	if o.settings().Paused {
		return fmt.Errorf("%w: the configuration pauses everything, set paused to false there", handler.ErrConflict)
	}
	return o.dispatcher.Resume(ctx, by)
}

// Conditions lists the catalogue with the modes in force.
func (o orders) Conditions(context.Context) ([]handler.ConditionSummary, error) {
	nodes := make(map[string]int)
	for _, item := range o.queue.Snapshot() {
		seen := make(map[string]bool)
		for _, s := range item.Statuses {
			if !seen[s.Condition] {
				seen[s.Condition] = true
				nodes[s.Condition]++
			}
		}
	}
	modes := o.dispatcher.Orders().Modes
	var summaries []handler.ConditionSummary
	for _, c := range o.rules.Current().Conditions() {
		summary := handler.ConditionSummary{
			Name: c.Name, Type: c.Type, Priority: c.Priority, Band: string(prom.BandOf(c.Priority)), SOP: c.SOP,
			Mode: string(c.Policy.Mode), ModeSource: sourceConfig, Nodes: nodes[c.Name],
		}
		if ordered, found := modes[c.Name]; found {
			summary.Mode, summary.ModeSource, summary.ModeBy = string(ordered.Mode), sourceAPI, ordered.By
		}
		summaries = append(summaries, summary)
	}
	return summaries, nil
}

// known returns the name of the condition as the catalogue spells it.
func (o orders) known(condition string) (string, error) {
	c, found := o.rules.Current().Lookup(condition)
	if !found {
		return "", fmt.Errorf("%w: no condition is named %q", handler.ErrNotFound, condition)
	}
	return c.Name, nil
}

// SetMode sets the mode of a condition.
func (o orders) SetMode(ctx context.Context, condition, mode string, by handler.Order) error {
	name, err := o.known(condition)
	if err != nil {
		return err
	}
	return o.dispatcher.SetMode(ctx, name, prom.Mode(mode), policy.Order{By: by.By, Reason: by.Reason})
}

// ResetMode gives a condition its configured mode again. One that the catalogue has lost since can be reset by its name.
func (o orders) ResetMode(ctx context.Context, condition, by string) error {
	name, err := o.known(condition)
	if _, ordered := o.dispatcher.Orders().Modes[condition]; err != nil && !ordered {
		return err
	}
	if err != nil {
		name = condition
	}
	return o.dispatcher.ResetMode(ctx, name, by)
}

// Storms lists the storms that go on.
func (o orders) Storms(context.Context) ([]handler.StormView, error) {
	var views []handler.StormView
	for _, s := range o.dispatcher.Storms() {
		view := handler.StormView{Condition: s.Condition, Pool: s.Pool, Nodes: s.Nodes, Limit: s.Limit, Since: s.Since}
		if s.Released != nil {
			view.Released, view.ReleasedBy = true, s.Released.By
		}
		views = append(views, view)
	}
	return views, nil
}

// ReleaseStorm lets the repairs of a storm go on.
func (o orders) ReleaseStorm(ctx context.Context, condition, pool string, by handler.Order) error {
	name, err := o.known(condition)
	if err != nil {
		return err
	}
	err = o.dispatcher.ReleaseStorm(ctx, name, pool, policy.Order{By: by.By, Reason: by.Reason})
	if errors.Is(err, sop.ErrNoStorm) {
		return fmt.Errorf("%w: %w", handler.ErrNotFound, err)
	}
	return err
}

// Approve lets a repair begin.
func (o orders) Approve(ctx context.Context, r handler.NodeOrder) (handler.HealResult, error) {
	name, err := o.known(r.Condition)
	if err != nil {
		return handler.HealResult{}, fmt.Errorf("%w: no condition is named %q", handler.ErrInvalid, r.Condition)
	}
	r.Condition = name
	result, err := o.dispatcher.Approve(ctx, nodeOrder(r))
	return handler.HealResult{
		Node: r.Node, Condition: name, Ticket: result.Ticket, Verdict: string(result.Verdict.Name), Reason: result.Verdict.Reason,
		Plan: result.Plan,
	}, judged(r.Node, err)
}

// Cancel ends an incident.
func (o orders) Cancel(ctx context.Context, r handler.NodeOrder) error {
	return judged(r.Node, o.dispatcher.Cancel(ctx, nodeOrder(r)))
}

// Adopt gives a ticket to people.
func (o orders) Adopt(ctx context.Context, r handler.NodeOrder) error {
	return judged(r.Node, o.dispatcher.TakeOver(ctx, nodeOrder(r)))
}

// Release gives a ticket back to Aegis.
func (o orders) Release(ctx context.Context, r handler.NodeOrder) error {
	return judged(r.Node, o.dispatcher.Release(ctx, nodeOrder(r)))
}

func nodeOrder(r handler.NodeOrder) sop.NodeOrder {
	return sop.NodeOrder{Node: r.Node, Condition: r.Condition, Device: r.Device, By: r.By, Reason: r.Reason}
}

// judged tells the API whether asking again would help.
func judged(node string, err error) error {
	switch {
	case errors.Is(err, ticket.ErrNodeGone):
		return fmt.Errorf("%w: no Node is named %q", handler.ErrNotFound, node)
	case sop.IsRefusal(err):
		return fmt.Errorf("%w: %w", handler.ErrConflict, err)
	}
	return err
}
