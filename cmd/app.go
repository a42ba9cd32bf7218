package cmd

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/handler"
	"aegis.io/aegis/jobs"
	"aegis.io/aegis/queue"
	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/ticket"
	"aegis.io/aegis/web"
)

// callTimeout ends a call to the API server on a connection that went dead. Watches have no such bound.
const callTimeout = 30 * time.Second

// app is the wired service.
type app struct {
	cfg        config
	config     *liveConfig
	logger     *slog.Logger
	log        *slog.Logger // That of all parts, each of which adds its name.
	identity   string
	clients    clients
	nodes      *nodeCache
	registry   *prometheus.Registry
	queue      *queue.Queue
	resync     *queue.Resync
	orders     *sop.OrderStore
	dispatcher *sop.Dispatcher
	duty       *duty
	handler    *handler.Handler
	web        *web.Front
	events     record.EventBroadcaster

	// leading is true while this process may act, stopping once it is to end.
	leading, stopping atomic.Bool
}

// clients are the connections to the API server, apart by what a slow answer may hold up.
type clients struct {
	calls, watches, election kubernetes.Interface
}

func newClients(base *rest.Config, renewDeadline time.Duration) (clients, error) {
	make := func(name string, timeout time.Duration) (kubernetes.Interface, error) {
		config := rest.AddUserAgent(rest.CopyConfig(base), "aegis/"+versionText()+" "+name)
		// Client-side throttling would only hide from the API server's own fairness what is waiting.
		config.QPS = -1
		config.Timeout = timeout
		config.ContentType = "application/vnd.kubernetes.protobuf"
		config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return nil, fmt.Errorf("connect to the API server: %w", err)
		}
		return client, nil
	}
	var c clients
	var err error
	if c.calls, err = make("calls", callTimeout); err != nil {
		return c, err
	}
	if c.watches, err = make("watches", 0); err != nil {
		return c, err
	}
	c.election, err = make("election", renewDeadline/2)
	return c, err
}

// newApp wires the service. Nothing runs yet.
func newApp(flags serveFlags, cfg config, catalogue *rules.Catalogue, procedures sop.Procedures, base *rest.Config, logger *slog.Logger) (*app, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		versioncollector.NewCollector("aegis"))
	front, err := newFront(flags.webConfig, cfg, registry, logger)
	if err != nil {
		return nil, err
	}
	live, err := newLiveConfig(flags.config, cfg, catalogue, procedures, front, registry)
	if err != nil {
		return nil, err
	}
	a := &app{cfg: cfg, registry: registry, config: live, web: front, log: logger, logger: logger.With("component", "aegis")}
	if a.clients, err = newClients(base, cfg.LeaderElection.RenewDeadline); err != nil {
		return nil, err
	}
	a.queue = queue.New(queue.Options{
		Registerer:     registry,
		Logger:         logger,
		Cluster:        cfg.cluster(),
		KnownCondition: func(name string) bool { _, known := live.rules.Current().Lookup(name); return known },
	})
	a.nodes = newNodeCache(informers.NewSharedInformerFactory(a.clients.watches, 0), a.queue, live.current)
	classifier := rules.NewClassifier(rules.ClassifierOptions{
		Store: live.rules, Nodes: a.nodes.index, NodeLabels: cfg.NodeLabels, Cluster: cfg.cluster(), Logger: logger,
	})
	a.orders = a.newOrders()
	if a.resync, err = a.newResync(classifier, registry, logger); err != nil {
		return nil, err
	}
	services, err := a.services(registry, logger)
	if err != nil {
		return nil, err
	}
	a.dispatcher = sop.NewDispatcher(services, a.queue, live.rules, procedures)
	a.nodes.changed = a.dispatcher.NodeChanged
	a.duty = a.newDuty()
	a.telemetry(registry)
	auth, err := newAuth(cfg)
	if err != nil {
		return nil, err
	}
	a.warnOfVain(registry)
	a.handler, err = handler.New(handler.Options{
		Sink:       a.sink(),
		Classifier: classifier,
		Commander:  a.dispatcher,
		Nodes:      a.nodes.lister,
		Conditions: a.queue,
		Verdicts:   services.Verdicts,
		Sources:    a.resync.Sources,
		Catalogue:  live.rules,
		Settings:   live.current,
		Ready:      a.ready,
		Informed:   a.informed,
		Reload:     a.reload,
		Resync:     a.resync.Trigger,
		Auth:       auth,
		Registerer: registry,
		Gatherer:   registry,
		Logger:     logger,
	})
	return a, err
}

// sink returns what takes the alerts of a webhook.
func (a *app) sink() handler.Sink {
	if a.cfg.Permission == queue.PermitPrometheus {
		return news{a.resync.Trigger}
	}
	return a.queue
}

// newFront reads the web configuration, and makes sure that whoever has a role by it can prove to be it.
func newFront(file string, cfg config, reg prometheus.Registerer, logger *slog.Logger) (*web.Front, error) {
	front, err := web.New(web.Options{File: file, Open: handler.OpenPaths(), Registerer: reg, Logger: logger})
	if err != nil {
		return nil, &usageError{err}
	}
	if err := front.Check(namesOf(cfg.Auth.Users), namesOf(cfg.Auth.Certificates)); err != nil {
		return nil, &usageError{err}
	}
	return front, nil
}

// newResync returns what asks Prometheus, Alertmanager and the sources.
func (a *app) newResync(classifier *rules.Classifier, reg prometheus.Registerer, logger *slog.Logger) (*queue.Resync, error) {
	cfg := a.cfg
	o := queue.ResyncOptions{
		Queue:         a.queue,
		MaxAge:        cfg.Prometheus.MaxAge,
		Evidence:      a.evidence,
		Names:         a.nodes.index.Names,
		Permission:    cfg.Permission,
		Prometheis:    make(map[string]queue.AlertSource),
		Alertmanagers: make(map[string]queue.AlertSource),
		Away:          cfg.WhenAway,
		AwayAfter:     cfg.AwayAfter,
		Silences:      a.orders,
		Gone:          a.nodes.gone,
		Classifier:    classifier,
		Cluster:       cfg.cluster(),
		Canaries:      cfg.canaries(),
		Interval:      cfg.ResyncInterval,
		Registerer:    reg,
		Logger:        logger,
	}
	for _, p := range cfg.Prometheus.all() {
		client, err := source.NewPrometheus(source.PrometheusOptions{
			URL: p.Server.URL, HTTP: p.Server.http(), Canary: p.Canary, Cluster: cfg.cluster(), MaxAge: cfg.Prometheus.MaxAge, Starts: true,
		})
		if err != nil {
			return nil, fmt.Errorf("prometheus: %w", err)
		}
		o.Prometheis[client.URL()] = client
	}
	for _, c := range cfg.Alertmanagers {
		client, err := source.NewAlertmanager(source.AlertmanagerOptions{URL: c.Server.URL, HTTP: c.Server.http()})
		if err != nil {
			return nil, fmt.Errorf("alertmanager: %w", err)
		}
		o.Alertmanagers[client.URL()] = client
	}
	var err error
	if o.Sources, err = cfg.inspections(); err != nil {
		return nil, err
	}
	return queue.NewResync(o)
}

// evidence returns what shows that a node is seen by those who would report the condition.
func (a *app) evidence(condition string) []string {
	c, _ := a.config.rules.Current().Lookup(condition)
	return c.Evidence
}

// services returns what the steps of procedures work with.
func (a *app) services(reg prometheus.Registerer, logger *slog.Logger) (sop.Services, error) {
	templates, err := jobs.LoadTemplates(a.cfg.Jobs.Templates)
	if err != nil {
		return sop.Services{}, err
	}
	a.events = record.NewBroadcaster()
	timing := sop.DefaultTiming()
	timing.Hold, timing.Poll = a.cfg.HoldInterval, a.cfg.PollInterval
	metrics := sop.NewMetrics(reg)
	return sop.Services{
		Kube:    a.clients.calls,
		Nodes:   a.nodes.lister,
		Tickets: ticket.NewStore(ticket.StoreOptions{Client: a.clients.calls.CoreV1(), Logger: logger}),
		Jobs: jobs.NewRunner(jobs.RunnerOptions{
			Client:         a.clients.calls,
			Namespace:      a.cfg.Jobs.Namespace,
			Templates:      templates,
			Image:          a.cfg.Jobs.Image,
			ServiceAccount: a.cfg.Jobs.ServiceAccount,
			PollInterval:   a.cfg.Jobs.PollInterval,
			Logger:         logger,
		}),
		JobsNamespace: a.cfg.Jobs.Namespace,

		Source:     a.resync,
		Conditions: a.queue,
		Recorder:   a.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "aegis"}),
		Orders:     a.orders,
		Verdicts:   sop.NewVerdictCache(metrics, clock.RealClock{}),
		Settings:   a.config.current,
		Timing:     timing,
		Metrics:    metrics,
		Logger:     logger,
	}, nil
}

// newOrders returns where the orders of people are kept: on the Lease of the election.
func (a *app) newOrders() *sop.OrderStore {
	return sop.NewOrderStore(sop.OrderStoreOptions{
		Client:    a.clients.calls.CoordinationV1(),
		Namespace: a.cfg.LeaderElection.Namespace,
		Name:      a.cfg.LeaderElection.Name,
		Identity:  func() string { return a.identity },
		Restored:  a.ordersRestored,
	})
}

// ordersRestored tells that somebody had deleted the Lease.
func (a *app) ordersRestored(annotations []string) {
	a.logger.Warn("the Lease was deleted; the orders on it that do less are written on the new one", "annotations", annotations)
	lease := &corev1.ObjectReference{
		Kind: "Lease", APIVersion: "coordination.k8s.io/v1", Namespace: a.cfg.LeaderElection.Namespace, Name: a.cfg.LeaderElection.Name,
	}
	a.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "aegis"}).Eventf(lease, corev1.EventTypeWarning, "AegisOrdersRestored",
		"the Lease was deleted; the new one has what the old one ordered to do less: %s", strings.Join(annotations, ", "))
}

// newDuty returns what watches the decisions of this process.
func (a *app) newDuty() *duty {
	return &duty{clock: clock.RealClock{}, most: a.cfg.LeaderElection.MaxDueAge, oldest: a.queue.OldestDue, busy: a.dispatcher.Busy}
}

// telemetry registers the metrics of the process itself.
func (a *app) telemetry(reg prometheus.Registerer) {
	reg.MustRegister(sop.NewTicketCollector(a.dispatcher), sop.NewStormCollector(a.dispatcher),
		sop.NewLimitCollector(a.dispatcher), sop.NewWaitingCollector(a.dispatcher), sop.NewHoldCollector(a.dispatcher))
	factory := promauto.With(reg)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "aegis_leader",
		Help: "Whether this replica leads (1) or waits (0).",
	}, func() float64 {
		if a.leading.Load() {
			return 1
		}
		return 0
	})
	a.duty.register(reg)
}

// ready says whether this replica takes alerts, and else why not.
func (a *app) ready() (bool, string) {
	if ok, reason := a.informed(); !ok {
		return false, reason
	}
	neglected := a.duty.neglected()
	return neglected == "", neglected
}

// informed says whether this replica knows what people ask for, and else why not. One that leads and decides nothing has to tell what it
// knows: that helps to find out why.
func (a *app) informed() (bool, string) {
	switch {
	case a.stopping.Load():
		return false, "stopping"
	case !a.leading.Load():
		return false, "not the leader"
	case !a.nodes.synced():
		return false, "the nodes are not known yet"
	case !a.resync.Synced():
		return false, "not synced yet"
	}
	return true, ""
}

// work runs until the context ends: the cache of nodes always, the rest while this replica leads.
func (a *app) work(ctx context.Context) error {
	a.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: a.clients.calls.CoreV1().Events("")})
	defer a.events.Shutdown()
	stop := make(chan struct{})
	defer close(stop)
	a.nodes.factory.Start(stop)
	return a.lead(ctx)
}

// rememberSources tells resync since when what the open tickets are about has been there, and which sources have found it: only these say
// when it is over.
// It holds for the whole term, and does not rest on a cache that is behind.
func (a *app) rememberSources(ctx context.Context) error {
	if err := a.nodes.catchUp(ctx, a.clients.calls, a.logger); err != nil {
		return err
	}
	nodes, err := a.nodes.lister.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("the sources of tickets: %w", err)
	}
	reader := ticket.NewReader().Named(a.config.rules.Names)
	for _, node := range nodes {
		begun, open := sop.BegunOn(node, reader)
		if !open {
			continue
		}
		a.resync.Began(begun.Key, begun.Since)
		if begun.Source != "" {
			a.resync.Remember(begun.Key, begun.Source)
		}
	}
	return nil
}

// term is the time in which this replica leads. It ends when one of its parts does, and returns when everything that it started has
// stopped.
func (a *app) term(term context.Context, end context.CancelCauseFunc) error {
	a.leading.Store(true)
	defer a.leading.Store(false)
	defer a.duty.begin()()
	// The steps are told in their own words why they have to stop.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(term))
	defer cancel(nil)
	defer context.AfterFunc(term, func() { cancel(causeOf(term)) })()
	var background sync.WaitGroup
	defer background.Wait()
	stop := func(err error) { end(reasonOf(err)) }
	background.Go(func() { stop(a.part(ctx, "watch", a.duty.watch)) })
	err := a.decide(ctx, func() { background.Go(func() { stop(a.part(ctx, "resync", a.resync.Run)) }) })
	stop(err)
	return reasonOf(err)
}

// decide decides on nodes, once all is known that decisions rest on.
func (a *app) decide(ctx context.Context, startResync func()) error {
	if !cache.WaitForCacheSync(ctx.Done(), a.nodes.synced) {
		return context.Cause(ctx)
	}
	if err := a.rememberSources(ctx); err != nil {
		return err
	}
	startResync()
	// Nothing is decided before the sources have been asked once.
	if !cache.WaitForCacheSync(ctx.Done(), a.resync.Synced) {
		return context.Cause(ctx)
	}
	if err := a.nodes.catchUp(ctx, a.clients.calls, a.logger); err != nil {
		return fmt.Errorf("the nodes as they are: %w", err)
	}
	a.nodes.enqueueAll()
	return a.part(ctx, "dispatcher", func(ctx context.Context) error {
		a.duty.decides.Store(true)
		return a.dispatcher.Run(ctx)
	})
}

// part runs one part of a term, and says why it has ended. A panic ends the term, not the process.
func (a *app) part(ctx context.Context, name string, run func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			a.logger.ErrorContext(ctx, "part of the leader panicked", "part", name, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("%s panicked: %v", name, p)
		}
		level := slog.LevelInfo
		if ctx.Err() == nil {
			level = slog.LevelError // It is what ends the term.
		}
		a.logger.Log(ctx, level, "part of the leader ended", "part", name, "err", err)
	}()
	if err := run(ctx); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return fmt.Errorf("%s ended", name)
}
