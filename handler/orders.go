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
	"time"

	"aegis.io/aegis/rules/prom"
)

// Orders takes what people order while the service runs. Its errors wrap ErrNotFound, ErrConflict or ErrInvalid where
// asking again would not help. An order that is returned from without an error outlives this process.
type Orders interface {
	// Pause says whether everything that may disturb workload is held.
	Pause(ctx context.Context) (PauseView, error)
	// SetPause holds everything that may disturb workload.
	SetPause(ctx context.Context, o Order) error
	// Resume ends the pause that SetPause began.
	Resume(ctx context.Context, by string) error
	// Conditions lists the conditions of the catalogue, each with the mode that is in force.
	Conditions(ctx context.Context) ([]ConditionSummary, error)
	// SetMode gives the condition another mode than the configured one.
	SetMode(ctx context.Context, condition, mode string, o Order) error
	// ResetMode gives the condition its configured mode back.
	ResetMode(ctx context.Context, condition, by string) error
	// Storms lists the conditions that are held because they are on too many nodes at once.
	Storms(ctx context.Context) ([]StormView, error)
	// ReleaseStorm lets the condition be repaired in the pool in spite of the storm.
	ReleaseStorm(ctx context.Context, condition, pool string, o Order) error
	// Approve lets the procedure of a condition in mode approve run on the node.
	Approve(ctx context.Context, r NodeOrder) (HealResult, error)
	// Cancel ends the incident of the node at once and gives its ticket to who asks.
	Cancel(ctx context.Context, r NodeOrder) error
	// Adopt gives the open ticket of the node to people.
	Adopt(ctx context.Context, r NodeOrder) error
	// Release gives the open ticket of the node back to Aegis.
	Release(ctx context.Context, r NodeOrder) error
}

// Order is who orders something, and why.
type Order struct {
	// By is the base name of the file that holds the token, or "loopback".
	By string
	// Reason is in the words of who orders.
	Reason string
}

// NodeOrder is an order about one node.
type NodeOrder struct {
	// Node is the node's name.
	Node string
	// Condition and Device say what is approved. The other orders are about the open ticket and leave them empty.
	Condition string
	Device    string
	// By is the base name of the file that holds the token, or "loopback".
	By string
	// Reason is in the words of who orders.
	Reason string
}

// PauseView says whether everything that may disturb workload is held, and who wants it so.
type PauseView struct {
	Paused bool      `json:"paused"`
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	// Source is "api" or "config". Empty when nothing is paused.
	Source string `json:"source,omitempty"`
}

// ConditionSummary is one condition of the catalogue.
type ConditionSummary struct {
	Name     string `json:"name"`
	Type     string `json:"type"`
	Priority int    `json:"priority"`
	Band     string `json:"band"`
	SOP      string `json:"sop,omitempty"`
	Mode     string `json:"mode"`
	// ModeSource is "config" or "api".
	ModeSource string `json:"modeSource"`
	// ModeBy is who ordered the mode. Empty for the configured one.
	ModeBy string `json:"modeBy,omitempty"`
	// Nodes is the number of nodes on which the condition holds.
	Nodes int `json:"nodes"`
}

// StormView is a condition that is on too many nodes of a pool at once.
type StormView struct {
	Condition string    `json:"condition"`
	Pool      string    `json:"pool"`
	Nodes     int       `json:"nodes"`
	Limit     int       `json:"limit"`
	Since     time.Time `json:"since,omitzero"`
	// Released says that the condition is repaired in spite of the storm.
	Released   bool   `json:"released"`
	ReleasedBy string `json:"releasedBy,omitempty"`
}

// conditionList is the answer to the question for the conditions. An object can grow.
type conditionList struct {
	Conditions []ConditionSummary `json:"conditions"`
}

// stormList is the answer to the question for the storms. An object can grow.
type stormList struct {
	Storms []StormView `json:"storms"`
}

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
	return []route{
		post("approve", h.order(approval, h.serveApprove), http.StatusAccepted),
		post("cancel", h.order(onlyReason, h.serveNodeOrder("cancel", h.orders.Cancel)), http.StatusOK),
		post("adopt", h.order(onlyReason, h.serveNodeOrder("adopt", h.orders.Adopt)), http.StatusOK),
		post("release", h.order(onlyReason, h.serveNodeOrder("release", h.orders.Release)), http.StatusOK),
	}
}

// generalOrders are the routes of the orders that are about no single node.
func (h *Handler) generalOrders() []route {
	const modePattern = "/api/v1/conditions/{condition}/mode"
	pause := orderFields{required: []wanted{{fieldReason, "why everything is paused"}}}
	mode := orderFields{required: []wanted{{fieldMode, modesInWords()}}, optional: []string{fieldReason}}
	storm := orderFields{
		required: []wanted{{fieldCondition, "the name of the condition of the storm"}, {fieldPool, "the name of the pool of the storm"}},
		optional: []string{fieldReason},
	}
	order := func(name, method, pattern string, serve endpoint, codes ...int) route {
		codes = append(codes, 200, 404, 409, 422, 503)
		return route{name: name, method: method, pattern: pattern, role: RoleHeal, limited: true, serve: serve, codes: codes}
	}
	return []route{
		order("set_pause", http.MethodPost, "/api/v1/pause", h.order(pause, h.serveSetPause), 400, 413, 415),
		order("resume", http.MethodDelete, "/api/v1/pause", h.whenReady(h.serveResume)),
		order("set_mode", http.MethodPut, modePattern, h.order(mode, h.serveSetMode), 400, 413, 415),
		order("reset_mode", http.MethodDelete, modePattern, h.whenReady(h.serveResetMode)),
		order("release_storm", http.MethodPost, "/api/v1/storms/release", h.order(storm, h.serveReleaseStorm), 400, 413, 415),
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
	if b.Mode != "" && !slices.Contains(modes(), prom.Mode(b.Mode)) {
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

func modes() []prom.Mode {
	return []prom.Mode{prom.ModeOff, prom.ModeObserve, prom.ModeApprove, prom.ModeAuto}
}

func modesInWords() string { return "off, observe, approve or auto" }

func (h *Handler) servePause(_ http.ResponseWriter, r *http.Request) (reply, error) {
	view, err := h.orders.Pause(r.Context())
	return reply{status: http.StatusOK, body: view}, err
}

func (h *Handler) serveSetPause(r *http.Request, body orderBody) (reply, error) {
	order := orderOf(r, body)
	if err := h.orders.SetPause(r.Context(), order); err != nil {
		return reply{}, err
	}
	h.logOrder(r.Context(), "pause", order)
	return h.pauseAfterwards(r.Context())
}

func (h *Handler) serveResume(_ http.ResponseWriter, r *http.Request) (reply, error) {
	by := identityOf(r.Context())
	if err := h.orders.Resume(r.Context(), by); err != nil {
		return reply{}, err
	}
	h.logOrder(r.Context(), "resume", Order{By: by})
	return h.pauseAfterwards(r.Context())
}

func (h *Handler) pauseAfterwards(ctx context.Context) (reply, error) {
	view, err := h.orders.Pause(ctx)
	return reply{status: http.StatusOK, body: view}, afterwards(err)
}

func (h *Handler) serveConditions(_ http.ResponseWriter, r *http.Request) (reply, error) {
	conditions, err := h.orders.Conditions(r.Context())
	return reply{status: http.StatusOK, body: conditionList{orEmpty(conditions)}}, err
}

func (h *Handler) serveSetMode(r *http.Request, body orderBody) (reply, error) {
	condition, err := nameInPath(r, fieldCondition)
	if err != nil {
		return reply{}, err
	}
	order := orderOf(r, body)
	if err := h.orders.SetMode(r.Context(), condition, body.Mode, order); err != nil {
		return reply{}, err
	}
	h.logOrder(r.Context(), "set mode", order, "condition", condition, "mode", body.Mode)
	return h.conditionAfterwards(r.Context(), condition)
}

func (h *Handler) serveResetMode(_ http.ResponseWriter, r *http.Request) (reply, error) {
	condition, err := nameInPath(r, fieldCondition)
	if err != nil {
		return reply{}, err
	}
	by := identityOf(r.Context())
	if err := h.orders.ResetMode(r.Context(), condition, by); err != nil {
		return reply{}, err
	}
	h.logOrder(r.Context(), "reset mode", Order{By: by}, "condition", condition)
	return h.conditionAfterwards(r.Context(), condition)
}

// conditionAfterwards answers the condition. The catalogue knows no two conditions whose names differ by case alone.
func (h *Handler) conditionAfterwards(ctx context.Context, name string) (reply, error) {
	conditions, err := h.orders.Conditions(ctx)
	if err != nil {
		return reply{}, afterwards(err)
	}
	i := slices.IndexFunc(conditions, func(c ConditionSummary) bool { return strings.EqualFold(c.Name, name) })
	if i < 0 {
		return reply{}, afterwards(fmt.Errorf("condition %q: %w", name, ErrNotFound))
	}
	return reply{status: http.StatusOK, body: conditions[i]}, nil
}

func (h *Handler) serveStorms(_ http.ResponseWriter, r *http.Request) (reply, error) {
	storms, err := h.orders.Storms(r.Context())
	return reply{status: http.StatusOK, body: stormList{orEmpty(storms)}}, err
}

func (h *Handler) serveReleaseStorm(r *http.Request, body orderBody) (reply, error) {
	order := orderOf(r, body)
	if err := h.orders.ReleaseStorm(r.Context(), body.Condition, body.Pool, order); err != nil {
		return reply{}, err
	}
	h.logOrder(r.Context(), "release storm", order, "condition", body.Condition, "pool", body.Pool)
	storms, err := h.orders.Storms(r.Context())
	return reply{status: http.StatusOK, body: stormList{orEmpty(storms)}}, afterwards(err)
}

// serveApprove answers 202 once the approval is journaled, as serveHeal does.
func (h *Handler) serveApprove(r *http.Request, body orderBody) (reply, error) {
	order, err := nodeOrderOf(r, body)
	if err != nil {
		return reply{}, err
	}
	result, err := h.orders.Approve(r.Context(), order)
	if err != nil {
		return reply{}, err
	}
	h.logOrder(r.Context(), "approve", orderOf(r, body), "node", order.Node, "condition", result.Condition,
		"ticket", result.Ticket, "verdict", result.Verdict)
	return reply{status: http.StatusAccepted, body: result}, nil
}

// serveNodeOrder carries an order out and answers the node after it.
func (h *Handler) serveNodeOrder(name string, carryOut func(context.Context, NodeOrder) error) carrier {
	return func(r *http.Request, body orderBody) (reply, error) {
		order, err := nodeOrderOf(r, body)
		if err != nil {
			return reply{}, err
		}
		if err := carryOut(r.Context(), order); err != nil {
			return reply{}, err
		}
		h.logOrder(r.Context(), name, orderOf(r, body), "node", order.Node)
		view, err := h.nodes.Node(r.Context(), order.Node)
		return reply{status: http.StatusOK, body: view.forPeople(time.Now())}, afterwards(err)
	}
}

// orderOf returns the order of the caller. Who that is, the token says and not the body.
func orderOf(r *http.Request, body orderBody) Order {
	return Order{By: identityOf(r.Context()), Reason: body.Reason}
}

func nodeOrderOf(r *http.Request, body orderBody) (NodeOrder, error) {
	node, err := nameInPath(r, "node")
	if err != nil {
		return NodeOrder{}, err
	}
	return NodeOrder{
		Node: node, Condition: body.Condition, Device: body.Device, By: identityOf(r.Context()), Reason: body.Reason,
	}, nil
}

// afterwards turns the error of a look at what an order has changed. It must not read as if the order had been refused.
func afterwards(err error) error {
	if err == nil {
		return nil
	}
	return &problem{
		status: http.StatusServiceUnavailable, err: fmt.Errorf("the order is carried out, but what came of it is not known: %w", err), cause: err,
	}
}

// logOrder leaves a trace of who ordered what, and why.
func (h *Handler) logOrder(ctx context.Context, name string, o Order, about ...any) {
	h.logger.With(about...).InfoContext(ctx, "order carried out", slog.String("order", name), slog.String("by", o.By),
		slog.String("reason", cmp.Or(o.Reason, "none given")))
}
