package cmd

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"aegis.io/aegis/sop/procedures"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"aegis.io/aegis/handler"
	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// busyTicket is the ticket of a node that is being repaired.
const busyTicket = `id: 19991231t235000-4f2a91
condition: GpuVolSramUncorrectable
device: "3"
sop: gpu/reset
origin: alert
reason: GPU 3 <hangs> & "stalls"
supervisor: aegis
status: resolving
createdAt: 1999-12-31T23:50:00Z
bootID: 5c9f8a4e
hold: "silenced: by alice"
workflows:
- action: cordon
  status: Succeeded
  at: 1999-12-31T23:51:00Z
- action: healthcheck
  status: Failed
  at: 1999-12-31T23:52:00Z
  message: GPU 3 does not answer
- action: drain
  status: Running
  at: 1999-12-31T23:57:00Z
  message: 2 pods left
`

// peopleTicket is a ticket that people own.
const peopleTicket = `id: 19991230t120000-77aa00
condition: IBDown
reason: the cable is bent
supervisor: alice,bob
status: assigned
workflows:
- action: reboot
  status: Failed
`

// busyHistory is the history of a node with two incidents.
func busyHistory(t *testing.T) string {
	t.Helper()
	at := func(day, hour int) time.Time { return time.Date(1999, 12, day, hour, 2, 3, 0, time.UTC) }
	text, err := (&ticket.History{Incidents: []ticket.Incident{
		{
			ID: "19991201t010203-aa11bb", Condition: "GpuVolSramUncorrectable", Device: "3", Opened: at(1, 1), Closed: at(1, 3),
			Outcome: "resolved", SOP: "gpu/reset", Destructive: []ticket.Destructive{{Action: ticket.Reboot, At: at(1, 2)}},
		},
		{ID: "19991202t010203-cc22dd", Condition: "FanSlow", Opened: at(2, 1), Closed: at(2, 2), Outcome: ticket.Noted},
	}}).Encode()
	require.NoError(t, err)
	return text
}

// apiWorld is the API over a real dispatcher, queue, catalogue and nodes. Nothing is decided by itself: the dispatcher does
// not run.
type apiWorld struct {
	t        *testing.T
	routes   http.Handler
	settings policy.Settings
	answers  bytes.Buffer
}

func newAPIWorld(t *testing.T) *apiWorld {
	t.Helper()
	w := &apiWorld{t: t}
	pool := policy.DefaultPool()
	pool.Name, pool.Selector = "h100", labels.SelectorFromSet(labels.Set{"gpu": "h100"})
	w.settings.Pools = []policy.Pool{pool}
	settings := func() policy.Settings { return w.settings }
	catalogue, err := loadCatalogue(rules.Options{Mode: prom.ModeAuto}, procedures.Table())
	require.NoError(t, err)
	store := rules.NewStore(catalogue)

	index := rules.NewNodeIndex()
	client := fake.NewClientset()
	for _, node := range apiNodes(t) {
		require.NoError(t, client.Tracker().Add(node))
		index.Set(rules.NodeInfo{Name: node.Name})
	}
	lister := liveNodes{client}
	metrics := sop.NewMetrics(prometheus.NewRegistry())
	verdicts, q := sop.NewVerdictCache(metrics, clock.RealClock{}), queue.New(queue.Options{})
	classifier := rules.NewClassifier(rules.ClassifierOptions{Store: store, Nodes: index})
	fireSome(t, q, classifier)
	decideSome(verdicts)
	d := sop.NewDispatcher(sop.Services{
		Kube:       client,
		Nodes:      lister,
		Tickets:    ticket.NewStore(ticket.StoreOptions{Client: client.CoreV1()}),
		Conditions: q,
		Source:     unasked{},
		Recorder:   &record.FakeRecorder{},
		Orders: sop.NewOrderStore(sop.OrderStoreOptions{
			Client: client.CoordinationV1(), Namespace: "monitoring", Name: ticket.Self, Identity: func() string { return "" },
		}),
		Verdicts: verdicts,
		Settings: settings,
		Timing:   sop.DefaultTiming(),
		Metrics:  metrics,
		Logger:   slog.New(slog.DiscardHandler),
	}, q, store, procedures.Table())
	for _, node := range apiNodes(t) {
		d.NodeChanged(nil, node)
	}
	auth, err := handler.NewAuth(handler.AuthOptions{AllowLoopback: true})
	require.NoError(t, err)
	h, err := handler.New(handler.Options{
		Auth:       auth,
		Sink:       q,
		Classifier: classifier,
		Commander:  d,
		Nodes:      lister,
		Conditions: q,
		Verdicts:   verdicts,
		Catalogue:  store,
		Settings:   settings,
		Ready:      func() (bool, string) { return true, "" },
		Reload:     func() error { return nil },
		Resync:     func() {},
		Gatherer:   prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	w.routes = h.Routes()
	return w
}

// liveNodes is a cache that never lags.
type liveNodes struct{ client kubernetes.Interface }

var _ corelisters.NodeLister = liveNodes{}

func (n liveNodes) Get(name string) (*corev1.Node, error) {
	return n.client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
}

func (n liveNodes) List(selector labels.Selector) ([]*corev1.Node, error) {
	list, err := n.client.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, err
	}
	nodes := make([]*corev1.Node, 0, len(list.Items))
	for i := range list.Items {
		nodes = append(nodes, &list.Items[i])
	}
	return nodes, nil
}

// apiNodes are a node under repair, one that waits, one whose ticket is broken, one of people, and one that is well.
func apiNodes(t *testing.T) []*corev1.Node {
	t.Helper()
	node := func(name string, ready corev1.ConditionStatus, annotations map[string]string) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, UID: types.UID(name), ResourceVersion: "1", Annotations: annotations, Labels: map[string]string{"gpu": "h100"},
			},
			Status: corev1.NodeStatus{
				NodeInfo:   corev1.NodeSystemInfo{BootID: "5c9f8a4e"},
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
			},
		}
	}
	busy := node("gpu-17", corev1.ConditionTrue, map[string]string{
		ticket.Annotation: busyTicket, ticket.HistoryAnnotation: busyHistory(t), ticket.OwnerAnnotation: "aegis/19991231t235000-4f2a91",
	})
	busy.Spec.Unschedulable = true
	busy.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "aegis", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:unschedulable":{}}}`)}}
	well := node("cpu-1", corev1.ConditionTrue, map[string]string{ticket.HistoryAnnotation: busyHistory(t)})
	well.Labels = nil
	return []*corev1.Node{
		busy,
		node("gpu-18", corev1.ConditionUnknown, nil),
		node("gpu-19", corev1.ConditionTrue, map[string]string{ticket.Annotation: "condition: [\n"}),
		node("gpu-20", corev1.ConditionTrue, map[string]string{ticket.Annotation: peopleTicket}),
		well,
	}
}

// fireSome has the queue hear of what holds.
func fireSome(t *testing.T, q *queue.Queue, classifier *rules.Classifier) {
	t.Helper()
	since := time.Date(1999, 12, 31, 23, 45, 0, 0, time.UTC)
	for i, alert := range []prom.Alert{
		{Labels: map[string]string{"alertname": "GpuVolSramUncorrectable", "node": "gpu-17", "gpu": "3"}, Annotations: map[string]string{"summary": "GPU 3 <hangs>"}},
		{Labels: map[string]string{"alertname": "HighLoad", "node": "gpu-17"}},
		{Labels: map[string]string{"alertname": "GpuVolSramUncorrectable", "node": "gpu-18", "gpu": "0"}},
		{Labels: map[string]string{"alertname": "IBDown", "node": "gpu-20", "id": "mlx5_0"}},
	} {
		alert.State, alert.StartsAt, alert.Fingerprint = prom.StateFiring, since, fmt.Sprintf("%016d", i)
		observation, err := classifier.Classify(alert)
		require.NoError(t, err)
		q.Observe(observation)
	}
}

// decideSome records verdicts, one of them on a condition that is reported no more.
func decideSome(verdicts *sop.VerdictCache) {
	verdicts.Set(prom.Key{Node: "gpu-17", Condition: "GpuVolSramUncorrectable", ID: "3"}, policy.Verdict{Name: policy.VerdictExecute, Reason: "confirmed"})
	verdicts.Set(prom.Key{Node: "gpu-17", Condition: "NodeNotReady"}, policy.Verdict{Name: policy.VerdictUnconfirmed, Reason: "nothing reports it"})
	verdicts.Set(prom.Key{Node: "gpu-18", Condition: "GpuVolSramUncorrectable", ID: "0"}, policy.Verdict{
		Name: policy.VerdictBudget, Reason: "2 of 2 nodes of pool h100 are out of service: gpu-17, gpu-20",
	})
	verdicts.Set(prom.Key{Node: "gpu-20", Condition: "IBDown", ID: "mlx5_0"}, policy.Verdict{Name: policy.VerdictHumanOwned, Reason: "alice,bob"})
}

// newTicket is the ID of a ticket that a test has opened: its end is random.
var newTicket = regexp.MustCompile(`20000101t(\d{6})-[a-z0-9]{6}`)

// ask adds the answer to a request.
func (w *apiWorld) ask(method, path, body string) {
	w.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:4711"
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	recorder := httptest.NewRecorder()
	w.routes.ServeHTTP(recorder, r)
	text := newTicket.ReplaceAll(recorder.Body.Bytes(), []byte("20000101t$1-random"))
	fmt.Fprintf(&w.answers, "### %s %s %s\n%d ", method, path, body, recorder.Code)
	if recorder.Header().Get("Content-Type") != "application/json" {
		w.answers.Write(text)
		return
	}
	require.NoError(w.t, json.Indent(&w.answers, w.sorted(text), "", "  "), string(text))
}

// sorted puts long lists in an order, and leaves of the conditions those that the test is about.
func (w *apiWorld) sorted(text []byte) []byte {
	w.t.Helper()
	var lists map[string]json.RawMessage
	require.NoError(w.t, json.Unmarshal(text, &lists))
	if len(lists) != 1 {
		return text
	}
	for name := range lists {
		var list []json.RawMessage
		if json.Unmarshal(lists[name], &list) != nil {
			return text
		}
		if name == "conditions" {
			list = slices.DeleteFunc(list, func(c json.RawMessage) bool {
				return !bytes.Contains(c, []byte(`"name":"GpuVolSramUncorrectable"`)) && !bytes.Contains(c, []byte(`"name":"IBDown"`))
			})
		}
		slices.SortFunc(list, func(a, b json.RawMessage) int { return cmp.Compare(string(a), string(b)) })
		text = fmt.Appendf(nil, `{%q:[%s]}`+"\n", name, bytes.Join(asBytes(list), []byte(",")))
	}
	return text
}

func asBytes(list []json.RawMessage) [][]byte {
	texts := make([][]byte, 0, len(list))
	for _, text := range list {
		texts = append(texts, text)
	}
	return texts
}

// TestAPI holds the answers of the API, byte for byte, to what scripts and dashboards were written against.
func TestAPI(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newAPIWorld(t)
		time.Sleep(90 * time.Second)
		w.askAboutNodes()
		w.askForRepairs()
		w.giveNodeOrders()
		w.giveGeneralOrders()
		file := filepath.Join("testdata", "api.txt")
		if *update {
			require.NoError(t, os.WriteFile(file, w.answers.Bytes(), 0o600))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), w.answers.String())
	})
}

func (w *apiWorld) askAboutNodes() {
	w.t.Helper()
	for _, node := range []string{"gpu-17", "gpu-18", "gpu-19", "gpu-20", "cpu-1", "none"} {
		w.ask("GET", "/api/v1/nodes/"+node, "")
		w.ask("GET", "/api/v1/nodes/"+node+"/explain", "")
	}
	w.ask("GET", "/api/v1/nodes", "")
}

func (w *apiWorld) askForRepairs() {
	w.t.Helper()
	for _, body := range []string{
		`{"node":"cpu-1","condition":"gpuhung","device":"3","dryRun":true,"reason":"job 4711 stands still"}`,
		`{"node":"cpu-1","sop":"gpu/hung","device":"3","dryRun":true}`,
		`{"node":"cpu-1","condition":"Nonsense"}`,
		`{"node":"cpu-1","sop":"gpu/nonsense"}`,
		`{"node":"cpu-1","sop":"gpfs/not-healthy"}`,
		`{"node":"none","condition":"GpuHung"}`,
		`{"node":"gpu-17","condition":"GpuVolSramUncorrectable","device":"3"}`,
		`{"node":"gpu-17","condition":"IBDown"}`,
		`{"node":"gpu-20","condition":"GpuHung"}`,
		`{"node":"cpu-1","condition":"GpuHung","device":"3","reason":"job 4711 stands still"}`,
	} {
		w.ask("POST", "/api/v1/heal", body)
	}
	w.ask("GET", "/api/v1/nodes/cpu-1", "")
}

func (w *apiWorld) giveNodeOrders() {
	w.t.Helper()
	w.ask("POST", "/api/v1/nodes/gpu-18/approve", `{"condition":"Nonsense"}`)
	w.ask("POST", "/api/v1/nodes/gpu-18/approve", `{"condition":"IBDown"}`)
	w.ask("POST", "/api/v1/nodes/none/approve", `{"condition":"GpuHung"}`)
	w.ask("PUT", "/api/v1/conditions/GpuVolSramUncorrectable/mode", `{"mode":"approve","reason":"not proven"}`)
	w.ask("POST", "/api/v1/nodes/gpu-18/approve", `{"condition":"GPUVOLSRAMUNCORRECTABLE","device":"0","reason":"go"}`)
	w.ask("POST", "/api/v1/nodes/gpu-17/takeover", `{"reason":"let me look"}`)
	w.ask("POST", "/api/v1/nodes/gpu-17/release", "")
	w.ask("POST", "/api/v1/nodes/gpu-17/cancel", `{"reason":"wrong node"}`)
	for _, order := range []string{"adopt", "release", "cancel"} {
		for _, node := range []string{"gpu-18", "gpu-19", "gpu-20", "none"} {
			w.ask("POST", "/api/v1/nodes/"+node+"/"+order, "")
		}
	}
}

func (w *apiWorld) giveGeneralOrders() {
	w.t.Helper()
	w.ask("GET", "/api/v1/conditions", "")
	w.ask("PUT", "/api/v1/conditions/Nonsense/mode", `{"mode":"off"}`)
	w.ask("DELETE", "/api/v1/conditions/Nonsense/mode", "")
	w.ask("DELETE", "/api/v1/conditions/gpuvolsramuncorrectable/mode", "")
	w.ask("GET", "/api/v1/sources", "")
	w.ask("GET", "/api/v1/storms", "")
	w.ask("POST", "/api/v1/storms/release", `{"condition":"Nonsense","pool":"h100"}`)
	w.ask("POST", "/api/v1/storms/release", `{"condition":"GpuHung","pool":"h100"}`)
	w.ask("GET", "/api/v1/silences", "")
	w.ask("DELETE", "/api/v1/silences/none", "")
	w.ask("GET", "/api/v1/limits", "")
	w.ask("GET", "/api/v1/pause", "")
	w.ask("POST", "/api/v1/pause", `{"reason":"the core switch is replaced"}`)
	w.ask("GET", "/api/v1/pause", "")
	w.ask("DELETE", "/api/v1/pause", "")
	w.settings.Paused = true
	w.ask("GET", "/api/v1/pause", "")
	w.ask("DELETE", "/api/v1/pause", "")
}

// unasked is a source that nobody has asked yet.
type unasked struct{}

func (unasked) Observe(context.Context, prom.Key) prom.Finding { return prom.Finding{} }
func (unasked) Last(prom.Key) prom.Finding                     { return prom.Finding{} }
