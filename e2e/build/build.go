// Package build builds the programs that the end-to-end tests run, all from Go modules.
package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// kubernetesVersion is what the control plane calls itself. Without it clients refuse to parse its version.
const kubernetesVersion = "v1.37.2"

// lockPoll is how often a build looks whether the one before has ended.
const lockPoll = 200 * time.Millisecond

// Options says what to build.
type Options struct {
	// Root is the folder of the repository. Empty looks for it from the working directory upwards.
	Root string
	// Out takes one line per program, and how far it is while it is being compiled. Nil takes none.
	Out io.Writer
	// Only names the programs to build. Empty builds all.
	Only []string
	// Built says that everything has just been built, as BuiltVariable does.
	Built bool
}

// target is one run of go build.
type target struct {
	name string
	// dir is relative to the repository.
	dir  string
	pkg  string
	args []string
	// static programs run inside a host's root folder, where there is no C library.
	static bool
}

func targets() []target {
	version := strings.Split(kubernetesVersion, ".")
	kube := "-s -w -X k8s.io/component-base/version.gitVersion=" + kubernetesVersion +
		" -X k8s.io/component-base/version.gitMajor=" + version[0][1:] + " -X k8s.io/component-base/version.gitMinor=" + version[1]
	plain := []string{"-ldflags", "-s -w"}
	// Service discovery of every cloud is most of Prometheus; the tests have static targets.
	noSD := append([]string{"-tags", "remove_all_sd"}, plain...)
	return []target{
		{name: "etcd", dir: "e2e", pkg: "./cmd/etcd", args: plain},
		{name: "kube-apiserver", dir: "e2e", pkg: "./cmd/kube-apiserver", args: []string{"-ldflags", kube}},
		{name: "kube-controller-manager", dir: "e2e", pkg: "./cmd/kube-controller-manager", args: []string{"-ldflags", kube}},
		{name: "kube-scheduler", dir: "e2e", pkg: "./cmd/kube-scheduler", args: []string{"-ldflags", kube}},
		{name: "kwok", dir: "e2e", pkg: "sigs.k8s.io/kwok/cmd/kwok", args: plain},
		{name: "prometheus", dir: "e2e", pkg: "github.com/prometheus/prometheus/cmd/prometheus", args: noSD},
		{name: "promtool", dir: "e2e", pkg: "github.com/prometheus/prometheus/cmd/promtool", args: noSD},
		{name: "alertmanager", dir: "e2e", pkg: "./cmd/alertmanager", args: plain},
		{name: "hosttool", dir: "e2e", pkg: "./cmd/hosttool", args: plain, static: true},
		{name: "aegis", dir: ".", pkg: "./cmd/aegis", args: plain, static: true},
		{name: "aegis-op", dir: ".", pkg: "./cmd/aegis-op", args: plain, static: true},
	}
}

// BuiltVariable is the environment variable that says, as 1, that everything has just been built. Go needs twenty seconds and more
// to find that out by itself, and a run of all packages would ask ten times.
const BuiltVariable = "AEGIS_E2E_BUILT"

// Run builds what is missing or older than its source into the folder bin of the repository, and returns that folder.
// Go's own build cache decides what that is, unless BuiltVariable is set: then the programs only have to be there.
func Run(ctx context.Context, o Options) (string, error) {
	if o.Out == nil {
		o.Out = io.Discard
	}
	o.Built = o.Built || os.Getenv(BuiltVariable) == "1"
	root, err := repository(o.Root)
	if err != nil {
		return "", err
	}
	wanted, err := choose(o.Only)
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, "bin")
	if o.Built {
		return bin, present(bin, wanted)
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", fmt.Errorf("build: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(bin, ".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	return bin, buildAll(ctx, o.Out, root, bin, wanted)
}

func buildAll(ctx context.Context, out io.Writer, root, bin string, wanted []target) error {
	p := newProgress(out)
	// What one program has had compiled, the next finds.
	compiled := make(map[string]bool)
	for i, t := range wanted {
		end := p.begin(i+1, len(wanted), t.name)
		err := t.build(ctx, root, bin, p, compiled)
		end(err)
		if err != nil {
			return err
		}
	}
	return nil
}

// present returns an error that names each program that is not there.
func present(bin string, wanted []target) error {
	var missing []error
	for _, t := range wanted {
		if _, err := os.Stat(filepath.Join(bin, t.name)); err != nil {
			missing = append(missing, fmt.Errorf("build: %s is set, but %s is not built: %w", BuiltVariable, t.name, err))
		}
	}
	return errors.Join(missing...)
}

// lock makes the test packages, which run side by side, build one after the other: the later ones find all of it done.
func lock(ctx context.Context, file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			// The kernel lets go of the lock when the file is closed, or this process ends.
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("build: lock: %w", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("build: lock: %w", ctx.Err()), f.Close())
		case <-time.After(lockPoll):
		}
	}
}

func choose(only []string) ([]target, error) {
	if len(only) == 0 {
		return targets(), nil
	}
	var chosen []target
	for _, name := range only {
		i := slices.IndexFunc(targets(), func(t target) bool { return t.name == name })
		if i < 0 {
			return nil, fmt.Errorf("build: there is no program %q", name)
		}
		chosen = append(chosen, targets()[i])
	}
	return chosen, nil
}

func (t target) build(ctx context.Context, root, bin string, p *progress, compiled map[string]bool) error {
	// No -trimpath: the packages would be compiled again for `go test ./...` and `go vet ./...`, which takes ten minutes.
	args := append([]string{"build", "-v", "-buildvcs=false", "-o", filepath.Join(bin, t.name)}, t.args...)
	cmd := t.command(ctx, root, args...)
	output, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("build %s: %w", t.name, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("build %s: %w", t.name, err)
	}
	var measure sync.WaitGroup
	said := compilations{progress: p, first: func() {
		measure.Go(func() { t.measure(ctx, root, p, compiled) })
	}}
	err = errors.Join(said.read(output), cmd.Wait())
	measure.Wait()
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", t.name, err, bytes.TrimSpace(said.rest.Bytes()))
	}
	return nil
}

// measure finds out how many packages there are to compile. A total that is not known costs the reader nothing but that.
func (t target) measure(ctx context.Context, root string, p *progress, compiled map[string]bool) {
	packages, err := t.dependencies(ctx, root)
	if err != nil {
		return
	}
	total := 0
	for _, name := range packages {
		if key := fmt.Sprintf("%s static=%t", name, t.static); !compiled[key] {
			compiled[key] = true
			total++
		}
	}
	p.expect(total)
}

// repository returns the folder that holds the end-to-end module.
func repository(root string) (string, error) {
	if root != "" {
		return filepath.Abs(root)
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for from := dir; ; {
		_, err := os.Stat(filepath.Join(from, "e2e", "go.mod"))
		if err == nil {
			return from, nil
		}
		up := filepath.Dir(from)
		if up == from || !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("find the repository above %s: %w", dir, err)
		}
		from = up
	}
}
