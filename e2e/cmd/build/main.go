// Command build builds the programs of the end-to-end tests into the folder bin of the repository. Arguments name the
// programs; without any, all are built.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"aegis.io/aegis/e2e/build"
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	bin, err := build.Run(ctx, build.Options{Out: os.Stdout, Only: os.Args[1:]})
	if err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		return 1
	}
	fmt.Println("built into", bin)
	return 0
}
