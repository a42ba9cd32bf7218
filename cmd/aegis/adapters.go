package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"

	"aegis.io/aegis/handler"
	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// nodeQueue hands the queue's items to the dispatcher, which does not know the queue's types.
type nodeQueue struct{ *queue.Queue }

func (q nodeQueue) Next(ctx context.Context) (string, []prom.AegisNodeStatus, error) {
	item, err := q.Queue.Next(ctx)
	return item.Node, item.Statuses, err
}

// currentCatalogue is the catalogue as it was last loaded.
type currentCatalogue struct{ store *rules.Store }

func (c currentCatalogue) Status(node, condition, device string, xid int) prom.AegisNodeStatus {
	return c.store.Current().StatusOfXID(node, condition, device, xid)
}

func (c currentCatalogue) HiddenBy(now time.Time, status prom.AegisNodeStatus, others []prom.AegisNodeStatus) string {
	return c.store.Current().HiddenBy(now, status, others)
}

// healer takes the requests of the API to the dispatcher.
type healer struct {
	dispatcher *sop.Dispatcher
	rules      *rules.Store
}

// Heal journals a repair, or plans it.
func (h healer) Heal(ctx context.Context, r handler.HealRequest) (handler.HealResult, error) {
	condition, err := h.condition(r)
	if err != nil {
		return handler.HealResult{}, err
	}
	status := h.rules.Current().Status(r.Node, condition, r.Device)
	if r.SOP != "" {
		status.SOP = r.SOP
	}
	result, err := h.dispatcher.Heal(ctx, sop.HealRequest{Status: status, By: r.By, Reason: r.Reason, DryRun: r.DryRun})
	answer := handler.HealResult{
		Node:      r.Node,
		Condition: status.Condition,
		Ticket:    result.Ticket,
		Verdict:   string(result.Verdict.Name),
		Reason:    result.Verdict.Reason,
		Plan:      result.Plan,
	}
	return answer, judged(r.Node, err)
}

// condition names the condition of the request: the one that it names, or the only one that its procedure repairs.
func (h healer) condition(r handler.HealRequest) (string, error) {
	catalogue := h.rules.Current()
	if r.Condition != "" {
		known, found := catalogue.Lookup(r.Condition)
		if !found {
			return "", fmt.Errorf("%w: no condition is named %q", handler.ErrInvalid, r.Condition)
		}
		return known.Name, nil
	}
	var names []string
	for _, c := range catalogue.Conditions() {
		if c.SOP == r.SOP {
			names = append(names, c.Name)
		}
	}
	switch len(names) {
	case 0:
		return "", fmt.Errorf("%w: no condition has the procedure %q", handler.ErrInvalid, r.SOP)
	case 1:
		return names[0], nil
	}
	return "", fmt.Errorf("%w: procedure %q is that of several conditions, name one: %s", handler.ErrInvalid, r.SOP, strings.Join(names, ", "))
}

// nodeViews tells what is known of nodes.
type nodeViews struct {
	nodes     corelisters.NodeLister
	latest    func(name string) (*corev1.Node, error)
	queue     *queue.Queue
	book      *sop.Book
	catalogue currentCatalogue
	settings  func() policy.Settings
}

// Node returns one node, with what Aegis itself wrote last even if the cache does not show it yet.
func (v nodeViews) Node(_ context.Context, name string) (handler.NodeView, error) {
	node, err := v.latest(name)
	if apierrors.IsNotFound(err) {
		return handler.NodeView{}, fmt.Errorf("%w: no Node is named %q", handler.ErrNotFound, name)
	}
	if err != nil {
		return handler.NodeView{}, fmt.Errorf("node %s: %w", name, err)
	}
	return v.view(node), nil
}

// List returns all nodes on which there is something to tell.
func (v nodeViews) List(context.Context) ([]handler.NodeView, error) {
	nodes, err := v.nodes.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var views []handler.NodeView
	for _, node := range nodes {
		view := v.view(node)
		if len(view.Conditions) > 0 || view.Ticket != nil || view.TicketError != "" {
			views = append(views, view)
		}
	}
	return views, nil
}

func (v nodeViews) view(node *corev1.Node) handler.NodeView {
	record := ticket.ReadNode(node)
	view := handler.NodeView{
		Name:          node.Name,
		Pool:          v.settings().PoolOf(node).Name,
		Ready:         sop.IsReady(node),
		Unschedulable: node.Spec.Unschedulable,
		BootID:        node.Status.NodeInfo.BootID,
		CordonedBy:    node.Annotations[ticket.OwnerAnnotation],
		Conditions:    v.conditions(node.Name, record.Ticket),
		Ticket:        ticketView(record.Ticket),
		History:       historyView(record.History),
	}
	if record.Broken != nil {
		view.TicketError = record.Broken.Error()
	}
	return view
}

// conditions joins what holds on the node with what was decided about it. A decision may be on the condition of a ticket
// that no alert reports any more.
func (v nodeViews) conditions(node string, t *ticket.Ticket) []handler.ConditionView {
	statuses := v.queue.Statuses(node)
	decisions := make(map[prom.Key]policy.Decision)
	for _, d := range v.book.Node(node) {
		key := prom.Key{Node: node, Condition: d.Condition, ID: d.ID}
		decisions[key] = d
		if !slices.ContainsFunc(statuses, func(s prom.AegisNodeStatus) bool { return s.Key() == key }) {
			statuses = append(statuses, v.catalogue.Status(node, d.Condition, d.ID, 0))
		}
	}
	var views []handler.ConditionView
	for _, s := range statuses {
		view := handler.ConditionView{
			Condition: s.Condition,
			Device:    s.ID,
			Priority:  s.Priority,
			Band:      string(prom.BandOf(s.Priority)),
			Since:     s.FirstSeen,
			Message:   s.Msg,
		}
		d, decided := decisions[s.Key()]
		switch {
		case decided:
			view.Verdict, view.Reason, view.VerdictSince = string(d.Verdict.Name), d.Verdict.Reason, d.Since
			view.Change = d.Verdict.Name.Change()
		case t != nil && t.Open() && t.Owned():
			// It came while a procedure runs on the node; it is decided on when that has ended.
			view.Change = policy.VerdictInProgress.Change()
			view.Verdict, view.Reason = string(policy.VerdictInProgress), "ticket "+t.ID+" for "+t.Condition+" is being worked on"
		}
		views = append(views, view)
	}
	return views
}

func ticketView(t *ticket.Ticket) *handler.TicketView {
	if t == nil {
		return nil
	}
	view := &handler.TicketView{
		ID:         t.ID,
		Condition:  t.Condition,
		Device:     t.Device,
		SOP:        t.SOP,
		Reason:     t.Reason,
		Supervisor: t.Supervisor,
		Status:     string(t.Status),
		CreatedAt:  t.CreatedAt,
		Hold:       t.Hold,
	}
	for _, s := range t.Workflows {
		view.Workflows = append(view.Workflows, handler.StepView{
			Action: string(s.Action), Status: string(s.Status), At: s.At, Message: s.Message,
		})
	}
	return view
}

func historyView(h *ticket.History) []handler.IncidentView {
	var views []handler.IncidentView
	for _, i := range h.Incidents {
		view := handler.IncidentView{
			ID: i.ID, Condition: i.Condition, Device: i.Device, Opened: i.Opened, Closed: i.Closed, Outcome: i.Outcome, SOP: i.SOP,
		}
		for _, d := range i.Destructive {
			view.Destructive = append(view.Destructive, handler.DestructiveView{Action: string(d.Action), At: d.At})
		}
		views = append(views, view)
	}
	return views
}
