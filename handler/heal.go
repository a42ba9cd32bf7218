package handler

import (
	"context"
	"net/http"
)

// HealRequest asks for a procedure to be run on a node.
type HealRequest struct {
	// Node is the node's name.
	Node string
	// Condition is the condition to heal. Empty when SOP is set.
	Condition string
	// SOP is the procedure to run. Empty when Condition is set.
	SOP string
	// Device names the device, in the form that the condition says. Empty for the whole node.
	Device string
	// Reason is why, in the words of who asks.
	Reason string
	// DryRun asks for the plan alone.
	DryRun bool
	// By is who asks: the base name of the file that holds the token, or "loopback".
	By string
}

// HealResult is what became of a HealRequest.
type HealResult struct {
	Node      string   `json:"node"`
	Condition string   `json:"condition"`
	Ticket    string   `json:"ticket,omitempty"`
	Verdict   string   `json:"verdict"`
	Reason    string   `json:"reason,omitempty"`
	Plan      []string `json:"plan,omitempty"`
}

// Healer takes requests to heal. Heal returns once the request is journaled on the node, or with the plan of a dry run.
// Its error wraps ErrNotFound, ErrConflict or ErrInvalid where asking again would not help.
type Healer interface {
	Heal(ctx context.Context, r HealRequest) (HealResult, error)
}

// healBody is the body of a heal request.
type healBody struct {
	Node      string `json:"node"`
	Condition string `json:"condition"`
	SOP       string `json:"sop"`
	Device    string `json:"device"`
	Reason    string `json:"reason"`
	DryRun    bool   `json:"dryRun"`
}

func healFields() []string {
	return []string{"node", "condition", "sop", "device", "reason", "dryRun"}
}

// serveHeal answers 202 once the request is journaled, so that it outlives this process.
func (h *Handler) serveHeal(w http.ResponseWriter, r *http.Request) (reply, error) {
	if err := h.checkReady(); err != nil {
		return reply{}, err
	}
	text, err := readJSON(w, r, maxRequestBytes)
	if err != nil {
		return reply{}, err
	}
	body, err := decodeHeal(text)
	if err != nil {
		return reply{}, err
	}
	request := HealRequest{
		Node: body.Node, Condition: body.Condition, SOP: body.SOP, Device: body.Device, Reason: body.Reason,
		DryRun: body.DryRun, By: identityOf(r.Context()),
	}
	result, err := h.healer.Heal(r.Context(), request)
	if err != nil {
		return reply{}, err
	}
	if request.DryRun {
		return reply{status: http.StatusOK, body: result}, nil
	}
	h.logger.InfoContext(r.Context(), "heal request accepted", "node", request.Node, "condition", result.Condition,
		"sop", request.SOP, "ticket", result.Ticket, "verdict", result.Verdict, "by", request.By)
	return reply{status: http.StatusAccepted, body: result}, nil
}

func decodeHeal(text []byte) (healBody, error) {
	body, err := decodeStrict[healBody](text, healFields())
	if err != nil {
		return healBody{}, err
	}
	return body, body.validate()
}

func (b healBody) validate() error {
	switch {
	case b.Node == "":
		return problemf(http.StatusBadRequest, "node is missing, want the name of a node")
	case b.Condition == "" && b.SOP == "":
		return problemf(http.StatusBadRequest, "condition and sop are missing, want one of them")
	case b.Condition != "" && b.SOP != "":
		return problemf(http.StatusBadRequest, "condition and sop are both given, want one of them")
	}
	return checkLengths(
		capped{"node", b.Node, maxNameBytes},
		capped{"condition", b.Condition, maxNameBytes},
		capped{"sop", b.SOP, maxNameBytes},
		capped{"device", b.Device, maxNameBytes},
		capped{"reason", b.Reason, maxReasonBytes},
	)
}
