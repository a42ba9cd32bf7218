package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"aegis.io/aegis/election"
	"aegis.io/aegis/queue"
	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// leases serves the Lease of the election as the API server does: with versions, conflicts and a UID of each new one. The fake
// client has none of them.
type leases struct {
	mu      sync.Mutex
	lease   *coordinationv1.Lease
	version int
	made    int
	// before happens before the next read. The elector of a leader reads nothing as long as its writes succeed, but the orders are read.
	before func(lease *coordinationv1.Lease)
}

func (l *leases) serve(client *fake.Clientset) {
	client.PrependReactor("*", "leases", func(action clienttesting.Action) (bool, runtime.Object, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if happens := l.before; happens != nil && action.GetVerb() == "get" {
			l.before = nil
			l.change(happens)
		}
		lease, err := l.answer(action)
		return true, lease, err
	})
}

func (l *leases) answer(action clienttesting.Action) (*coordinationv1.Lease, error) {
	resource := coordinationv1.Resource("leases")
	switch verb := action.GetVerb(); {
	case verb == "create" && l.lease != nil:
		return nil, apierrors.NewAlreadyExists(resource, l.lease.Name)
	case verb == "create":
		l.made++
		wanted := leaseIn(action)
		wanted.UID = types.UID(fmt.Sprint("lease-", l.made))
		l.put(wanted)
	case l.lease == nil:
		return nil, apierrors.NewNotFound(resource, "aegis")
	case verb == "update":
		wanted := leaseIn(action)
		if wanted.ResourceVersion != l.lease.ResourceVersion || wanted.UID != l.lease.UID {
			return nil, apierrors.NewConflict(resource, wanted.Name, errors.New("it has changed"))
		}
		l.put(wanted)
	case verb == "patch":
		var wanted coordinationv1.Lease
		patch, ok := action.(clienttesting.PatchAction)
		if !ok {
			return nil, fmt.Errorf("%T is no patch", action)
		}
		if err := json.Unmarshal(patch.GetPatch(), &wanted); err != nil {
			return nil, err
		}
		if wanted.ResourceVersion != l.lease.ResourceVersion {
			return nil, apierrors.NewConflict(resource, l.lease.Name, errors.New("it has changed"))
		}
		lease := l.lease.DeepCopy()
		lease.Annotations = wanted.Annotations // The tests write no annotation twice.
		l.put(lease)
	case verb != "get":
		return nil, fmt.Errorf("no %s of leases in this test", verb)
	}
	return l.lease.DeepCopy(), nil
}

// Do calls the function while nobody reads or writes the Lease.
func (l *leases) Do(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do()
}

func (l *leases) put(lease *coordinationv1.Lease) {
	l.version++
	lease.ResourceVersion = strconv.Itoa(l.version)
	l.lease = lease
}

// change has somebody edit the Lease with kubectl. One without a name is deleted.
func (l *leases) change(how func(lease *coordinationv1.Lease)) {
	lease := l.lease.DeepCopy()
	how(lease)
	if l.put(lease); lease.Name == "" {
		l.lease = nil
	}
}

func (l *leases) holder() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lease == nil || l.lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.lease.Spec.HolderIdentity
}

// firing is a Prometheus and an Alertmanager that know of at most one alert.
type firing struct {
	mu     sync.Mutex
	alerts []prom.Alert
}

// in lists the alert with the state that the source gives it.
type in struct {
	*firing
	state prom.AlertState
}

// Evidence tells that every node is seen.
func (s in) Evidence(_ context.Context, r source.EvidenceRequest) ([]source.Sighting, error) {
	var seen []source.Sighting
	for _, name := range r.Names {
		seen = append(seen, source.Sighting{Labels: map[string]string{"node": name}})
	}
	return seen, nil
}

func (s in) Alerts(context.Context) ([]prom.Alert, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var alerts []prom.Alert
	for _, a := range s.alerts {
		a.State = s.state
		alerts = append(alerts, a)
	}
	return alerts, nil
}

func (s in) Silences(context.Context) ([]source.Silence, error) { return nil, nil }

// fire has the condition fire on the node, or no longer.
func (s *firing) fire(node, condition string, fires bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alerts = nil
	if fires {
		s.alerts = []prom.Alert{{
			Labels:      map[string]string{"alertname": condition, "condition": condition, "node": node},
			Fingerprint: node + condition, StartsAt: time.Now().Add(-time.Hour),
		}}
	}
}

// site is a cluster of one node with its sources, and replicas of Aegis that stand for leader.
type site struct {
	t      *testing.T
	client *fake.Clientset
	leases *leases
	alerts *firing
	// unlisted has the API server fail lists of nodes.
	unlisted atomic.Bool
	repair   func(ctx context.Context, b *sop.ApiBridge) error
}

const (
	sickNode = "n1"
	sickness = "HighLoad"
)

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, leases: &leases{}, alerts: &firing{}}
	s.client = fake.NewClientset(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: sickNode, UID: "node-1", ResourceVersion: "1"},
		Status: corev1.NodeStatus{
			NodeInfo:   corev1.NodeSystemInfo{BootID: "boot"},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	})
	s.leases.serve(s.client)
	s.client.PrependReactor("list", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		return s.unlisted.Load(), nil, apierrors.NewInternalError(errors.New("etcdserver: leader changed"))
	})
	s.repair = func(ctx context.Context, b *sop.ApiBridge) error {
		s.alerts.fire(sickNode, sickness, false)
		return b.HandOver(ctx, "host", "seen")
	}
	return s
}

// replica is one process of Aegis.
type replica struct {
	*app
	log *sharedBuffer
	// Each hook is called when the replica does what it is called for, unless it is nil.
	looks, classifies, identifies, reaches atomic.Pointer[func()]
	ended                                  chan error
	stop                                   context.CancelCauseFunc
}

// call calls the hook, if there is one.
func call(hook *atomic.Pointer[func()]) {
	if f := hook.Load(); f != nil {
		(*f)()
	}
}

// once has the hook do something once.
func once(hook *atomic.Pointer[func()], do func()) {
	hook.Store(new(func() {
		hook.Store(nil)
		do()
	}))
}

// hooked is a classifier with a hook.
type hooked struct {
	queue.Classifier
	hook *atomic.Pointer[func()]
}

func (c hooked) Classify(a prom.Alert) (prom.Observation, error) {
	call(c.hook)
	return c.Classifier.Classify(a)
}

// hookedClient is a client with a hook in front of every call about Leases.
type hookedClient struct {
	kubernetes.Interface
	hook *atomic.Pointer[func()]
}

func (c hookedClient) CoordinationV1() coordinationclient.CoordinationV1Interface {
	return hookedCoordination{c.Interface.CoordinationV1(), c.hook}
}

type hookedCoordination struct {
	coordinationclient.CoordinationV1Interface
	hook *atomic.Pointer[func()]
}

func (c hookedCoordination) Leases(namespace string) coordinationclient.LeaseInterface {
	call(c.hook)
	return c.CoordinationV1Interface.Leases(namespace)
}

// hookedLister is a cache of nodes with a hook. A visit looks into it before it takes any lock.
type hookedLister struct {
	corelisters.NodeLister
	hook *atomic.Pointer[func()]
}

func (l hookedLister) Get(name string) (*corev1.Node, error) {
	call(l.hook)
	return l.NodeLister.Get(name)
}

// start starts a replica, as aegis serve does.
func (s *site) start() *replica {
	s.t.Helper()
	cfg := config{}.withDefaults()
	catalogue, err := rules.Load(rules.Options{Mode: prom.ModeAuto})
	require.NoError(s.t, err)
	store := rules.NewStore(catalogue)
	table := make(sop.Table)
	for _, c := range catalogue.Conditions() {
		table[c.SOP] = func() sop.SOP {
			return sop.NewProcedure(func(ctx context.Context, b *sop.ApiBridge) error { return s.repair(ctx, b) })
		}
	}
	r := &replica{log: new(sharedBuffer), ended: make(chan error, 1)}
	settings := func() policy.Settings { return policy.Settings{} }
	reached := hookedClient{s.client, &r.reaches}
	clients := clients{calls: s.client, watches: s.client, election: reached}
	logger := slog.New(slog.NewTextHandler(io.MultiWriter(s.t.Output(), r.log), nil))
	a := &app{cfg: cfg, config: &liveConfig{rules: store}, clients: clients, logger: logger, log: logger, events: record.NewBroadcaster()}
	a.queue = queue.New(queue.Options{})
	a.nodes = newNodeCache(informers.NewSharedInformerFactory(s.client, 0), a.queue, settings)
	a.orders = sop.NewOrderStore(sop.OrderStoreOptions{
		Client: reached.CoordinationV1(), Namespace: cfg.LeaderElection.Namespace, Name: cfg.LeaderElection.Name,
		Identity: func() string { call(&r.identifies); return a.identity }, Restored: a.ordersRestored,
	})
	classifier := rules.NewClassifier(rules.ClassifierOptions{Store: store, Nodes: a.nodes.index, NodeLabels: []string{"node"}})
	a.resync, err = queue.NewResync(queue.ResyncOptions{
		Queue: a.queue, Prometheus: in{s.alerts, prom.StateFiring}, Classifier: hooked{classifier, &r.classifies}, Gone: a.nodes.gone,
		Alertmanagers: map[string]queue.AlertSource{"am": in{s.alerts, prom.StateActive}},
	})
	require.NoError(s.t, err)
	metrics := sop.NewMetrics(prometheus.NewRegistry())
	a.dispatcher = sop.NewDispatcher(sop.Services{
		Kube: s.client, Nodes: hookedLister{a.nodes.lister, &r.looks}, Tickets: ticket.NewStore(ticket.StoreOptions{Client: s.client.CoreV1()}),
		Source: a.resync, Conditions: a.queue, Recorder: &record.FakeRecorder{}, Orders: a.orders,
		Verdicts: sop.NewVerdictCache(metrics, clock.RealClock{}), Settings: settings, Timing: sop.DefaultTiming(), Metrics: metrics, Logger: a.logger,
	}, a.queue, store, table)
	a.nodes.changed = a.dispatcher.NodeChanged
	a.duty = a.newDuty()
	r.app = a
	var ctx context.Context
	ctx, r.stop = context.WithCancelCause(s.t.Context())
	go func() { r.ended <- a.work(ctx) }()
	return r
}

// end stops the replica in order.
func (s *site) end(r *replica) {
	s.t.Helper()
	r.stop(sop.ErrStopping)
	require.NoError(s.t, <-r.ended)
}

// record returns what is on the node.
func (s *site) record() ticket.Record {
	s.t.Helper()
	node, err := s.client.CoreV1().Nodes().Get(s.t.Context(), sickNode, metav1.GetOptions{})
	require.NoError(s.t, err)
	return ticket.ReadNode(node)
}

// takeTicket has a person delete the ticket.
func (s *site) takeTicket() {
	s.t.Helper()
	node := s.record().Node.DeepCopy()
	delete(node.Annotations, ticket.Annotation)
	_, err := s.client.CoreV1().Nodes().Update(s.t.Context(), node, metav1.UpdateOptions{})
	require.NoError(s.t, err)
}

// until waits for something, and returns after which time it was so.
func (s *site) until(within time.Duration, what string, is func() bool) time.Duration {
	s.t.Helper()
	began := time.Now()
	for !is() {
		if time.Since(began) > within {
			require.Fail(s.t, "not within "+within.String(), what)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return time.Since(began)
}

// handedOver reports whether the sick node has got to people.
func (s *site) handedOver() bool {
	t := s.record().Ticket
	return t != nil && t.Supervisor == "host"
}

// Whatever happens to the Lease, there is no leader that decides nothing: a node that falls ill afterwards is cared for.
func TestWhateverHappensToTheLeaseNodesAreDecidedOn(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*coordinationv1.Lease){
		"nothing happens":                 func(*coordinationv1.Lease) {},
		"somebody clears the holder":      func(l *coordinationv1.Lease) { l.Spec.HolderIdentity = new("") },
		"somebody takes the holder away":  func(l *coordinationv1.Lease) { l.Spec.HolderIdentity = nil },
		"somebody else takes the Lease":   func(l *coordinationv1.Lease) { l.Spec.HolderIdentity = new("thief") },
		"somebody deletes the Lease":      func(l *coordinationv1.Lease) { l.Name = "" },
		"a copy of the Lease replaces it": func(l *coordinationv1.Lease) { l.UID = "copy" },
	}
	for name, happens := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				r := s.start()
				leads := func() bool { ready, _ := r.ready(); return ready }
				s.until(10*time.Second, "leads", leads)
				for _, when := range []func(){
					func() { s.leases.Do(func() { s.leases.change(happens) }) },
					func() { s.leases.Do(func() { s.leases.before = happens }) },
				} {
					when()
					time.Sleep(15 * time.Second)
					s.until(time.Minute, "leads again", leads)
					s.alerts.fire(sickNode, sickness, true)
					s.until(time.Minute, "the sick node gets to people", s.handedOver)
					require.Equal(t, r.identity, s.leases.holder())
					s.takeTicket()
				}
				s.end(r)
				require.Empty(t, s.leases.holder(), "a leader that stops gives the Lease up")
			})
		})
	}
}

// isLeader reports whether the replica leads, as its readiness says.
func (r *replica) isLeader() bool {
	ready, _ := r.ready()
	return ready
}

// Whatever ends one part of a term ends all of it, and another replica leads at once. Alone, the replica leads again after a pause. A leader
// that does not decide on what is due is as good as one that has ended.
func TestWhateverEndsAPartOfATermEndsTheTerm(t *testing.T) {
	t.Parallel()
	boom := func() { panic("boom") }
	tests := map[string]struct {
		happens func(s *site, r *replica)
		said    string
		// within is how long it takes at most until somebody leads who decides.
		within time.Duration
	}{
		"resync panics":    {func(_ *site, r *replica) { once(&r.classifies, boom) }, "resync panicked: boom", 45 * time.Second},
		"the orders panic": {func(_ *site, r *replica) { once(&r.identifies, boom) }, "its part orders panicked: boom", 20 * time.Second},
		"a visit hangs":    {func(_ *site, r *replica) { once(&r.looks, func() { time.Sleep(75 * time.Second) }) }, "a decision has been due for", 3 * time.Minute},
		"a term does not begin to decide": {
			func(s *site, _ *replica) {
				s.unlisted.Store(true)
				s.leases.Do(func() { s.leases.change(func(l *coordinationv1.Lease) { l.Spec.HolderIdentity = nil }) })
				time.AfterFunc(5*time.Minute, func() { s.unlisted.Store(false) })
			},
			"a decision has been due for", 8 * time.Minute,
		},
		"the leader is frozen": {
			func(_ *site, r *replica) {
				thaws := make(chan struct{})
				time.AfterFunc(40*time.Second, func() { r.reaches.Store(nil); close(thaws) })
				r.reaches.Store(new(func() { <-thaws }))
			},
			"lost the lease", time.Minute,
		},
	}
	for name, tt := range tests {
		for _, alone := range []bool{true, false} {
			switch {
			case alone && name == "the leader is frozen":
				continue // Nobody takes its Lease, so its term goes on.
			case !alone && name == "a term does not begin to decide":
				continue // Neither does that of the other one.
			}
			t.Run(fmt.Sprintf("%s, alone %t", name, alone), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					s := newSite(t)
					first := s.start()
					s.until(10*time.Second, "leads", first.isLeader)
					next := first
					if !alone {
						next = s.start()
					}
					s.alerts.fire("n9", sickness, true) // Of no node of ours: something is to be classified.
					time.Sleep(time.Minute)
					tt.happens(s, first)
					s.alerts.fire(sickNode, sickness, true)
					began := time.Now()
					s.until(tt.within, "leads no longer", func() bool { return !first.isLeader() })
					s.until(tt.within-time.Since(began), "somebody leads", next.isLeader)
					s.until(time.Minute, "the sick node gets to people", s.handedOver)
					require.Contains(t, first.log.String(), tt.said)
					s.end(first)
					if !alone {
						require.Equal(t, next.identity, s.leases.holder())
						s.end(next)
					}
				})
			})
		}
	}
}

// A leader whose work does not even end with its term leaves the Lease to run out, and its process ends. It does not give the Lease up while
// its work may still do something.
func TestALeaderThatCannotStopEndsItsProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		first := s.start()
		s.until(10*time.Second, "leads", first.isLeader)
		next := s.start()
		wakes := make(chan struct{})
		once(&first.looks, func() { <-wakes })
		s.alerts.fire(sickNode, sickness, true)
		s.until(2*time.Minute, "says that it does not decide", func() bool { return !first.isLeader() })
		_, why := first.ready()
		require.Contains(t, why, "a decision has been due for 1m")
		ended := time.Now()
		require.ErrorIs(t, <-first.ended, election.ErrStuck)
		require.Equal(t, first.identity, s.leases.holder(), "the work may still do something")
		s.until(30*time.Second, "another replica leads", next.isLeader)
		t.Log("another replica leads after", time.Since(ended))
		s.until(time.Minute, "the sick node gets to people", s.handedOver)
		close(wakes)
		first.stop(sop.ErrStopping)
		time.Sleep(time.Minute)
		require.Equal(t, next.identity, s.leases.holder())
		s.end(next)
	})
}

// The orders outlive the Lease that they stand on: whoever leads next has seen them, as leader or while it stood by, and writes them again.
// A first Lease has none, and is not taken for one that was deleted.
func TestOrdersOutliveTheLease(t *testing.T) {
	t.Parallel()
	for _, alone := range []bool{true, false} {
		t.Run(fmt.Sprint("alone ", alone), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				first := s.start()
				s.until(10*time.Second, "leads", first.isLeader)
				require.Nil(t, first.orders.Last().Pause)
				next := first
				if !alone {
					next = s.start()
				}
				ordered := map[string]string{sop.PausedAnnotation: "the core switch is replaced", sop.ModesAnnotation: `{"GpuHung":{"mode":"off"}}`}
				s.leases.Do(func() { s.leases.change(func(l *coordinationv1.Lease) { l.Annotations = ordered }) })
				time.Sleep(30 * time.Second)
				thaws := make(chan struct{})
				if !alone {
					first.reaches.Store(new(func() { <-thaws })) // It sees nothing of what follows.
				}
				s.leases.Do(func() { s.leases.change(func(l *coordinationv1.Lease) { l.Name = "" }) })
				s.until(time.Minute, "leads on another Lease", func() bool { return s.leases.holder() == next.identity && next.isLeader() })
				time.Sleep(time.Second)
				require.Equal(t, "the core switch is replaced", next.orders.Last().Pause.Reason)
				s.leases.Do(func() { require.Equal(t, ordered, s.leases.lease.Annotations) })
				require.Contains(t, next.log.String(), "the Lease was deleted; the orders on it that do less are written on the new one")
				close(thaws)
				s.end(first)
				if !alone {
					s.end(next)
				}
			})
		})
	}
}

// leaseIn returns a copy of the Lease that the action writes.
func leaseIn(action clienttesting.Action) *coordinationv1.Lease {
	// A create and an update have the same method.
	if write, ok := action.(clienttesting.CreateAction); ok {
		if lease, ok := write.GetObject().(*coordinationv1.Lease); ok {
			return lease.DeepCopy()
		}
	}
	panic(fmt.Sprintf("%T writes no Lease", action))
}

// sharedBuffer is a log that is written and read at the same time.
type sharedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *sharedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *sharedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
