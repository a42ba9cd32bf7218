package build

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// reportEvery is how often a program that is being compiled tells how far it is.
const reportEvery = 5 * time.Second

// progress tells how far the build is: which program of how many, and how many packages of that are compiled.
type progress struct {
	out io.Writer
	// terminal overwrites its line; elsewhere each report is a line.
	terminal bool
	began    time.Time

	mu     sync.Mutex
	prefix string
	done   int
	// total is 0 while it is not known.
	total int
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out, began: time.Now()}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// begin starts the n-th program of all. The returned function ends it.
func (p *progress) begin(n, all int, name string) (end func(err error)) {
	p.mu.Lock()
	p.prefix, p.done, p.total = fmt.Sprintf("[%d/%d] %s", n, all, name), 0, 0
	p.mu.Unlock()
	began := time.Now()
	ticker := time.NewTicker(reportEvery)
	stop := make(chan struct{})
	var reports sync.WaitGroup
	reports.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				p.report()
			}
		}
	})
	return func(err error) {
		ticker.Stop()
		close(stop)
		reports.Wait()
		outcome := fmt.Sprintf("%.0f s", time.Since(began).Seconds())
		if err != nil {
			outcome = "failed"
		}
		p.line("%s ... %s", p.prefix, outcome)
	}
}

// report tells how far the program is.
func (p *progress) report() {
	p.mu.Lock()
	defer p.mu.Unlock()
	packages := fmt.Sprintf("%d packages compiled", p.done)
	if p.total > 0 {
		packages = fmt.Sprintf("%d of %d packages compiled", p.done, max(p.done, p.total))
	}
	text := fmt.Sprintf("%s ... %s, %.0f s since the beginning", p.prefix, packages, time.Since(p.began).Seconds())
	if p.terminal {
		fmt.Fprintf(p.out, "\r\033[K%s", text)
		return
	}
	fmt.Fprintln(p.out, text)
}

// line ends the line of a program.
func (p *progress) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		fmt.Fprint(p.out, "\r\033[K")
	}
	fmt.Fprintf(p.out, format+"\n", args...)
}

// expect says how many packages are to be compiled.
func (p *progress) expect(total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total = total
}

// compiled counts a package.
func (p *progress) compiled() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
}

// compilations reads what go build -v writes: a line for each package that it begins to compile. What is no such line is an error
// message, and is kept. first is called with the first package, because a build that compiles nothing need not be measured.
type compilations struct {
	progress *progress
	first    func()
	rest     bytes.Buffer
}

func (c *compilations) read(from io.Reader) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if line := lines.Text(); line == "" || strings.ContainsAny(line, " :\t#") {
			fmt.Fprintln(&c.rest, line)
			continue
		}
		if c.first != nil {
			c.first()
			c.first = nil
		}
		c.progress.compiled()
	}
	return lines.Err()
}

// dependencies returns all packages that the program consists of, with those of the standard library.
func (t target) dependencies(ctx context.Context, root string) ([]string, error) {
	cmd := t.command(ctx, root, append([]string{"list", "-deps"}, t.args...)...)
	output, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages of %s: %w", t.name, err)
	}
	return strings.Fields(string(output)), nil
}

// command returns a run of go about the program.
func (t target) command(ctx context.Context, root string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", append(args, t.pkg)...)
	cmd.Dir = filepath.Join(root, t.dir)
	// A workspace or a flag of the developer must not change what is tested.
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if t.static {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	}
	return cmd
}
