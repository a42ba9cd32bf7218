package handler

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// NodeView is one node as people see it. Its lists are empty rather than absent, so that scripts need no case for null.
type NodeView struct {
	Name          string          `json:"name"`
	Pool          string          `json:"pool,omitempty"`
	Ready         bool            `json:"ready"`
	Unschedulable bool            `json:"unschedulable"`
	BootID        string          `json:"bootID,omitempty"`
	CordonedBy    string          `json:"cordonedBy,omitempty"`
	Conditions    []ConditionView `json:"conditions"`
	// Ticket is nil when none is open.
	Ticket *TicketView `json:"ticket"`
	// TicketError says why the node's ticket cannot be read.
	TicketError string         `json:"ticketError,omitempty"`
	History     []IncidentView `json:"history"`
	// Explanation says in one line why the node has, or has not, been healed.
	Explanation string `json:"explanation,omitempty"`
}

// ConditionView is one condition of a node, and what was decided about it.
type ConditionView struct {
	Condition    string             `json:"condition"`
	Device       string             `json:"device,omitempty"`
	Priority     int                `json:"priority"`
	Band         prom.Band          `json:"band"`
	Since        time.Time          `json:"since,omitzero"`
	Message      string             `json:"message,omitempty"`
	Verdict      policy.VerdictName `json:"verdict,omitempty"`
	Reason       string             `json:"reason,omitempty"`
	VerdictSince time.Time          `json:"verdictSince,omitzero"`
	// Change is what would change the verdict, such as "that ticket is closed".
	Change string `json:"change,omitempty"`
}

// TicketView is the open ticket of a node.
type TicketView struct {
	ID         string `json:"id"`
	Condition  string `json:"condition"`
	Device     string `json:"device,omitempty"`
	SOP        string `json:"sop,omitempty"`
	Reason     string `json:"reason,omitempty"`
	Supervisor string `json:"supervisor"`
	// RequestedBy is who asked for the check that the incident began with, ApprovedBy who approved the repair, Source which source found
	// the condition.
	RequestedBy string        `json:"requestedBy,omitempty"`
	ApprovedBy  string        `json:"approvedBy,omitempty"`
	Source      string        `json:"source,omitempty"`
	Status      ticket.Status `json:"status"`
	CreatedAt   time.Time     `json:"createdAt,omitzero"`
	Hold        string        `json:"hold,omitempty"`
	Workflows   []StepView    `json:"workflows"`
}

// StepView is one step on a ticket.
type StepView struct {
	Action  ticket.Action     `json:"action"`
	Status  ticket.StepStatus `json:"status"`
	At      time.Time         `json:"at,omitzero"`
	Message string            `json:"message,omitempty"`
	// Pod is the pod that a restart deletes, as namespace and name.
	Pod string `json:"pod,omitempty"`
}

// IncidentView is a past incident of a node.
type IncidentView struct {
	ID          string            `json:"id"`
	Condition   string            `json:"condition"`
	Device      string            `json:"device,omitempty"`
	Opened      time.Time         `json:"opened,omitzero"`
	Closed      time.Time         `json:"closed,omitzero"`
	Outcome     string            `json:"outcome"`
	Destructive []DestructiveView `json:"destructive"`
	SOP         string            `json:"sop,omitempty"`
	// By is who asked for the check that the incident began with, Reason is why.
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Earlier are the times at which the same fault was noted before.
	Earlier []time.Time `json:"earlier,omitempty"`
}

// DestructiveView is a destructive step of a past incident.
type DestructiveView struct {
	Action ticket.Action `json:"action"`
	At     time.Time     `json:"at,omitzero"`
}

// viewOf returns what is known of the node.
func (h *Handler) viewOf(node *corev1.Node) NodeView {
	record := ticket.Names(h.catalogue.Names).Record(ticket.ReadNode(node))
	view := NodeView{
		Name:          node.Name,
		Pool:          h.settings().PoolOf(node).Name,
		Ready:         policy.IsReady(node),
		Unschedulable: node.Spec.Unschedulable,
		BootID:        node.Status.NodeInfo.BootID,
		CordonedBy:    node.Annotations[ticket.OwnerAnnotation],
		Conditions:    h.conditionsOf(node.Name, record.Ticket),
		Ticket:        ticketView(record.Ticket),
		History:       historyView(record.History),
	}
	if record.Broken != nil {
		view.TicketError = record.Broken.Error()
	}
	return view
}

// conditionsOf joins what holds on the node with what was decided about it. A decision may be on the condition of a ticket
// that no alert reports any more.
func (h *Handler) conditionsOf(node string, t *ticket.Ticket) []ConditionView {
	statuses := h.conditions.Statuses(node)
	decisions := make(map[prom.Key]policy.Decision)
	for _, d := range h.verdicts.Node(node) {
		key := prom.Key{Node: node, Condition: d.Condition, ID: d.ID}
		decisions[key] = d
		if !slices.ContainsFunc(statuses, func(s prom.AegisNodeStatus) bool { return s.Key() == key }) {
			statuses = append(statuses, h.catalogue.Current().Status(node, d.Condition, d.ID))
		}
	}
	views := make([]ConditionView, 0, len(statuses))
	for _, s := range statuses {
		view := conditionView(s)
		if d, decided := decisions[s.Key()]; decided {
			view.judge(d.Verdict, d.Since)
		} else if t != nil && t.Open() && t.Owned() {
			// It came while a procedure runs on the node; it is decided on when that has ended.
			view.judge(policy.Verdict{
				Name: policy.VerdictInProgress, Reason: "ticket " + t.ID + " for " + t.Condition + " is being worked on",
			}, time.Time{})
		}
		views = append(views, view)
	}
	return views
}

func conditionView(s prom.AegisNodeStatus) ConditionView {
	return ConditionView{
		Condition: s.Condition,
		Device:    s.ID,
		Priority:  s.Priority,
		Band:      prom.BandOf(s.Priority),
		Since:     s.FirstSeen,
		Message:   s.Msg,
	}
}

// judge adds what was decided.
func (c *ConditionView) judge(v policy.Verdict, since time.Time) {
	c.Verdict, c.Reason, c.VerdictSince, c.Change = v.Name, v.Reason, since, v.Name.Change()
}

func ticketView(t *ticket.Ticket) *TicketView {
	if t == nil {
		return nil
	}
	view := &TicketView{
		ID:          t.ID,
		Condition:   t.Condition,
		Device:      t.Device,
		SOP:         t.SOP,
		Reason:      t.Reason,
		Supervisor:  t.Supervisor,
		RequestedBy: t.RequestedBy,
		ApprovedBy:  t.ApprovedBy,
		Source:      t.Source,
		Status:      t.Status,
		CreatedAt:   t.CreatedAt,
		Hold:        t.Hold,
		Workflows:   make([]StepView, 0, len(t.Workflows)),
	}
	for _, s := range t.Workflows {
		view.Workflows = append(view.Workflows, StepView{Action: s.Action, Status: s.Status, At: s.At, Message: s.Message, Pod: s.Pod})
	}
	return view
}

func historyView(h *ticket.History) []IncidentView {
	views := make([]IncidentView, 0, len(h.Incidents))
	for _, i := range h.Incidents {
		view := IncidentView{
			ID: i.ID, Condition: i.Condition, Device: i.Device, Opened: i.Opened, Closed: i.Closed, Outcome: i.Outcome, SOP: i.SOP,
			By: i.By, Reason: i.Reason, Earlier: i.Earlier,
			Destructive: make([]DestructiveView, 0, len(i.Destructive)),
		}
		for _, d := range i.Destructive {
			view.Destructive = append(view.Destructive, DestructiveView{Action: d.Action, At: d.At})
		}
		views = append(views, view)
	}
	return views
}
