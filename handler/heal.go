package handler

import (
	"fmt"
	"net/http"
	"strings"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
)

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

// healAnswer is the answer to a heal request and to an approval.
type healAnswer struct {
	Node      string             `json:"node"`
	Condition string             `json:"condition"`
	Ticket    string             `json:"ticket,omitempty"`
	Verdict   policy.VerdictName `json:"verdict"`
	Reason    string             `json:"reason,omitempty"`
	Plan      []string           `json:"plan,omitempty"`
	Skipped   []string           `json:"skipped,omitempty"`
}

func newHealAnswer(node, condition string, r policy.HealResult) healAnswer {
	return healAnswer{
		Node: node, Condition: condition, Ticket: r.Ticket, Verdict: r.Verdict.Name, Reason: r.Verdict.Reason, Plan: r.Plan, Skipped: r.Skipped,
	}
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
	status, err := body.status(h.catalogue.Current())
	if err != nil {
		return reply{}, err
	}
	by := identityOf(r.Context())
	result, err := h.commander.Heal(r.Context(), policy.HealRequest{Status: status, By: by, Reason: body.Reason, DryRun: body.DryRun})
	if err != nil {
		return reply{}, judged(body.Node, err)
	}
	answer := newHealAnswer(body.Node, status.Condition, result)
	if body.DryRun {
		return reply{status: http.StatusOK, body: answer}, nil
	}
	h.logger.InfoContext(r.Context(), "heal request accepted", "node", answer.Node, "condition", answer.Condition,
		"sop", body.SOP, "ticket", answer.Ticket, "verdict", answer.Verdict, "by", by)
	return reply{status: http.StatusAccepted, body: answer}, nil
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

// status returns the condition that is to be healed, as the catalogue knows it.
func (b healBody) status(catalogue *rules.Catalogue) (prom.AegisNodeStatus, error) {
	name := b.Condition
	if b.SOP != "" {
		only, err := onlyConditionOf(catalogue, b.SOP)
		if err != nil {
			return prom.AegisNodeStatus{}, err
		}
		name = only
	}
	if _, known := catalogue.Lookup(name); !known {
		return prom.AegisNodeStatus{}, noCondition(errInvalid, name)
	}
	return catalogue.Status(b.Node, name, b.Device), nil
}

// onlyConditionOf returns the condition that the procedure repairs, if it is only one.
func onlyConditionOf(catalogue *rules.Catalogue, sop string) (string, error) {
	var names []string
	for _, c := range catalogue.Conditions() {
		if c.SOP == sop {
			names = append(names, c.Name)
		}
	}
	switch len(names) {
	case 0:
		return "", fmt.Errorf("%w: no condition has the procedure %q", errInvalid, sop)
	case 1:
		return names[0], nil
	}
	return "", fmt.Errorf("%w: several conditions have the procedure %q, name one: %s", errInvalid, sop, strings.Join(names, ", "))
}

func noCondition(kind error, name string) error {
	return fmt.Errorf("%w: no condition is named %q", kind, name)
}
