package cmd

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"aegis.io/aegis/handler"
	"aegis.io/aegis/sop"
)

const (
	// stopWithin bounds how long a stop waits for running steps to reach a safe point.
	stopWithin = 20 * time.Second
	// closeWithin bounds how long the listeners wait for open requests after that.
	closeWithin = 5 * time.Second
)

// serveFlags are the flags of aegis serve.
type serveFlags struct {
	config, kubeconfig      string
	listen, telemetryListen string
	webConfig               string
	pprof                   bool
	logFormat, logLevel     string
}

func parseServe(args []string, stderr io.Writer) (serveFlags, error) {
	var f serveFlags
	set := flag.NewFlagSet("aegis serve", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.StringVar(&f.config, "config", "", "configuration `file` (aegis.yaml); none means the defaults")
	set.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig `file`; none means the service account of the pod")
	set.StringVar(&f.listen, "listen", "127.0.0.1:8080", "`address` of the webhook and the API")
	set.StringVar(&f.telemetryListen, "telemetry-listen", "127.0.0.1:9090", "`address` of metrics and probes")
	set.StringVar(&f.webConfig, "web.config.file", "", "web configuration `file` of exporter-toolkit: TLS, client certificates and users of both addresses; none means plain HTTP")
	set.BoolVar(&f.pprof, "pprof", false, "serve /debug/pprof/ on the address of metrics and probes")
	set.StringVar(&f.logFormat, "log-format", "text", "text or json")
	set.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return f, err
		}
		return f, usageErrorf("serve: %w", err)
	}
	if set.NArg() > 0 {
		return f, usageErrorf("serve: unexpected argument %q", set.Arg(0))
	}
	return f, nil
}

func newLogger(f serveFlags, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, usageErrorf("serve: -log-level %q: use debug, info, warn or error", f.logLevel)
	}
	options := &slog.HandlerOptions{Level: level}
	switch f.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, usageErrorf("serve: -log-format %q: use text or json", f.logFormat)
}

// serve runs the service until the context ends.
func serve(ctx context.Context, args []string, stderr io.Writer, procedures sop.Procedures) error {
	flags, err := parseServe(args, stderr)
	if err != nil {
		return err
	}
	logger, err := newLogger(flags, stderr)
	if err != nil {
		return err
	}
	cfg, catalogue, err := loadAll(flags.config, procedures)
	if err != nil {
		return &usageError{err}
	}
	kube, err := restConfig(flags.kubeconfig)
	if err != nil {
		return err
	}
	app, err := newApp(flags, cfg, catalogue, procedures, kube, logger)
	if err != nil {
		return err
	}
	adoptClientLogs(logger)
	return app.run(ctx, flags)
}

// adoptClientLogs has client-go log through the logger. Its own form is that of no other line.
func adoptClientLogs(logger *slog.Logger) { klog.SetSlogLogger(logger.With("component", "client-go")) }

func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("no -kubeconfig, and not in a cluster: %w", err)
		}
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	return config, nil
}

// run serves, leads when elected, and stops in order: first no new work, then the running steps, then the listeners.
func (a *app) run(ctx context.Context, flags serveFlags) error {
	api, err := net.Listen("tcp", flags.listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	probes, err := net.Listen("tcp", flags.telemetryListen)
	if err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), api.Close())
	}
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	servers := []*http.Server{
		handler.NewServer(flags.listen, a.handler.Routes()),
		handler.NewServer(flags.telemetryListen, withProfiles(a.handler.Telemetry(), flags.pprof)),
	}
	failed := make(chan error, len(servers)+1)
	var background sync.WaitGroup
	for i, listener := range []net.Listener{api, probes} {
		background.Go(func() {
			// Roles guard the API. Metrics and profiles have none, so they ask for a password themselves.
			if err := a.web.Serve(listener, servers[i], i == 1); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve %s: %w", listener.Addr(), err)
			}
		})
	}
	background.Go(func() { a.watchConfig(work) })
	a.logger.InfoContext(ctx, "serving", "version", versionText(), "listen", api.Addr().String(), "telemetry", probes.Addr().String())

	done := make(chan error, 1)
	go func() { done <- a.work(work) }()
	select {
	case <-ctx.Done():
		a.logger.InfoContext(ctx, "stopping")
	case err = <-failed:
	case err = <-done:
		done <- nil
	}
	a.stopping.Store(true)
	stop(sop.ErrStopping)
	err = errors.Join(err, a.awaitStop(done), shutdown(ctx, servers))
	background.Wait()
	return err
}

// withProfiles adds the profiles of the running process to its metrics.
func withProfiles(next http.Handler, enabled bool) http.Handler {
	if !enabled {
		return next
	}
	mux := http.NewServeMux()
	mux.Handle("/", next)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// awaitStop waits until the work has stopped. What takes longer is found in the journal by the next leader.
func (a *app) awaitStop(done <-chan error) error {
	timer := time.NewTimer(stopWithin)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		a.logger.Warn("running steps have not reached a safe point in time, the next leader takes them over", "after", stopWithin)
		return nil
	}
}

func shutdown(ctx context.Context, servers []*http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
	defer cancel()
	var errs []error
	for _, s := range servers {
		if err := s.Shutdown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("close listener: %w", err), s.Close())
		}
	}
	return errors.Join(errs...)
}

// watchConfig reloads on SIGHUP and when a file of the configuration changes.
func (a *app) watchConfig(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ticker := time.NewTicker(10 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
		case <-ticker.C:
			if !a.config.changed() {
				continue
			}
		}
		if err := a.reload(); err != nil {
			a.logger.ErrorContext(ctx, "configuration not reloaded, the old one stays in force", "err", err)
		}
	}
}
