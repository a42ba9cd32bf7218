package handler

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
)

const (
	maxHealBytes = 64 << 10
	// maxNameBytes is the longest name that Kubernetes gives an object.
	maxNameBytes = 253
	// maxReasonBytes leaves the ticket, of a few kilobytes, room for more than the reason.
	maxReasonBytes = 1024
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
	text, err := readJSON(w, r, maxHealBytes)
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

// decodeHeal is strict: a person who mistypes dryRun must not get the real thing.
func decodeHeal(text []byte) (healBody, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return healBody{}, badJSON(text, err)
	}
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(healFields(), field) {
			return healBody{}, problemf(http.StatusBadRequest, "unknown field %.64q, the nearest known one is %q", field, nearest(field, healFields()))
		}
	}
	var body healBody
	if err := json.Unmarshal(text, &body); err != nil {
		return healBody{}, badJSON(text, err)
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
	for _, field := range []struct {
		name, value string
		most        int
	}{
		{"node", b.Node, maxNameBytes},
		{"condition", b.Condition, maxNameBytes},
		{"sop", b.SOP, maxNameBytes},
		{"device", b.Device, maxNameBytes},
		{"reason", b.Reason, maxReasonBytes},
	} {
		if len(field.value) > field.most {
			return problemf(http.StatusBadRequest, "%s has %d bytes, want at most %d", field.name, len(field.value), field.most)
		}
	}
	return nil
}

// nearest returns the candidate that takes the fewest edits to become the word.
func nearest(word string, candidates []string) string {
	return slices.MinFunc(candidates, func(a, b string) int { return edits(word, a) - edits(word, b) })
}

// edits returns the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
