// Command aegis-op runs one operation on the host that its container is on, as root. It is what the step Jobs start, and is kept
// small: it knows nothing of Kubernetes, and holds nothing that decides. "aegis op" is the same.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"aegis.io/aegis/jobs/host"
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return host.Run(ctx, os.Args[1:], host.Options{})
}
