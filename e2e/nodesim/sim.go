// Package nodesim simulates the machines behind Node objects: their power and boots, their kubelets, the programs on
// their disks, the exporters that describe them, and the faults of all of these.
//
// The kubelets run the pods of node operations for real: each such pod starts the binary of Aegis on the root folder of
// the simulated host. All other pods are left to kwok.
package nodesim

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"aegis.io/aegis/e2e/cluster"
)

const (
	defaultBootTime      = 3 * time.Second
	defaultHeartbeat     = time.Second
	defaultLeaseDuration = 8 * time.Second
	workers              = 16
	// retryAfter is when a step is tried again that the API server refused.
	retryAfter = 500 * time.Millisecond
	byNode     = "node"
)

// Options says what the simulated hosts are like.
type Options struct {
	// Client has the rights of an administrator.
	Client kubernetes.Interface
	// Dir takes the root folders of the hosts and the logs of operations.
	Dir string
	// Aegis and AegisOp are the programs of Aegis's image, HostTool the one that stands for the hosts' tools.
	Aegis, AegisOp, HostTool string
	// BootTime is how long a boot takes. The default is 3s.
	BootTime time.Duration
	// Heartbeat is how often a kubelet renews its Lease. The default is 1s.
	Heartbeat time.Duration
	// LeaseDuration is how long the Lease then holds. The default is 8s.
	LeaseDuration time.Duration
	// Log takes what happens to the hosts. The default discards it.
	Log *slog.Logger
}

// Sim runs the hosts of one cluster.
type Sim struct {
	options  Options
	log      *slog.Logger
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
	queue    workqueue.TypedRateLimitingInterface[string]
	nodes    corelisters.NodeLister
	pods     cache.Indexer
	listener net.Listener
	server   *http.Server

	mu    sync.Mutex
	hosts map[string]*host
}

// Start begins to simulate a host for every Node of the cluster, now and later. Stop must be called.
func Start(ctx context.Context, o Options) (*Sim, error) {
	o.BootTime = cmp.Or(o.BootTime, defaultBootTime)
	o.Heartbeat = cmp.Or(o.Heartbeat, defaultHeartbeat)
	o.LeaseDuration = cmp.Or(o.LeaseDuration, defaultLeaseDuration)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, dir := range []string{"hosts", "ops"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, dir), 0o755); err != nil {
			return nil, fmt.Errorf("start nodesim: %w", err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start nodesim: %w", err)
	}
	s := &Sim{
		options:  o,
		log:      o.Log,
		queue:    workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
		hosts:    map[string]*host{},
		listener: listener,
	}
	// The hosts outlive the call.
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.server = &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start nodesim: %w", err), s.Stop())
	}
	return s, nil
}

func (s *Sim) start(ctx context.Context) error {
	s.running.Go(func() {
		if err := s.server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("control server ended", "err", err)
		}
	})
	factory := informers.NewSharedInformerFactory(s.options.Client, 0)
	nodes, pods := factory.Core().V1().Nodes(), factory.Core().V1().Pods()
	s.nodes, s.pods = nodes.Lister(), pods.Informer().GetIndexer()
	err := pods.Informer().AddIndexers(cache.Indexers{byNode: func(object any) ([]string, error) {
		p, ok := object.(*corev1.Pod)
		if !ok {
			return nil, fmt.Errorf("%T is no pod", object)
		}
		return []string{p.Spec.NodeName}, nil
	}})
	if err != nil {
		return err
	}
	if err := s.subscribe(nodes.Informer(), pods.Informer()); err != nil {
		return err
	}
	factory.Start(s.ctx.Done())
	for kind, ok := range factory.WaitForCacheSync(ctx.Done()) {
		if !ok {
			return fmt.Errorf("no list of %s: %w", kind, ctx.Err())
		}
	}
	for range workers {
		s.running.Go(s.work)
	}
	return nil
}

func (s *Sim) subscribe(nodes, pods cache.SharedIndexInformer) error {
	_, nodesErr := nodes.AddEventHandler(handler(func(n *corev1.Node) { s.wake(n.Name) }))
	_, podsErr := pods.AddEventHandler(handler(func(p *corev1.Pod) {
		if p.Spec.NodeName != "" {
			s.wake(p.Spec.NodeName)
		}
	}))
	return errors.Join(nodesErr, podsErr)
}

// handler calls wake for every change of an object.
func handler[T any](wake func(T)) cache.ResourceEventHandlerFuncs {
	changed := func(object any) {
		if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = gone.Obj
		}
		if o, ok := object.(T); ok {
			wake(o)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    changed,
		UpdateFunc: func(_, object any) { changed(object) },
		DeleteFunc: changed,
	}
}

// wake has the node looked at soon.
func (s *Sim) wake(node string) { s.queue.Add(node) }

func (s *Sim) work() {
	for {
		name, shutdown := s.queue.Get()
		if shutdown {
			return
		}
		next := s.options.Heartbeat
		if err := s.reconcile(s.ctx, name); err != nil {
			s.log.Debug("node not reconciled", "node", name, "err", err)
			next = min(next, retryAfter)
		}
		s.queue.Done(name)
		if s.host(name) != nil {
			s.queue.AddAfter(name, next)
		}
	}
}

// after calls f once, unless the simulation has stopped by then.
func (s *Sim) after(d time.Duration, f func()) {
	s.running.Go(func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			f()
		case <-s.ctx.Done():
		}
	})
}

func (s *Sim) host(name string) *host {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hosts[name]
}

// sorted returns the hosts by name.
func (s *Sim) sorted() []*host {
	s.mu.Lock()
	defer s.mu.Unlock()
	hosts := make([]*host, 0, len(s.hosts))
	for _, h := range s.hosts {
		hosts = append(hosts, h)
	}
	slices.SortFunc(hosts, func(a, b *host) int { return cmp.Compare(a.name, b.name) })
	return hosts
}

// resume returns the host of the Node, which boots when it is seen for the first time.
func (s *Sim) resume(n *corev1.Node) *host {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.hosts[n.Name]
	if !ok {
		gpus, hcas := n.Status.Capacity[cluster.GPUResource], n.Status.Capacity[cluster.RDMAResource]
		h = newHost(s, n.Name, int(gpus.Value()), int(hcas.Value()))
		s.hosts[n.Name] = h
	}
	return h
}

func (s *Sim) forget(name string) error {
	s.mu.Lock()
	h, ok := s.hosts[name]
	delete(s.hosts, name)
	s.mu.Unlock()
	if !ok {
		return nil
	}
	return h.discard()
}

// existing returns the host of a Node that has been seen.
func (s *Sim) existing(node string) (*host, error) {
	if h := s.host(node); h != nil {
		return h, nil
	}
	return nil, fmt.Errorf("there is no host %q", node)
}

// Inject gives the host a fault.
func (s *Sim) Inject(node string, i Injection) error {
	h, err := s.existing(node)
	if err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	var before map[types.UID]bool
	if f, err := lookupFault(i.Fault); err == nil && pluginSelector(f.unit) != nil {
		before = map[types.UID]bool{}
		for _, p := range s.podsOn(node) {
			before[p.UID] = true
		}
	}
	if err := h.inject(i, before); err != nil {
		return fmt.Errorf("inject: %w", err)
	}
	s.wake(node)
	return nil
}

// Clear takes the named faults away from the host, or all of them if none is named.
func (s *Sim) Clear(node string, faults ...string) error {
	h, err := s.existing(node)
	if err != nil {
		return fmt.Errorf("clear: %w", err)
	}
	if err := h.clear(faults); err != nil {
		return fmt.Errorf("clear: %w", err)
	}
	s.wake(node)
	return nil
}

// Power switches the host on or off, as a person does.
func (s *Sim) Power(node string, on bool) error {
	h, err := s.existing(node)
	if err != nil {
		return fmt.Errorf("power: %w", err)
	}
	if err := h.setPower(on); err != nil {
		return fmt.Errorf("power of %s: %w", node, err)
	}
	return nil
}

// State returns what the host is in.
func (s *Sim) State(node string) (State, error) {
	h, err := s.existing(node)
	if err != nil {
		return State{}, fmt.Errorf("state: %w", err)
	}
	return h.state(), nil
}

// States returns the state of every host, sorted by name.
func (s *Sim) States() []State {
	var states []State
	for _, h := range s.sorted() {
		states = append(states, h.state())
	}
	return states
}

// Stop ends everything that runs on the hosts, and the simulation.
func (s *Sim) Stop() error {
	s.cancel()
	s.queue.ShutDown()
	errs := []error{s.server.Close()}
	for _, h := range s.sorted() {
		errs = append(errs, h.discard())
	}
	s.running.Wait()
	return errors.Join(errs...)
}

// uuidFrom returns a UUID that depends on the seed alone.
func uuidFrom(seed string) types.UID {
	sum := sha256.Sum256([]byte(seed))
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16]))
}
