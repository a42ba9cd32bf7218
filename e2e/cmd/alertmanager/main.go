// Command alertmanager is Alertmanager without its user interface, whose assets are not part of its module: the same
// provider, inhibitor, silencer, dispatcher, notifiers and API, in one process without a cluster.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

type options struct {
	configFile  string
	listen      string
	storage     string
	maintenance time.Duration
}

func main() {
	os.Exit(run())
}

func run() int {
	var o options
	flag.StringVar(&o.configFile, "config.file", "alertmanager.yml", "configuration file")
	flag.StringVar(&o.listen, "listen-address", "127.0.0.1:9093", "address of the API")
	flag.StringVar(&o.storage, "storage.path", "data", "folder of the silences and the notification log")
	flag.DurationVar(&o.maintenance, "data.maintenance-interval", time.Second, "time between two snapshots")
	flag.Parse()
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, o, logger); err != nil {
		logger.Error("alertmanager failed", "err", err)
		return 1
	}
	return 0
}

// serve runs until ctx ends.
func serve(ctx context.Context, o options, logger *slog.Logger) (err error) {
	if err := os.MkdirAll(o.storage, 0o755); err != nil {
		return fmt.Errorf("make storage: %w", err)
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	app, err := newApp(o, "http://"+listener.Addr().String(), logger)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer app.stop()
	server := &http.Server{Handler: app.handler, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	logger.Info("serving", "address", listener.Addr().String())
	select {
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
		// Notifications that wait would hold a graceful end up for minutes.
		return server.Close()
	}
}
