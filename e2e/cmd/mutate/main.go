// Command mutate breaks the guards of Aegis on purpose, one at a time, and shows that the simulation catches every one. A
// mutation that survives is a guard that nothing proves.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

func main() { os.Exit(run()) }

// options say what is tried, and how hard.
type options struct {
	root      string
	schedules int
	workers   int
	only      *regexp.Regexp
}

func run() int {
	root := flag.String("root", "..", "the module of Aegis")
	schedules := flag.Int("n", 2000, "how many schedules each mutation has to get through to survive; make test simulates as many")
	workers := flag.Int("workers", 2, "how many mutations to try at the same time")
	only := flag.String("only", "", "try the mutations whose name matches this regular expression only")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	pattern, err := regexp.Compile(*only)
	if err == nil {
		err = check(ctx, options{root: *root, schedules: *schedules, workers: *workers, only: pattern}, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		return 1
	}
	return 0
}

// check tries the product as it is, which the simulation must accept, and then each mutation, which it must not.
func check(ctx context.Context, o options, out io.Writer) error {
	chosen := slices.DeleteFunc(mutations(), func(m mutation) bool { return !o.only.MatchString(m.name) })
	if err := applyAll(o.root, chosen); err != nil {
		return err
	}
	fmt.Fprintf(out, "the product as it is, %d schedules\n", o.schedules)
	asIs, err := try(ctx, o, mutation{})
	switch {
	case err != nil:
		return err
	case asIs.caught:
		return fmt.Errorf("the simulation fails without any mutation, at seed %s: %s", asIs.seed, asIs.violation)
	}
	outcomes := tryAll(ctx, o, chosen, out)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return report(out, outcomes)
}

// applyAll makes sure that every mutation still fits its file before anything is built.
func applyAll(root string, chosen []mutation) error {
	var errs []error
	for _, m := range chosen {
		_, err := m.apply(root)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// tryAll tries the mutations, several at a time, and tells how each ends.
func tryAll(ctx context.Context, o options, chosen []mutation, out io.Writer) []outcome {
	outcomes := make([]outcome, len(chosen))
	next := make(chan int)
	var mu sync.Mutex
	var workers sync.WaitGroup
	for range max(1, o.workers) {
		workers.Go(func() {
			for i := range next {
				result, err := try(ctx, o, chosen[i])
				result.err = err
				outcomes[i] = result
				mu.Lock()
				fmt.Fprintln(out, result)
				mu.Unlock()
			}
		})
	}
	feed(ctx, next, len(chosen))
	workers.Wait()
	return outcomes
}

// feed hands out the numbers below n until the context ends.
func feed(ctx context.Context, next chan<- int, n int) {
	defer close(next)
	for i := range n {
		select {
		case next <- i:
		case <-ctx.Done():
			return
		}
	}
}

// outcome is how a mutation fared.
type outcome struct {
	mutation mutation
	caught   bool
	// seed and violation are the first schedule that failed, and how.
	seed, violation string
	took            time.Duration
	// err is why it could not be tried.
	err error
}

// caughtBy returns the invariant that the first violation is of, as the simulation names it, or else what has ended the tests.
func (o outcome) caughtBy() string {
	for _, name := range invariants() {
		if strings.Contains(o.violation, ": "+name+": ") {
			return name
		}
	}
	if o.violation != "" {
		return "none: the tests end"
	}
	return ""
}

// String tells the outcome in a line.
func (o outcome) String() string {
	took := o.took.Round(time.Second)
	switch {
	case o.err != nil:
		return fmt.Sprintf("not tried %s: %v", o.mutation.name, o.err)
	case !o.caught:
		return fmt.Sprintf("SURVIVED  %s (%s)", o.mutation.name, took)
	}
	return fmt.Sprintf("caught    %s (%s): seed %s: %s", o.mutation.name, took, o.seed, o.violation)
}

// try builds the tests with the mutation and runs the simulation until it fails or is through.
func try(ctx context.Context, o options, m mutation) (result outcome, err error) {
	dir, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return outcome{mutation: m}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	began := time.Now()
	result.mutation = m
	binary, err := build(ctx, o.root, dir, m)
	if err != nil {
		return result, err
	}
	result.seed, result.violation, err = simulate(ctx, o, binary)
	result.caught, result.took = result.violation != "", time.Since(began)
	return result, err
}

// build compiles the tests of package sop with the mutated file in place of the real one.
func build(ctx context.Context, root, dir string, m mutation) (binary string, err error) {
	binary = filepath.Join(dir, "sop.test")
	args := []string{"test", "-c", "-o", binary}
	if m.file != "" {
		overlay, err := m.overlay(root, dir)
		if err != nil {
			return "", err
		}
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./sop")...)
	cmd.Dir = root
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, text)
	}
	return binary, nil
}

// overlay writes the mutated file, and the file that tells the compiler to take it.
func (m mutation) overlay(root, dir string) (string, error) {
	text, err := m.apply(root)
	if err != nil {
		return "", err
	}
	original, err := filepath.Abs(filepath.Join(root, m.file))
	if err != nil {
		return "", err
	}
	mutated := filepath.Join(dir, filepath.Base(m.file))
	if err := os.WriteFile(mutated, []byte(text), 0o600); err != nil {
		return "", err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {original: mutated}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, replace, 0o600)
}

// apply returns the mutated text of the file. The text to replace must occur exactly once: else the product has changed, and the
// mutation no longer says what it breaks.
func (m mutation) apply(root string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, m.file))
	if err != nil {
		return "", fmt.Errorf("mutation %q: %w", m.name, err)
	}
	if n := strings.Count(string(text), m.old); n != 1 {
		return "", fmt.Errorf("mutation %q: its text occurs %d times in %s, want once:\n%s", m.name, n, m.file, m.old)
	}
	return strings.Replace(string(text), m.old, m.new, 1), nil
}

// simulate runs the simulation and returns the first violation, empty when there is none. What comes after it does not matter, so
// the rest is not waited for.
func simulate(ctx context.Context, o options, binary string) (seed, violation string, err error) {
	running, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(running, binary, "-test.run", "TestSimulation$", "-test.v", "-test.timeout", "30m")
	cmd.Dir = filepath.Join(o.root, "sop")
	cmd.Env = append(os.Environ(), fmt.Sprint("AEGIS_SIM_N=", o.schedules))
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return "", "", err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return "", "", err
	}
	seed, violation, scanErr := firstViolation(pipe)
	if violation != "" {
		stop()
	}
	switch waitErr := cmd.Wait(); {
	case ctx.Err() != nil:
		return "", "", context.Cause(ctx)
	case violation != "":
		return seed, violation, nil
	case scanErr != nil:
		return "", "", scanErr
	case waitErr != nil:
		// Such as a panic, or a deadlock that the bubble found.
		return "none", "the tests end without a verdict: " + waitErr.Error(), nil
	}
	return "", "", nil
}

// firstViolation reads the output of the simulation up to its first violation, if it has one.
func firstViolation(output io.Reader) (seed, violation string, err error) {
	scanner := bufio.NewScanner(output)
	scanner.Buffer(nil, 1<<20)
	found := false
	for scanner.Scan() {
		line := strings.TrimSpace(scanner.Text())
		_, replay, named := strings.Cut(line, "-sim.seed=")
		switch {
		case strings.HasSuffix(line, "violated:"):
			found = true
		case found && violation == "":
			violation = line
		case violation != "" && named:
			return replay, violation, nil
		case strings.HasPrefix(line, "panic: "), strings.HasPrefix(line, "fatal error: "):
			return "none", line, nil
		}
	}
	return "", violation, scanner.Err()
}

// report prints the table of all mutations. The error says that some survived.
func report(out io.Writer, outcomes []outcome) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nMUTATION\tINVARIANT\tCAUGHT BY\tSEED\tFIRST VIOLATION")
	survived := 0
	for _, o := range outcomes {
		if !o.caught {
			survived++
		}
		by := o.caughtBy()
		if by == o.mutation.invariant {
			by = "the same"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", o.mutation.name, o.mutation.invariant, by, cmp.Or(o.seed, "SURVIVED"), o.violation)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if survived > 0 {
		return fmt.Errorf("%d of %d mutations survived", survived, len(outcomes))
	}
	_, err := fmt.Fprintf(out, "all %d mutations were caught\n", len(outcomes))
	return err
}
