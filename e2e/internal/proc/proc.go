// Package proc runs the programs of the end-to-end tests as children that never outlive their parent.
package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// stopGrace is what a program gets between SIGTERM and SIGKILL.
	stopGrace = 15 * time.Second
	pollEvery = 50 * time.Millisecond
	// tailBytes of a log go into the error of a program that ended by itself.
	tailBytes = 2048
)

// Options says what to run.
type Options struct {
	// Path is the program, Args its arguments without the program.
	Path string
	Args []string
	// Env is added to the environment of this process.
	Env []string
	// Log is the file that takes stdout and stderr; it is appended to.
	Log string
	// Dir is the working directory. Empty is that of this process.
	Dir string
}

// Process is a running or ended child.
type Process struct {
	log  string
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	err error
}

// Start starts the program in a process group of its own. The kernel ends it when this process dies.
func Start(o Options) (*Process, error) {
	out, err := os.OpenFile(o.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Path, err)
	}
	cmd := exec.Command(o.Path, o.Args...)
	cmd.Dir = o.Dir
	cmd.Env = append(os.Environ(), o.Env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &Process{log: o.Log, cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go p.run(out, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Path, err)
	}
	return p, nil
}

// run keeps its thread until the child has ended: the kernel takes the end of the forking thread for the parent's.
func (p *Process) run(out io.Closer, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := p.cmd.Start(); err != nil {
		started <- errors.Join(err, out.Close())
		return
	}
	started <- nil
	err := errors.Join(p.cmd.Wait(), out.Close())
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
	close(p.done)
}

// PID returns the process ID.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the program has not ended yet. A nil Process is not running.
func (p *Process) Running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Err returns how the program ended: nil while it runs and after exit status 0.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Signal sends the signal to the program alone.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.cmd.Path, err)
	}
	return nil
}

// Stop asks the program to end, and ends its whole group when it does not in time. A nil Process is stopped already.
func (p *Process) Stop() error {
	if !p.Running() {
		return nil
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopGrace):
		return errors.Join(fmt.Errorf("%s did not end within %s of SIGTERM", p.cmd.Path, stopGrace), p.Kill())
	}
}

// Kill ends the program and its group at once and waits for the end. A nil Process is killed already.
func (p *Process) Kill() error {
	if !p.Running() {
		return nil
	}
	if err := syscall.Kill(-p.PID(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill %s: %w", p.cmd.Path, err)
	}
	<-p.done
	return nil
}

// WaitReady polls check until it succeeds. It fails as soon as the program has ended.
func (p *Process) WaitReady(ctx context.Context, check func(context.Context) error) error {
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %w\n%s", p.cmd.Path, errors.Join(p.Err(), err), Tail(p.log))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w: %w\n%s", p.cmd.Path, ctx.Err(), err, Tail(p.log))
		case <-time.After(pollEvery):
		}
	}
}

// Tail returns the end of a log file, for an error message.
func Tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-tailBytes):]))
}

// FreePorts returns n ports of the loopback interface that are free now, all different.
func FreePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		// Open until all are found, so that none is found twice.
		defer l.Close()
		at, err := netip.ParseAddrPort(l.Addr().String())
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		ports = append(ports, int(at.Port()))
	}
	return ports, nil
}

// OK returns a check that the URL answers 200.
func OK(client *http.Client, url string) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			text, err := io.ReadAll(io.LimitReader(resp.Body, 512))
			return errors.Join(fmt.Errorf("GET %s: %s: %s", url, resp.Status, text), err)
		}
		return nil
	}
}
