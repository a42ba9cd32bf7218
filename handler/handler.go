// Package handler is the HTTP side of Aegis: it takes the webhooks of Alertmanager, requests to heal a node, orders of
// people and questions about nodes, and answers probes and scrapes. It decides nothing and runs nothing.
package handler

import (
	"cmp"
	"context"
	"errors"
	"log"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/utils/clock"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
)

// Errors that say what is wrong with a request. Any other error means that the answer is not known now and that asking again
// may help.
var (
	// errNotFound says that the node, the condition, the procedure or the storm does not exist.
	errNotFound = errors.New("not found")
	// errConflict says that the state of the node does not allow it.
	errConflict = errors.New("conflict")
	// errInvalid says that the request can never be carried out.
	errInvalid = errors.New("invalid request")
)

const (
	defaultMaxInFlight = 64
	// answerTimeout is less than the server's write timeout, so that giving up can still be said.
	answerTimeout     = 10 * time.Second
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeTimeout      = 15 * time.Second
	idleTimeout       = 120 * time.Second
	maxHeaderBytes    = 64 << 10
)

// Sink takes what the alerts of a webhook report.
type Sink interface {
	Observe(obs ...prom.Observation)
}

// Classifier tells which condition of which node an alert reports. Its error says why it reports none.
type Classifier interface {
	Classify(a prom.Alert) (prom.Observation, error)
}

// Options holds what a Handler needs.
type Options struct {
	// Sink takes the observations of a webhook.
	Sink Sink
	// Classifier turns alerts into observations.
	Classifier Classifier
	// Commander carries out what people ask for.
	Commander Commander
	// Nodes lists the nodes.
	Nodes Nodes
	// Conditions tells what holds on the nodes.
	Conditions Conditions
	// Verdicts keeps what was decided about it.
	Verdicts Verdicts
	// Sources tells how the sources that inspect nodes do. Nil stands for none.
	Sources func() []prom.SourceHealth
	// Catalogue holds the conditions that are known.
	Catalogue *rules.Store
	// Settings returns what is configured now.
	Settings func() policy.Settings
	// Ready says whether this process leads and has seen the state of the world, and else why not.
	Ready func() (bool, string)
	// Informed says the same of a process that may fail to do its work otherwise: what it knows can be asked. Nil stands for Ready.
	Informed func() (bool, string)
	// Reload reads the configuration again.
	Reload func() error
	// Resync asks for a pass over the sources soon.
	Resync func()
	// Auth says who may do what. The default lets everyone read and nobody write.
	Auth *Auth
	// MaxInFlight bounds how many webhooks, how many heal requests, and how many orders of each kind, are served at once.
	// The default is 64.
	MaxInFlight int
	// Registerer takes the metrics of this package.
	Registerer prometheus.Registerer
	// Gatherer is what /metrics exposes.
	Gatherer prometheus.Gatherer
	// Clock tells the time. The default is the real one.
	Clock clock.PassiveClock
	// Logger takes what goes wrong. The default discards it.
	Logger *slog.Logger
}

func (o Options) validate() error {
	var errs []error
	for _, need := range []struct {
		name    string
		missing bool
	}{
		{"Sink", o.Sink == nil},
		{"Classifier", o.Classifier == nil},
		{"Commander", o.Commander == nil},
		{"Nodes", o.Nodes == nil},
		{"Conditions", o.Conditions == nil},
		{"Verdicts", o.Verdicts == nil},
		{"Catalogue", o.Catalogue == nil},
		{"Settings", o.Settings == nil},
		{"Ready", o.Ready == nil},
		{"Reload", o.Reload == nil},
		{"Resync", o.Resync == nil},
		{"Gatherer", o.Gatherer == nil},
	} {
		if need.missing {
			errs = append(errs, errors.New("handler: option "+need.name+" is missing"))
		}
	}
	return errors.Join(errs...)
}

// Handler serves the HTTP side. It is safe for concurrent use.
type Handler struct {
	sink        Sink
	classifier  Classifier
	commander   Commander
	nodes       Nodes
	conditions  Conditions
	verdicts    Verdicts
	sources     func() []prom.SourceHealth
	catalogue   *rules.Store
	settings    func() policy.Settings
	ready       func() (bool, string)
	informed    func() (bool, string)
	reload      func() error
	resync      func()
	auth        *Auth
	maxInFlight int
	gatherer    prometheus.Gatherer
	clock       clock.PassiveClock
	logger      *slog.Logger
	metrics     *metrics
}

// New returns a Handler. The error names every option that is missing.
func New(o Options) (*Handler, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxInFlight <= 0 {
		o.MaxInFlight = defaultMaxInFlight
	}
	if o.Informed == nil {
		o.Informed = o.Ready
	}
	if o.Sources == nil {
		o.Sources = func() []prom.SourceHealth { return nil }
	}
	return &Handler{
		sink:        o.Sink,
		classifier:  o.Classifier,
		commander:   o.Commander,
		nodes:       o.Nodes,
		conditions:  o.Conditions,
		verdicts:    o.Verdicts,
		sources:     o.Sources,
		catalogue:   o.Catalogue,
		settings:    o.Settings,
		ready:       o.Ready,
		informed:    o.Informed,
		reload:      o.Reload,
		resync:      o.Resync,
		auth:        cmp.Or(o.Auth, &Auth{}),
		maxInFlight: o.MaxInFlight,
		gatherer:    o.Gatherer,
		clock:       cmp.Or(o.Clock, clock.PassiveClock(clock.RealClock{})),
		logger:      o.Logger.With("component", "handler"),
		metrics:     newMetrics(o.Registerer),
	}, nil
}

// endpoint serves a request. Its error is answered by the status that problemOf finds for it.
type endpoint func(w http.ResponseWriter, r *http.Request) (reply, error)

// route is one path, and what guards it.
type route struct {
	// name is the label value of the route in the metrics.
	name    string
	method  string
	pattern string
	// role is what the caller needs. Empty leaves the route open to everyone.
	role Role
	// limited routes serve at most MaxInFlight requests at once, or fewer if most is set.
	limited bool
	most    int
	serve   endpoint
	// codes are the statuses that serve answers with.
	codes []int
}

// Routes returns the API and the probes.
func (h *Handler) Routes() http.Handler {
	return h.router(h.all())
}

func (h *Handler) all() []route {
	return slices.Concat(h.probes(), h.requests(), h.questions(), h.nodeOrders(), h.clusterOrders(), h.silenceOrders())
}

// requests are the routes by which work comes in.
func (h *Handler) requests() []route {
	return []route{
		{
			name: "alerts", method: http.MethodPost, pattern: "/api/v1/alerts", role: RoleAlerts, limited: true,
			serve: h.serveAlerts, codes: []int{200, 400, 413, 415, 503},
		},
		{
			name: "heal", method: http.MethodPost, pattern: "/api/v1/heal", role: RoleHeal, limited: true,
			serve: h.serveHeal, codes: []int{200, 202, 400, 404, 409, 413, 415, 422, 503},
		},
		{
			name: "reload", method: http.MethodPost, pattern: "/-/reload", role: RoleHeal,
			serve: h.serveReload, codes: []int{200, 500},
		},
	}
}

// questions are the routes that change nothing.
func (h *Handler) questions() []route {
	ask := func(name, pattern string, serve endpoint, codes ...int) route {
		return route{name: name, method: http.MethodGet, pattern: pattern, role: RoleView, serve: h.whenInformed(serve), codes: codes}
	}
	nodes := ask("nodes", "/api/v1/nodes", h.serveNodes, 200, 400, 503)
	nodes.limited, nodes.most = true, maxNodeLists
	return []route{
		nodes,
		ask("node", "/api/v1/nodes/{node}", h.serveNode, 200, 404, 503),
		ask("explain", "/api/v1/nodes/{node}/explain", h.serveExplain, 200, 404, 503),
		ask("pause", "/api/v1/pause", h.servePause, 200, 503),
		ask("conditions", "/api/v1/conditions", h.serveConditions, 200, 503),
		ask("sources", "/api/v1/sources", h.serveSources, 200, 503),
		ask("storms", "/api/v1/storms", h.serveStorms, 200, 503),
		ask("silences", "/api/v1/silences", h.serveSilences, 200, 503),
		ask("limits", "/api/v1/limits", h.serveLimits, 200, 503),
	}
}

// Telemetry returns the metrics and the probes. They need no token, so they belong on a listener of their own.
func (h *Handler) Telemetry() http.Handler {
	router := h.router(h.probes())
	exposition := promhttp.HandlerFor(h.gatherer, promhttp.HandlerOpts{
		ErrorLog:          slog.NewLogLogger(h.logger.Handler(), slog.LevelError),
		EnableOpenMetrics: true,
	})
	router.Method(http.MethodGet, "/metrics", h.instrument("metrics", []int{200, 500}, exposition))
	return router
}

// The paths of the probes.
const (
	pathHealthy = "/-/healthy"
	pathReady   = "/-/ready"
)

// OpenPaths are those of the probes: a kubelet has neither a certificate nor a password to show.
func OpenPaths() []string { return []string{pathHealthy, pathReady} }

func (h *Handler) probes() []route {
	return []route{
		{name: "healthy", method: http.MethodGet, pattern: pathHealthy, serve: serveHealthy, codes: []int{200}},
		{name: "ready", method: http.MethodGet, pattern: pathReady, serve: h.serveReady, codes: []int{200, 503}},
	}
}

func serveHealthy(http.ResponseWriter, *http.Request) (reply, error) {
	return reply{status: http.StatusOK, body: map[string]bool{"healthy": true}}, nil
}

func (h *Handler) serveReady(http.ResponseWriter, *http.Request) (reply, error) {
	if err := h.checkReady(); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: map[string]bool{"ready": true}}, nil
}

func (h *Handler) checkReady() error { return unless(h.ready()) }

// unless refuses for a reason.
func unless(ok bool, reason string) error {
	if !ok {
		return problemf(http.StatusServiceUnavailable, "not ready: %s", cmp.Or(reason, "no reason given"))
	}
	return nil
}

// whenInformed keeps a process that does not lead, or has seen nothing yet, from answering that there is nothing.
func (h *Handler) whenInformed(serve endpoint) endpoint {
	return func(w http.ResponseWriter, r *http.Request) (reply, error) {
		if err := unless(h.informed()); err != nil {
			return reply{}, err
		}
		return serve(w, r)
	}
}

func (h *Handler) serveReload(http.ResponseWriter, *http.Request) (reply, error) {
	if err := h.reload(); err != nil {
		return reply{}, &problem{status: http.StatusInternalServerError, err: err, cause: err}
	}
	return reply{status: http.StatusOK, body: map[string]bool{"reloaded": true}}, nil
}

func (h *Handler) router(routes []route) *chi.Mux {
	mux := chi.NewRouter()
	for _, rt := range routes {
		guarded := h.guard(rt)
		mux.Method(rt.method, rt.pattern, guarded)
		if rt.method == http.MethodGet {
			mux.Method(http.MethodHead, rt.pattern, guarded)
		}
	}
	elsewhere := h.guard(route{name: "other", serve: notServed(mux), codes: []int{404, 405}})
	mux.NotFound(elsewhere.ServeHTTP)
	mux.MethodNotAllowed(elsewhere.ServeHTTP)
	return mux
}

// notServed answers 405 where another method would do, and else 404. It never redirects: a redirected POST arrives as
// a GET without a body, and Alertmanager would take the alerts for delivered.
func notServed(mux *chi.Mux) endpoint {
	return func(w http.ResponseWriter, r *http.Request) (reply, error) {
		path := cmp.Or(r.URL.RawPath, r.URL.Path)
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete} {
			if mux.Match(chi.NewRouteContext(), method, path) {
				w.Header().Add("Allow", method)
			}
		}
		allowed := w.Header().Values("Allow")
		if len(allowed) == 0 {
			return reply{}, problemf(http.StatusNotFound, "no such path")
		}
		return reply{}, problemf(http.StatusMethodNotAllowed, "method %.20q is not allowed here, use %v", r.Method, allowed)
	}
}

// NewServer returns a server that bounds how long and how much a client may say. Its errors go to the default logger
// of slog; the caller may set another ErrorLog, and BaseContext.
func NewServer(addr string, h http.Handler) *http.Server {
	return &http.Server{
		Addr:              addr,
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          errorLog(),
	}
}

func errorLog() *log.Logger {
	return slog.NewLogLogger(slog.Default().With("component", "http").Handler(), slog.LevelWarn)
}

// withTimeout bounds the work for a request.
func withTimeout(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
