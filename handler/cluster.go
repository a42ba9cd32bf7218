package handler

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
)

// The values that say where a pause or a mode comes from.
const (
	sourceAPI    = "api"
	sourceConfig = "config"
)

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
	Name     string    `json:"name"`
	Type     string    `json:"type"`
	Priority int       `json:"priority"`
	Band     prom.Band `json:"band"`
	SOP      string    `json:"sop,omitempty"`
	Mode     prom.Mode `json:"mode"`
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

// clusterOrders are the routes of the orders that are about no single node.
func (h *Handler) clusterOrders() []route {
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

// pause tells what pauses everything: an order goes before the configuration.
func (h *Handler) pause() PauseView {
	if pause := h.commander.Orders().Pause; pause != nil {
		return PauseView{Paused: true, By: pause.By, Reason: pause.Reason, Since: pause.At, Source: sourceAPI}
	}
	if h.settings().Paused {
		return PauseView{Paused: true, Source: sourceConfig}
	}
	return PauseView{}
}

func (h *Handler) servePause(http.ResponseWriter, *http.Request) (reply, error) {
	return reply{status: http.StatusOK, body: h.pause()}, nil
}

func (h *Handler) serveSetPause(r *http.Request, body orderBody) (reply, error) {
	order := orderOf(r, body)
	if err := h.commander.Pause(r.Context(), order); err != nil {
		return reply{}, err
	}
	h.logOrder(r.Context(), "pause", order)
	return reply{status: http.StatusOK, body: h.pause()}, nil
}

// serveResume ends a pause, unless it is the configuration's.
func (h *Handler) serveResume(_ http.ResponseWriter, r *http.Request) (reply, error) {
	if h.settings().Paused {
		return reply{}, fmt.Errorf("%w: the configuration pauses everything, set paused to false there", errConflict)
	}
	by := identityOf(r.Context())
	if err := h.commander.Resume(r.Context(), by); err != nil {
		return reply{}, err
	}
	h.logOrder(r.Context(), "resume", policy.Order{By: by})
	return reply{status: http.StatusOK, body: h.pause()}, nil
}

// summaries lists the catalogue with the modes in force.
func (h *Handler) summaries() []ConditionSummary {
	nodes, modes := h.conditions.NodesByCondition(), h.commander.Orders().Modes
	conditions := h.catalogue.Current().Conditions()
	summaries := make([]ConditionSummary, 0, len(conditions))
	for _, c := range conditions {
		summary := ConditionSummary{
			Name: c.Name, Type: c.Type, Priority: c.Priority, Band: prom.BandOf(c.Priority), SOP: c.SOP,
			Mode: c.Policy.Mode, ModeSource: sourceConfig, Nodes: nodes[c.Name],
		}
		if ordered, found := modes[c.Name]; found {
			summary.Mode, summary.ModeSource, summary.ModeBy = ordered.Mode, sourceAPI, ordered.By
		}
		summaries = append(summaries, summary)
	}
	return summaries
}

func (h *Handler) serveConditions(http.ResponseWriter, *http.Request) (reply, error) {
	return reply{status: http.StatusOK, body: conditionList{h.summaries()}}, nil
}

// knownCondition returns the name of the condition as the catalogue spells it. The error wraps kind.
func (h *Handler) knownCondition(name string, kind error) (string, error) {
	c, found := h.catalogue.Current().Lookup(name)
	if !found {
		return "", noCondition(kind, name)
	}
	return c.Name, nil
}

func (h *Handler) serveSetMode(r *http.Request, body orderBody) (reply, error) {
	name, err := nameInPath(r, fieldCondition)
	if err != nil {
		return reply{}, err
	}
	condition, err := h.knownCondition(name, errNotFound)
	if err != nil {
		return reply{}, err
	}
	order := orderOf(r, body)
	if err := h.commander.SetMode(r.Context(), condition, prom.Mode(body.Mode), order); err != nil {
		return reply{}, err
	}
	h.logOrder(r.Context(), "set mode", order, "condition", condition, "mode", body.Mode)
	return h.conditionAfterwards(condition)
}

// serveResetMode gives a condition its configured mode again. One that the catalogue has lost since can be reset by its name.
func (h *Handler) serveResetMode(_ http.ResponseWriter, r *http.Request) (reply, error) {
	name, err := nameInPath(r, fieldCondition)
	if err != nil {
		return reply{}, err
	}
	condition, err := h.knownCondition(name, errNotFound)
	if err != nil {
		if _, ordered := h.commander.Orders().Modes[name]; !ordered {
			return reply{}, err
		}
		condition = name
	}
	by := identityOf(r.Context())
	if err := h.commander.ResetMode(r.Context(), condition, by); err != nil {
		return reply{}, err
	}
	h.logOrder(r.Context(), "reset mode", policy.Order{By: by}, "condition", condition)
	return h.conditionAfterwards(condition)
}

// conditionAfterwards answers the condition.
func (h *Handler) conditionAfterwards(name string) (reply, error) {
	summaries := h.summaries()
	i := slices.IndexFunc(summaries, func(c ConditionSummary) bool { return c.Name == name })
	if i < 0 {
		return reply{}, afterwards(fmt.Errorf("condition %q: %w", name, errNotFound))
	}
	return reply{status: http.StatusOK, body: summaries[i]}, nil
}

// storms lists the storms that go on.
func (h *Handler) storms() stormList {
	list := stormList{Storms: []StormView{}}
	for _, s := range h.commander.Storms() {
		view := StormView{Condition: s.Condition, Pool: s.Pool, Nodes: s.Nodes, Limit: s.Limit, Since: s.Since}
		if s.Released != nil {
			view.Released, view.ReleasedBy = true, s.Released.By
		}
		list.Storms = append(list.Storms, view)
	}
	return list
}

func (h *Handler) serveStorms(http.ResponseWriter, *http.Request) (reply, error) {
	return reply{status: http.StatusOK, body: h.storms()}, nil
}

func (h *Handler) serveReleaseStorm(r *http.Request, body orderBody) (reply, error) {
	condition, err := h.knownCondition(body.Condition, errNotFound)
	if err != nil {
		return reply{}, err
	}
	order := orderOf(r, body)
	if err := h.releaseStorm(r.Context(), condition, body.Pool, order); err != nil {
		return reply{}, err
	}
	h.logOrder(r.Context(), "release storm", order, "condition", condition, "pool", body.Pool)
	return reply{status: http.StatusOK, body: h.storms()}, nil
}

func (h *Handler) releaseStorm(ctx context.Context, condition, pool string, o policy.Order) error {
	err := h.commander.ReleaseStorm(ctx, condition, pool, o)
	if errors.Is(err, policy.ErrNoStorm) {
		return fmt.Errorf("%w: %w", errNotFound, err)
	}
	return err
}
