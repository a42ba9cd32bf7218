package handler

import (
	"net/http"
	"time"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
)

// LimitView is a limit of a pool: who has a place in it, and who waits for one.
type LimitView struct {
	Pool string `json:"pool"`
	// Limit is "budget", of nodes out of service, or "destructive", of destructive steps that run.
	Limit   policy.Limit `json:"limit"`
	Allowed int          `json:"allowed"`
	// Taken are the nodes that have a place, sorted by name.
	Taken []string `json:"taken"`
	// Waiting are the nodes that wait for one, in their order.
	Waiting []WaitingView `json:"waiting"`
}

// WaitingView is a node that waits for a place.
type WaitingView struct {
	Node      string    `json:"node"`
	Condition string    `json:"condition"`
	Device    string    `json:"device,omitempty"`
	Priority  int       `json:"priority"`
	Band      prom.Band `json:"band"`
	// Since is when the node began to wait.
	Since time.Time `json:"since,omitzero"`
}

// limitList is the answer to the question for the limits. An object can grow.
type limitList struct {
	Limits []LimitView `json:"limits"`
}

func (h *Handler) serveLimits(http.ResponseWriter, *http.Request) (reply, error) {
	states, err := h.commander.Limits()
	if err != nil {
		return reply{}, err
	}
	list := limitList{Limits: make([]LimitView, 0, len(states))}
	for _, s := range states {
		list.Limits = append(list.Limits, limitView(s))
	}
	return reply{status: http.StatusOK, body: list}, nil
}

func limitView(s policy.LimitState) LimitView {
	view := LimitView{Pool: s.Pool, Limit: s.Limit, Allowed: s.Allowed, Taken: []string{}, Waiting: make([]WaitingView, 0, len(s.Waiting))}
	view.Taken = append(view.Taken, s.Taken...)
	for _, c := range s.Waiting {
		view.Waiting = append(view.Waiting, WaitingView{
			Node: c.Node, Condition: c.Condition, Device: c.Device, Priority: c.Priority, Band: prom.BandOf(c.Priority), Since: c.Since,
		})
	}
	return view
}
