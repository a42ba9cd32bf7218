package handler

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
)

// The fields of the bodies of orders.
const (
	fieldCondition = "condition"
	fieldDevice    = "device"
	fieldMode      = "mode"
	fieldPool      = "pool"
	fieldReason    = "reason"
)

// orderBody has the fields of all orders. Which of them an order takes is in its orderFields.
type orderBody struct {
	Condition string `json:"condition"`
	Device    string `json:"device"`
	Mode      string `json:"mode"`
	Pool      string `json:"pool"`
	Reason    string `json:"reason"`
}

// wanted is a field that an order cannot do without.
type wanted struct {
	field string
	// want says what belongs into it.
	want string
}

// orderFields are the fields of an order. Without required ones there may be no body at all.
type orderFields struct {
	required []wanted
	optional []string
}

// known returns the names of all fields.
func (f orderFields) known() []string {
	names := slices.Clone(f.optional)
	for _, w := range f.required {
		names = append(names, w.field)
	}
	return names
}

// nodeOrders are the routes of the orders about one node.
func (h *Handler) nodeOrders() []route {
	onlyReason := orderFields{optional: []string{fieldReason}}
	approval := orderFields{
		required: []wanted{{fieldCondition, "the name of the condition whose procedure is approved"}},
		optional: []string{fieldDevice, fieldReason},
	}
	post := func(name string, serve endpoint, done int) route {
		return route{
			name: name, method: http.MethodPost, pattern: "/api/v1/nodes/{node}/" + name, role: RoleHeal, limited: true,
			serve: serve, codes: []int{done, 400, 404, 409, 413, 415, 422, 503},
		}
	}
	take := h.order(onlyReason, h.serveNodeOrder("takeover", h.commander.TakeOver))
	return []route{
		post("approve", h.order(approval, h.serveApprove), http.StatusAccepted),
		post("check", h.order(onlyReason, h.serveCheck), http.StatusAccepted),
		post("cancel", h.order(onlyReason, h.serveNodeOrder("cancel", h.commander.Cancel)), http.StatusOK),
		post("takeover", take, http.StatusOK),
		// Scripts know the old name of takeover.
		post("adopt", take, http.StatusOK),
		post("release", h.order(onlyReason, h.serveNodeOrder("release", h.commander.Release)), http.StatusOK),
	}
}

// whenReady keeps a process that does not lead from taking an order.
func (h *Handler) whenReady(serve endpoint) endpoint {
	return func(w http.ResponseWriter, r *http.Request) (reply, error) {
		if err := h.checkReady(); err != nil {
			return reply{}, err
		}
		return serve(w, r)
	}
}

// carrier carries an order out that has been read.
type carrier func(r *http.Request, body orderBody) (reply, error)

// order reads an order and hands it on.
func (h *Handler) order(fields orderFields, carry carrier) endpoint {
	return h.whenReady(func(w http.ResponseWriter, r *http.Request) (reply, error) {
		body, err := readOrder(w, r, fields)
		if err != nil {
			return reply{}, err
		}
		return carry(r, body)
	})
}

func readOrder(w http.ResponseWriter, r *http.Request, fields orderFields) (orderBody, error) {
	// What has no body declares no type of it.
	if len(fields.required) == 0 && r.ContentLength == 0 {
		return orderBody{}, nil
	}
	text, err := readJSON(w, r, maxRequestBytes)
	if err != nil {
		return orderBody{}, err
	}
	return decodeOrder(text, fields)
}

func decodeOrder(text []byte, fields orderFields) (orderBody, error) {
	if len(fields.required) == 0 && len(bytes.TrimSpace(text)) == 0 {
		return orderBody{}, nil
	}
	body, err := decodeStrict[orderBody](text, fields.known())
	if err != nil {
		return orderBody{}, err
	}
	return body, body.validate(fields)
}

func (b orderBody) validate(fields orderFields) error {
	for _, w := range fields.required {
		if strings.TrimSpace(b.value(w.field)) == "" {
			return problemf(http.StatusBadRequest, "%s is missing, want %s", w.field, w.want)
		}
	}
	if b.Mode != "" && !prom.Mode(b.Mode).Known() {
		return problemf(http.StatusBadRequest, "mode is %.40q, want %s", b.Mode, modesInWords())
	}
	return checkLengths(
		capped{fieldCondition, b.Condition, maxNameBytes},
		capped{fieldDevice, b.Device, maxNameBytes},
		capped{fieldPool, b.Pool, maxNameBytes},
		capped{fieldReason, b.Reason, maxReasonBytes},
	)
}

func (b orderBody) value(field string) string {
	return map[string]string{
		fieldCondition: b.Condition, fieldDevice: b.Device, fieldMode: b.Mode, fieldPool: b.Pool, fieldReason: b.Reason,
	}[field]
}

func modesInWords() string { return "off, observe, approve or auto" }

// serveApprove answers 202 once the approval is journaled, as serveHeal does.
func (h *Handler) serveApprove(r *http.Request, body orderBody) (reply, error) {
	order, err := nodeOrderOf(r, body)
	if err != nil {
		return reply{}, err
	}
	if order.Condition, err = h.knownCondition(body.Condition, errInvalid); err != nil {
		return reply{}, err
	}
	result, err := h.commander.Approve(r.Context(), order)
	if err != nil {
		return reply{}, judged(order.Node, err)
	}
	answer := newHealAnswer(order.Node, order.Condition, result)
	h.logOrder(r.Context(), "approve", orderOf(r, body), "node", order.Node, "condition", answer.Condition,
		"ticket", answer.Ticket, "verdict", answer.Verdict)
	return reply{status: http.StatusAccepted, body: answer}, nil
}

// serveCheck answers 202 once the request is journaled, as serveHeal does.
func (h *Handler) serveCheck(r *http.Request, body orderBody) (reply, error) {
	order, err := nodeOrderOf(r, body)
	if err != nil {
		return reply{}, err
	}
	result, err := h.commander.Check(r.Context(), order)
	if err != nil {
		return reply{}, judged(order.Node, err)
	}
	answer := newHealAnswer(order.Node, policy.CheckedCondition, result)
	h.logOrder(r.Context(), "check", orderOf(r, body), "node", order.Node, "ticket", answer.Ticket, "verdict", answer.Verdict)
	return reply{status: http.StatusAccepted, body: answer}, nil
}

// serveNodeOrder carries an order out and answers the node after it.
func (h *Handler) serveNodeOrder(name string, carryOut func(context.Context, policy.NodeOrder) error) carrier {
	return func(r *http.Request, body orderBody) (reply, error) {
		order, err := nodeOrderOf(r, body)
		if err != nil {
			return reply{}, err
		}
		if err := carryOut(r.Context(), order); err != nil {
			return reply{}, judged(order.Node, err)
		}
		h.logOrder(r.Context(), name, orderOf(r, body), "node", order.Node)
		view, err := h.node(order.Node)
		return reply{status: http.StatusOK, body: h.explained(view)}, afterwards(err)
	}
}

// orderOf returns the order of the caller. Who that is, the token says and not the body.
func orderOf(r *http.Request, body orderBody) policy.Order {
	return policy.Order{By: identityOf(r.Context()), Reason: body.Reason}
}

func nodeOrderOf(r *http.Request, body orderBody) (policy.NodeOrder, error) {
	node, err := nameInPath(r, "node")
	if err != nil {
		return policy.NodeOrder{}, err
	}
	return policy.NodeOrder{
		Node: node, Condition: body.Condition, Device: body.Device, By: identityOf(r.Context()), Reason: body.Reason,
	}, nil
}

// afterwards turns the error of a look at what an order has changed. It must not read as if the order had been refused.
func afterwards(err error) error {
	if err == nil {
		return nil
	}
	return &problem{
		status: http.StatusServiceUnavailable, err: fmt.Errorf("the order is carried out, but its effect is not known: %w", err), cause: err,
	}
}

// logOrder leaves a trace of who ordered what, and why.
func (h *Handler) logOrder(ctx context.Context, name string, o policy.Order, about ...any) {
	h.logger.With(about...).InfoContext(ctx, "order carried out", slog.String("order", name), slog.String("by", o.By),
		slog.String("reason", cmp.Or(o.Reason, "none given")))
}
