// Package cmd is the program aegis: it receives alerts, decides what may be done about them, does it through Kubernetes, and
// writes on each node what it did. Which procedures it knows, its main function says: cmd/aegis passes those of the product,
// and the program of a site passes its own beside them.
package cmd

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	// The time zones of maintenance windows; an image of nothing but this program has none.
	_ "time/tzdata"

	"github.com/prometheus/common/version"

	"aegis.io/aegis/jobs/host"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop"
)

// The exit codes of the command. Those of an operation on a host are in package host.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// versionText is what the linker has set, see the Makefile.
func versionText() string { return cmp.Or(version.Version, "unknown") }

const usage = `aegis keeps the nodes of AI and HPC clusters in service.

Usage:
  aegis serve [flags]        receive alerts and repair nodes
  aegis check FILE...        check conditions.yaml, aegis.yaml, profiles and web configurations offline
  aegis coverage [flags] [FILE...]
                             report which conditions a live Prometheus would show, on which nodes, and why not
  aegis op ACTION [flags]    run an operation on the host of this container
  aegis version              print the version

"aegis serve -h" and "aegis coverage -h" list the flags. Aegis runs operations in Jobs; do not run them by hand.
`

// Main runs the program with the arguments of the process, and ends the process. The procedures are those of all the tables.
func Main(tables ...sop.Table) {
	os.Exit(Run(os.Args[1:], os.Stdout, os.Stderr, tables...))
}

// Run runs the program with the arguments and the procedures of all the tables, and returns its exit code.
func Run(args []string, stdout, stderr io.Writer, tables ...sop.Table) int {
	procedures, err := sop.Merge(tables...)
	if err := errors.Join(err, rules.CheckProcedures(procedures.Names())); err != nil {
		return report(stderr, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	command, rest := "", args
	if len(args) > 0 {
		command, rest = args[0], args[1:]
	}
	switch command {
	case "serve":
		return report(stderr, serve(ctx, rest, stderr, procedures))
	case "check":
		return report(stderr, check(rest, stdout, procedures))
	case "coverage":
		return coverageOf(ctx, rest, stdout, stderr, procedures)
	case "op":
		return host.Run(ctx, rest, host.Options{Stdout: stdout, Stderr: stderr})
	case "version":
		return printed(fmt.Fprintln(stdout, "aegis", versionText()))
	case "help", "-h", "--help":
		return printed(io.WriteString(stdout, usage))
	case "":
		return report(stderr, usageErrorf("no command\n\n%s", usage))
	default:
		return report(stderr, usageErrorf("unknown command %q\n\n%s", command, usage))
	}
}

// usageError is a mistake in the command line or in a file that it names.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usageErrorf(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// report prints the error and returns the exit code for it.
func report(stderr io.Writer, err error) int {
	var mistake *usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case printed(fmt.Fprintf(stderr, "aegis: %v\n", err)) != exitOK:
		return exitFailure
	case errors.As(err, &mistake):
		return exitUsage
	}
	return exitFailure
}

// printed returns the exit code for what a write returned.
func printed(_ int, err error) int {
	if err != nil {
		return exitFailure
	}
	return exitOK
}
