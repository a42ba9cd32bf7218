package handler

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/go-chi/chi/v5"
)

// Nodes tells what is known of one node. The error wraps ErrNotFound when there is no such node.
type Nodes interface {
	Node(ctx context.Context, name string) (NodeView, error)
}

// lister is what Nodes may also be able to do.
type lister interface {
	List(ctx context.Context) ([]NodeView, error)
}

// NodeView is one node as people see it.
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
	// Explanation says in one line why the node has, or has not, been healed. The handler fills it in.
	Explanation string `json:"explanation,omitempty"`
}

// ConditionView is one condition of a node, and what was decided about it.
type ConditionView struct {
	Condition    string    `json:"condition"`
	Device       string    `json:"device,omitempty"`
	Priority     int       `json:"priority"`
	Band         string    `json:"band"`
	Since        time.Time `json:"since,omitzero"`
	Message      string    `json:"message,omitempty"`
	Verdict      string    `json:"verdict,omitempty"`
	Reason       string    `json:"reason,omitempty"`
	VerdictSince time.Time `json:"verdictSince,omitzero"`
	// Change is what would change the verdict, such as "one of them returns".
	Change string `json:"change,omitempty"`
}

// TicketView is the open ticket of a node.
type TicketView struct {
	ID         string     `json:"id"`
	Condition  string     `json:"condition"`
	Device     string     `json:"device,omitempty"`
	SOP        string     `json:"sop,omitempty"`
	Reason     string     `json:"reason,omitempty"`
	Supervisor string     `json:"supervisor"`
	Status     string     `json:"status"`
	CreatedAt  time.Time  `json:"createdAt,omitzero"`
	Hold       string     `json:"hold,omitempty"`
	Workflows  []StepView `json:"workflows"`
}

// StepView is one step on a ticket.
type StepView struct {
	Action  string    `json:"action"`
	Status  string    `json:"status"`
	At      time.Time `json:"at,omitzero"`
	Message string    `json:"message,omitempty"`
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
}

// DestructiveView is a destructive step of a past incident.
type DestructiveView struct {
	Action string    `json:"action"`
	At     time.Time `json:"at,omitzero"`
}

// nodeList is the answer to the question for all nodes. An object can grow.
type nodeList struct {
	Nodes []NodeView `json:"nodes"`
}

func (h *Handler) serveNode(_ http.ResponseWriter, r *http.Request) (reply, error) {
	view, err := h.nodeOf(r)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: view.forPeople(time.Now())}, nil
}

func (h *Handler) serveExplain(_ http.ResponseWriter, r *http.Request) (reply, error) {
	view, err := h.nodeOf(r)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: plainText(explain(view, time.Now()))}, nil
}

// nodeOf returns the view of the node in the path.
func (h *Handler) nodeOf(r *http.Request) (NodeView, error) {
	name, err := nameInPath(r, "node")
	if err != nil {
		return NodeView{}, err
	}
	return h.nodes.Node(r.Context(), name)
}

// nameInPath returns the name of something of the kind, which is a part of the path. The router has not decoded it where
// the path has a form of its own on the wire.
func nameInPath(r *http.Request, kind string) (string, error) {
	name, err := chi.URLParam(r, kind), error(nil)
	if r.URL.RawPath != "" {
		name, err = url.PathUnescape(name)
	}
	if err != nil || name == "" || len(name) > maxNameBytes {
		return "", problemf(http.StatusNotFound, "no %s can have such a name", kind)
	}
	return name, nil
}

func serveNodes(all lister) endpoint {
	return func(_ http.ResponseWriter, r *http.Request) (reply, error) {
		views, err := all.List(r.Context())
		if err != nil {
			return reply{}, err
		}
		now := time.Now()
		list := nodeList{Nodes: make([]NodeView, len(views))}
		for i, view := range views {
			list.Nodes[i] = view.forPeople(now)
		}
		return reply{status: http.StatusOK, body: list}, nil
	}
}

// forPeople returns the view as it is answered.
func (v NodeView) forPeople(now time.Time) NodeView {
	v = v.listsSet()
	v.Explanation = mostTelling(v, now)
	return v
}

// listsSet returns the view with empty lists in place of absent ones, so that scripts need no case for null.
func (v NodeView) listsSet() NodeView {
	v.Conditions = orEmpty(v.Conditions)
	if v.Ticket != nil {
		ticket := *v.Ticket
		ticket.Workflows = orEmpty(ticket.Workflows)
		v.Ticket = &ticket
	}
	history := make([]IncidentView, len(v.History))
	for i, incident := range v.History {
		incident.Destructive = orEmpty(incident.Destructive)
		history[i] = incident
	}
	v.History = history
	return v
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
