package handler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

var (
	_ Sink       = (*memorySink)(nil)
	_ Classifier = labelClassifier{}
	_ Commander  = (*scriptedCommander)(nil)
	_ Nodes      = brokenNodes{}
	_ Conditions = (*queue.Queue)(nil)
	_ Verdicts   = (*sop.VerdictCache)(nil)
	_ Commander  = (*sop.Dispatcher)(nil)
)

// memorySink keeps what it observes.
type memorySink struct {
	mu       sync.Mutex
	observed []prom.Observation
	calls    int
	hook     func()
}

func (s *memorySink) Observe(obs ...prom.Observation) {
	if s.hook != nil {
		s.hook()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	s.observed = append(s.observed, obs...)
}

func (s *memorySink) all() []prom.Observation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.observed)
}

// labelClassifier takes node and condition from the labels of these names.
type labelClassifier struct{}

func (labelClassifier) Classify(a prom.Alert) (prom.Observation, error) {
	switch {
	case a.Labels["panic"] != "":
		panic("poisoned label")
	case a.Labels["foreign"] != "":
		return prom.Observation{}, errors.New(a.Labels["foreign"])
	case a.Labels["reason"] != "":
		return prom.Observation{}, &rules.Drop{Reason: a.Labels["reason"]}
	case a.Labels["node"] == "":
		return prom.Observation{}, &rules.Drop{Reason: rules.DropNoNode, Detail: "no label names the node"}
	}
	return prom.Observation{
		Fingerprint: a.Fingerprint,
		Status:      prom.AegisNodeStatus{Node: a.Labels["node"], Condition: a.Labels["condition"], Msg: a.Annotations["summary"]},
		Firing:      a.State == prom.StateFiring && (a.EndsAt.IsZero() || a.EndsAt.After(time.Now())),
		StartsAt:    a.StartsAt,
	}, nil
}

// scriptedCommander answers as told and keeps what it is asked for.
type scriptedCommander struct {
	nodes corelisters.NodeLister

	mu    sync.Mutex
	heals []policy.HealRequest
	taken []string
	// orders are in force.
	orders policy.Orders
	limits []policy.LimitState
	// err is what every request and order ends with, nodeErr what every look at a node ends with.
	err, nodeErr error
	hook         func(ctx context.Context) error
}

func (s *scriptedCommander) take(ctx context.Context, order string, change func()) error {
	if s.hook != nil {
		if err := s.hook(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = append(s.taken, order)
	if s.err == nil {
		change()
	}
	return s.err
}

func (s *scriptedCommander) Node(name string) (*corev1.Node, error) {
	if s.nodeErr != nil {
		return nil, s.nodeErr
	}
	return s.nodes.Get(name)
}

func (s *scriptedCommander) Heal(ctx context.Context, r policy.HealRequest) (policy.HealResult, error) {
	result := policy.HealResult{Verdict: policy.Verdict{Name: policy.VerdictExecute}}
	if r.DryRun {
		result.Plan = []string{"cordon", "reboot"}
	} else {
		result.Ticket = someTicket
	}
	return result, s.take(ctx, "heal "+r.Status.Node, func() { s.heals = append(s.heals, r) })
}

func (s *scriptedCommander) Approve(ctx context.Context, o policy.NodeOrder) (policy.HealResult, error) {
	result := policy.HealResult{Ticket: someTicket, Verdict: policy.Verdict{Name: policy.VerdictExecute}}
	return result, s.take(ctx, fmt.Sprintf("approve %+v", o), func() {})
}

func (s *scriptedCommander) Check(ctx context.Context, o policy.NodeOrder) (policy.HealResult, error) {
	result := policy.HealResult{Ticket: someTicket, Verdict: policy.Verdict{Name: policy.VerdictExecute}}
	return result, s.take(ctx, fmt.Sprintf("check %+v", o), func() {})
}

func (s *scriptedCommander) Cancel(ctx context.Context, o policy.NodeOrder) error {
	return s.take(ctx, fmt.Sprintf("cancel %+v", o), func() {})
}

func (s *scriptedCommander) TakeOver(ctx context.Context, o policy.NodeOrder) error {
	return s.take(ctx, fmt.Sprintf("takeover %+v", o), func() {})
}

func (s *scriptedCommander) Release(ctx context.Context, o policy.NodeOrder) error {
	return s.take(ctx, fmt.Sprintf("release %+v", o), func() {})
}

func (s *scriptedCommander) Orders() policy.Orders { return s.orders }

func (s *scriptedCommander) Storms() []policy.Storm { return s.orders.Storms }

func (s *scriptedCommander) Limits() ([]policy.LimitState, error) { return s.limits, s.err }

func (s *scriptedCommander) Pause(ctx context.Context, o policy.Order) error {
	return s.take(ctx, o.Of("pause"), func() { s.orders.Pause = &o })
}

func (s *scriptedCommander) Resume(ctx context.Context, by string) error {
	return s.take(ctx, "resume by "+by, func() { s.orders.Pause = nil })
}

func (s *scriptedCommander) SetMode(ctx context.Context, condition string, mode prom.Mode, o policy.Order) error {
	return s.take(ctx, o.Of("mode "+string(mode)+" of "+condition), func() {
		s.orders.Modes = map[string]policy.ModeOrder{condition: {Mode: mode, Order: o}}
	})
}

func (s *scriptedCommander) ResetMode(ctx context.Context, condition, by string) error {
	return s.take(ctx, "reset of "+condition+" by "+by, func() { s.orders.Modes = nil })
}

func (s *scriptedCommander) ReleaseStorm(ctx context.Context, condition, pool string, o policy.Order) error {
	return s.take(ctx, o.Of("storm of "+condition+" in "+pool), func() { s.orders.Storms[0].Released = &o })
}

// someTicket is the ID of the tickets that a scriptedCommander opens.
const someTicket = "20261123t153000-4f2a91"

// brokenNodes cannot be listed.
type brokenNodes struct{ err error }

func (n brokenNodes) List(labels.Selector) ([]*corev1.Node, error) { return nil, n.err }

// fixture is a Handler with everything it talks to.
type fixture struct {
	handler   *Handler
	sink      *memorySink
	commander *scriptedCommander
	nodes     cache.Indexer
	queue     *queue.Queue
	verdicts  *sop.VerdictCache
	catalogue *rules.Store
	settings  policy.Settings
	registry  *prometheus.Registry
	log       *bytes.Buffer
	resyncs   *int
	routes    http.Handler
}

// builtin returns the catalogue that is built in.
var builtin = sync.OnceValues(func() (*rules.Catalogue, error) { return rules.Load(rules.Options{Mode: prom.ModeObserve}) })

// newFixture returns a Handler that is ready, changed by the given functions. It knows one node, on which nothing holds.
func newFixture(t testing.TB, change ...func(*Options)) *fixture {
	t.Helper()
	catalogue, err := builtin()
	require.NoError(t, err)
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	f := &fixture{
		sink: &memorySink{},
		commander: &scriptedCommander{
			nodes:  corelisters.NewNodeLister(nodes),
			orders: policy.Orders{Storms: []policy.Storm{{Condition: "GpuHung", Pool: "h100", Nodes: 9, Limit: 5}}},
		},
		nodes:     nodes,
		queue:     queue.New(queue.Options{}),
		verdicts:  sop.NewVerdictCache(sop.NewMetrics(nil), clock.RealClock{}),
		catalogue: rules.NewStore(catalogue),
		registry:  prometheus.NewPedanticRegistry(),
		log:       &bytes.Buffer{},
		resyncs:   new(int),
	}
	f.add(t, bareNode("gpu-17"))
	o := Options{
		Sink:       f.sink,
		Classifier: labelClassifier{},
		Commander:  f.commander,
		Nodes:      f.commander.nodes,
		Conditions: f.queue,
		Verdicts:   f.verdicts,
		Catalogue:  f.catalogue,
		Settings:   func() policy.Settings { return f.settings },
		Ready:      func() (bool, string) { return true, "" },
		Reload:     func() error { return nil },
		Resync:     func() { *f.resyncs++ },
		Registerer: f.registry,
		Gatherer:   f.registry,
		Auth:       trusting(),
		Logger:     slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&o)
	}
	f.handler, err = New(o)
	require.NoError(t, err)
	f.routes = f.handler.Routes()
	return f
}

// add adds nodes, or changes them.
func (f *fixture) add(t testing.TB, nodes ...*corev1.Node) {
	t.Helper()
	for _, node := range nodes {
		require.NoError(t, f.nodes.Update(node))
	}
}

// holds has the queue hear of a condition.
func (f *fixture) holds(node, condition, device string) {
	status := f.catalogue.Current().Status(node, condition, device)
	f.queue.Observe(prom.Observation{Status: status, Firing: true, StartsAt: time.Date(2026, 11, 23, 15, 0, 0, 0, time.UTC)})
}

func bareNode(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// ends has every request and order end with the error.
func ends(err error) func(*Options) {
	return commands(func(s *scriptedCommander) { s.err = err })
}

// unseen has every look at a node end with the error.
func unseen(err error) func(*Options) {
	return commands(func(s *scriptedCommander) { s.nodeErr = err })
}

func commands(change func(*scriptedCommander)) func(*Options) {
	return func(o *Options) {
		if s, ok := o.Commander.(*scriptedCommander); ok {
			change(s)
		}
	}
}

func notReady(reason string) func(*Options) {
	return func(o *Options) { o.Ready = func() (bool, string) { return false, reason } }
}

// serve starts a server for the fixture on loopback.
func (f *fixture) serve(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(f.routes)
	t.Cleanup(server.Close)
	return server
}

// outcome returns the counter of the alerts with the outcome.
func (f *fixture) outcome(name string) float64 {
	return testutil.ToFloat64(f.handler.metrics.alerts.WithLabelValues(name))
}

// answer is a response, read to its end.
type answer struct {
	code   int
	header http.Header
	body   string
}

// problem returns the answer as the error that it must be.
func (a answer) problem(t testing.TB) string {
	t.Helper()
	var e errorBody
	decoder := json.NewDecoder(strings.NewReader(a.body))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&e), a.body)
	require.Equal(t, a.code, e.Status)
	require.NotEmpty(t, e.Error)
	require.Equal(t, "application/json", a.header.Get("Content-Type"))
	return e.Error
}

func jsonRequest(t testing.TB, method, url, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

func do(t testing.TB, r *http.Request) answer {
	t.Helper()
	a, err := roundTrip(r)
	require.NoError(t, err)
	return a
}

// sent is the answer to a request that another goroutine sends.
type sent struct {
	answer answer
	err    error
}

func send(r *http.Request, to chan<- sent) {
	a, err := roundTrip(r)
	to <- sent{answer: a, err: err}
}

func requireStatus(t testing.TB, code int, s sent) {
	t.Helper()
	require.NoError(t, s.err)
	require.Equal(t, code, s.answer.code)
}

func roundTrip(r *http.Request) (answer, error) {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	body, err := io.ReadAll(response.Body)
	return answer{code: response.StatusCode, header: response.Header, body: string(body)}, errors.Join(err, response.Body.Close())
}

func post(t testing.TB, url, body string) answer {
	t.Helper()
	return do(t, jsonRequest(t, http.MethodPost, url, body))
}

func get(t testing.TB, url string) answer {
	t.Helper()
	return do(t, jsonRequest(t, http.MethodGet, url, ""))
}

// record serves the request without a network. Its remote address is a stranger's unless it is set.
func record(h http.Handler, r *http.Request) answer {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return answer{code: w.Code, header: w.Header(), body: w.Body.String()}
}

func golden(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return string(text)
}

// webhookBody returns a body of Alertmanager, as the packages of this module share them.
func webhookBody(t testing.TB, name string) string {
	t.Helper()
	return golden(t, filepath.Join("../../testdata/webhook", name))
}

const oneAlert = `{"version":"4","alerts":[{"status":"firing","labels":{"alertname":"GpuHung","node":"gpu-17","condition":"GpuHung"}}]}`

func TestNewNamesEveryMissingOption(t *testing.T) {
	t.Parallel()
	h, err := New(Options{})
	require.Nil(t, h)
	for _, name := range []string{"Sink", "Classifier", "Commander", "Nodes", "Conditions", "Verdicts", "Catalogue", "Settings", "Ready", "Reload", "Resync", "Gatherer"} {
		require.ErrorContains(t, err, "option "+name+" is missing")
	}
}

func TestNewDefaults(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(o *Options) { o.Logger, o.Registerer = nil, nil })
	require.Equal(t, 64, f.handler.maxInFlight)
	// Without tokens, a stranger may read and not write.
	require.Equal(t, http.StatusOK, record(f.routes, httptest.NewRequest(http.MethodGet, "/api/v1/nodes/gpu-17", nil)).code)
	require.Equal(t, http.StatusForbidden, record(f.routes, httptest.NewRequest(http.MethodPost, "/-/reload", nil)).code)
}

// answerCase is a request and what it is answered.
type answerCase struct {
	method, path, body string
	request            func(*http.Request)
	options            func(*Options)
	code               int
	says               string
}

func (tc answerCase) run(t *testing.T) {
	t.Helper()
	f := newFixture(t, func(o *Options) {
		if tc.options != nil {
			tc.options(o)
		}
	})
	before := testutil.CollectAndCount(f.handler.metrics.requests)

	r := httptest.NewRequest(tc.method, tc.path, strings.NewReader(tc.body))
	r.Header.Set("Content-Type", "application/json")
	r.RemoteAddr = "127.0.0.1:4711"
	if tc.request != nil {
		tc.request(r)
	}
	got := record(f.routes, r)

	require.Equal(t, tc.code, got.code, got.body)
	if tc.code < 300 {
		require.Contains(t, got.body, tc.says)
	} else {
		require.Contains(t, got.problem(t), tc.says)
	}
	require.Equal(t, tc.code == 405, got.header.Get("Allow") != "")
	require.Empty(t, got.header.Get("Location"))
	require.Equal(t, before, testutil.CollectAndCount(f.handler.metrics.requests), "the series was not there from the start")
	require.Empty(t, f.sinkUnless(tc.path == "/api/v1/alerts" && tc.code == 200))
}

// TestAnswers has every status of every path. The table and the series that exist before the first request must agree.
func TestAnswers(t *testing.T) {
	t.Parallel()
	broken := errors.New("the API server is away")
	const heal = `{"node":"gpu-17","condition":"GpuHung"}`
	noTime := func(r *http.Request) { r.Header.Del("Content-Type") }
	stranger := func(r *http.Request) { r.RemoteAddr = "192.0.2.1:4711" }
	for name, tc := range map[string]answerCase{
		"alerts":                  {method: "POST", path: "/api/v1/alerts", body: oneAlert, code: 200, says: `{"taken":1,"dropped":{}}`},
		"alerts malformed":        {method: "POST", path: "/api/v1/alerts", body: `{"version":`, code: 400, says: "body is not JSON"},
		"alerts by a stranger":    {method: "POST", path: "/api/v1/alerts", body: oneAlert, request: stranger, code: 403, says: "only loopback"},
		"alerts by GET":           {method: "GET", path: "/api/v1/alerts", code: 405, says: "use [POST]"},
		"alerts too large":        {method: "POST", path: "/api/v1/alerts", body: strings.Repeat(" ", maxWebhookBytes+1), code: 413, says: "larger than 16777216 bytes"},
		"alerts as a form":        {method: "POST", path: "/api/v1/alerts", body: oneAlert, request: noTime, code: 415, says: "want application/json"},
		"alerts not ready":        {method: "POST", path: "/api/v1/alerts", body: oneAlert, options: notReady("not the leader"), code: 503, says: "not ready: not the leader"},
		"alerts panic":            {method: "POST", path: "/api/v1/alerts", body: `{"version":"4","alerts":[{"status":"firing","labels":{"panic":"1"}}]}`, code: 500, says: "internal error"},
		"heal":                    {method: "POST", path: "/api/v1/heal", body: heal, code: 202, says: `"ticket":"20261123t153000-4f2a91"`},
		"heal dry run":            {method: "POST", path: "/api/v1/heal", body: `{"node":"gpu-17","sop":"gpu/hung","dryRun":true}`, code: 200, says: `"plan":["cordon","reboot"]`},
		"heal malformed":          {method: "POST", path: "/api/v1/heal", body: `{}`, code: 400, says: "node is missing"},
		"heal by a stranger":      {method: "POST", path: "/api/v1/heal", body: heal, request: stranger, code: 403, says: "role heal"},
		"heal of no node":         {method: "POST", path: "/api/v1/heal", body: heal, options: ends(ticket.ErrNodeGone), code: 404, says: `not found: no Node is named "gpu-17"`},
		"heal by PUT":             {method: "PUT", path: "/api/v1/heal", body: heal, code: 405, says: `method "PUT" is not allowed here`},
		"heal of a taken node":    {method: "POST", path: "/api/v1/heal", body: heal, options: ends(policy.ErrRefused), code: 409, says: "conflict: refused"},
		"heal too large":          {method: "POST", path: "/api/v1/heal", body: strings.Repeat(" ", maxRequestBytes+1), code: 413, says: "larger than 65536 bytes"},
		"heal as a form":          {method: "POST", path: "/api/v1/heal", body: heal, request: noTime, code: 415, says: "want application/json"},
		"heal that is impossible": {method: "POST", path: "/api/v1/heal", body: `{"node":"gpu-17","condition":"Nonsense"}`, code: 422, says: `invalid request: no condition is named "Nonsense"`},
		"heal not ready":          {method: "POST", path: "/api/v1/heal", body: heal, options: notReady("not synced"), code: 503, says: "not ready: not synced"},
		"heal not journaled":      {method: "POST", path: "/api/v1/heal", body: heal, options: ends(broken), code: 503, says: "the API server is away"},
		"node":                    {method: "GET", path: "/api/v1/nodes/gpu-17", request: stranger, code: 200, says: `"name":"gpu-17"`},
		"node that is unknown":    {method: "GET", path: "/api/v1/nodes/gpu-18", code: 404, says: "not found"},
		"node by DELETE":          {method: "DELETE", path: "/api/v1/nodes/gpu-17", code: 405, says: "use [GET HEAD]"},
		"node not readable":       {method: "GET", path: "/api/v1/nodes/gpu-17", options: unseen(broken), code: 503, says: "away"},
		"nodes":                   {method: "GET", path: "/api/v1/nodes", request: stranger, code: 200, says: `{"nodes":[]}`},
		"nodes not readable":      {method: "GET", path: "/api/v1/nodes", options: func(o *Options) { o.Nodes = brokenNodes{broken} }, code: 503, says: "away"},
		"reload":                  {method: "POST", path: "/-/reload", code: 200, says: `{"reloaded":true}`},
		"reload by a stranger":    {method: "POST", path: "/-/reload", request: stranger, code: 403, says: "role heal"},
		"reload by GET":           {method: "GET", path: "/-/reload", code: 405, says: "use [POST]"},
		"reload of a bad file":    {method: "POST", path: "/-/reload", options: func(o *Options) { o.Reload = func() error { return errors.New("conditions.yaml:7: bad") } }, code: 500, says: "conditions.yaml:7: bad"},
		"healthy":                 {method: "GET", path: "/-/healthy", options: notReady("x"), request: stranger, code: 200, says: `{"healthy":true}`},
		"ready":                   {method: "GET", path: "/-/ready", request: stranger, code: 200, says: `{"ready":true}`},
		"ready is not":            {method: "GET", path: "/-/ready", options: notReady("not the leader"), code: 503, says: "not the leader"},
		"ready without a reason":  {method: "GET", path: "/-/ready", options: notReady(""), code: 503, says: "no reason given"},
		"ready by POST":           {method: "POST", path: "/-/ready", code: 405, says: "use [GET HEAD]"},
		"explain":                 {method: "GET", path: "/api/v1/nodes/gpu-17/explain", request: stranger, code: 200, says: "no condition is reported on the node"},
		"explain an unknown node": {method: "GET", path: "/api/v1/nodes/gpu-18/explain", code: 404, says: "not found"},
		"explain by POST":         {method: "POST", path: "/api/v1/nodes/gpu-17/explain", code: 405, says: "use [GET HEAD]"},
		"explain not readable":    {method: "GET", path: "/api/v1/nodes/gpu-17/explain", options: unseen(broken), code: 503, says: "away"},
		"elsewhere":               {method: "POST", path: "/", code: 404, says: "no such path"},
		"a slash too many":        {method: "POST", path: "/api/v1/alerts/", body: oneAlert, code: 404, says: "no such path"},
		"two slashes":             {method: "POST", path: "//api/v1/alerts", body: oneAlert, code: 404, says: "no such path"},
		"a path to be cleaned":    {method: "POST", path: "/api/../api/v1/alerts", body: oneAlert, code: 404, says: "no such path"},
		"metrics on the API":      {method: "GET", path: "/metrics", code: 404, says: "no such path"},
		"an odd method":           {method: "BREW", path: "/api/v1/alerts", code: 405, says: `method "BREW"`},
		"an odd method elsewhere": {method: "BREW", path: "/pot", code: 404, says: "no such path"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.run(t)
		})
	}
}

// sinkUnless returns what was observed, or nothing where that is as it should be.
func (f *fixture) sinkUnless(expected bool) []prom.Observation {
	if expected {
		return nil
	}
	return f.sink.all()
}

func TestAllowNamesTheMethods(t *testing.T) {
	t.Parallel()
	server := newFixture(t).serve(t)
	require.Equal(t, []string{"POST"}, get(t, server.URL+"/api/v1/alerts").header.Values("Allow"))
	require.Equal(t, []string{"GET", "HEAD"}, post(t, server.URL+"/-/healthy", "{}").header.Values("Allow"))
	put := do(t, jsonRequest(t, http.MethodPut, server.URL+"/api/v1/pause", "{}"))
	require.Equal(t, []string{"GET", "HEAD", "POST", "DELETE"}, put.header.Values("Allow"))
	require.Equal(t, []string{"PUT", "DELETE"}, get(t, server.URL+"/api/v1/conditions/GpuHung/mode").header.Values("Allow"))
}

func TestHeadIsAnsweredWithoutABody(t *testing.T) {
	t.Parallel()
	server := newFixture(t).serve(t)
	for _, path := range []string{"/-/healthy", "/-/ready", "/api/v1/nodes/gpu-17", "/api/v1/nodes", "/api/v1/nodes/gpu-17/explain", "/api/v1/pause"} {
		got := do(t, jsonRequest(t, http.MethodHead, server.URL+path, ""))
		require.Equal(t, http.StatusOK, got.code, path)
		require.Empty(t, got.body, path)
	}
}

func TestTelemetry(t *testing.T) {
	t.Parallel()
	f := newFixture(t, notReady("not the leader"), func(o *Options) { o.Auth = tokens(t, "secret", RoleAlerts) })
	telemetry := httptest.NewServer(f.handler.Telemetry())
	t.Cleanup(telemetry.Close)

	require.Equal(t, http.StatusOK, get(t, telemetry.URL+"/-/healthy").code)
	ready := get(t, telemetry.URL+"/-/ready")
	require.Equal(t, http.StatusServiceUnavailable, ready.code)
	require.Equal(t, "not ready: not the leader", ready.problem(t))
	metrics := get(t, telemetry.URL+"/metrics")
	require.Equal(t, http.StatusOK, metrics.code)
	require.Contains(t, metrics.body, `aegis_http_requests_total{code="503",handler="ready"} 1`)
	require.Contains(t, metrics.body, `aegis_webhook_alerts_total{outcome="taken"} 0`)
	require.Equal(t, http.StatusNotFound, post(t, telemetry.URL+"/api/v1/alerts", oneAlert).code)
	require.Equal(t, http.StatusMethodNotAllowed, post(t, telemetry.URL+"/metrics", "{}").code)
}

func TestTelemetryOfABrokenCollector(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(o *Options) {
		o.Gatherer = prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return nil, errors.New("collector is broken") })
	})
	got := record(f.handler.Telemetry(), httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusInternalServerError, got.code)
	require.Contains(t, f.log.String(), "collector is broken")
}

func TestMetricsAreLintClean(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.handler.Telemetry()
	problems, err := testutil.GatherAndLint(f.registry)
	require.NoError(t, err)
	require.Empty(t, problems)
	families, err := f.registry.Gather()
	require.NoError(t, err)
	var names []string
	for _, family := range families {
		names = append(names, family.GetName())
	}
	require.Equal(t, []string{
		"aegis_http_panics_total", "aegis_http_request_duration_seconds", "aegis_http_requests_total",
		"aegis_webhook_alerts_total", "aegis_webhook_last_accepted_timestamp_seconds", "aegis_webhook_truncated_total",
	}, names)
}

func TestRequestsAreCountedAndLogged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	server := f.serve(t)
	require.Equal(t, http.StatusOK, get(t, server.URL+"/api/v1/nodes/gpu-17").code)
	require.Equal(t, http.StatusNotFound, get(t, server.URL+"/nowhere").code)
	server.Close()

	require.NoError(t, testutil.CollectAndCompare(f.handler.metrics.requests.With(prometheus.Labels{"handler": "node", "code": "200"}),
		strings.NewReader("# HELP aegis_http_requests_total Requests answered, by handler and status code.\n# TYPE aegis_http_requests_total counter\n"+
			"aegis_http_requests_total{code=\"200\",handler=\"node\"} 1\n")))
	require.InDelta(t, 1, testutil.ToFloat64(f.handler.metrics.requests.WithLabelValues("other", "404")), 0)
	require.Contains(t, f.log.String(), `level=DEBUG msg="request served" component=handler handler=node method=GET path=/api/v1/nodes/gpu-17`)
}

func TestPanicIsAnsweredCountedAndLogged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	server := f.serve(t)
	got := post(t, server.URL+"/api/v1/alerts", `{"version":"4","alerts":[{"status":"firing","labels":{"panic":"1"}}]}`)
	require.Equal(t, http.StatusInternalServerError, got.code)
	require.NotContains(t, got.problem(t), "poisoned")
	require.Equal(t, http.StatusOK, post(t, server.URL+"/api/v1/alerts", oneAlert).code, "the server lives on")
	server.Close()

	require.InDelta(t, 1, testutil.ToFloat64(f.handler.metrics.panics), 0)
	require.Contains(t, f.log.String(), `err="poisoned label"`)
	require.Contains(t, f.log.String(), "labelClassifier.Classify", "the stack says where")
}

func TestPanicAfterTheAnswerLeavesItAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	late := f.handler.guard(route{name: "late", serve: func(w http.ResponseWriter, _ *http.Request) (reply, error) {
		w.WriteHeader(http.StatusAccepted)
		panic("too late")
	}})
	got := record(late, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Equal(t, http.StatusAccepted, got.code)
	require.Empty(t, got.body)
	require.InDelta(t, 1, testutil.ToFloat64(f.handler.metrics.panics), 0)
}

func TestAnswerThatCannotBeEncoded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	odd := f.handler.guard(route{name: "odd", serve: func(http.ResponseWriter, *http.Request) (reply, error) {
		return reply{status: http.StatusOK, body: make(chan int)}, nil
	}})
	got := record(odd, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Equal(t, http.StatusInternalServerError, got.code)
	require.Equal(t, "the answer cannot be encoded", got.problem(t))
}

func TestReloadRunsOncePerRequest(t *testing.T) {
	t.Parallel()
	calls := 0
	f := newFixture(t, func(o *Options) { o.Reload = func() error { calls++; return nil } })
	server := f.serve(t)
	for range 3 {
		require.Equal(t, http.StatusOK, post(t, server.URL+"/-/reload", "").code)
	}
	require.Equal(t, 3, calls)
}
