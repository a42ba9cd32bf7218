package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// searchPath is where the host's tools are, wherever the container has its own.
	searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lpp/mmfs/bin:/opt/bin"
	// maxOutput bounds what is kept of the output of a tool.
	maxOutput = 64 << 10
	// pipeGrace is how long a tool that has ended may leave its output open in a child.
	pipeGrace = 2 * time.Second
	// killGrace is how long a killed tool is waited for. One that sleeps in the kernel takes no signal.
	killGrace = 5 * time.Second
)

var (
	errTimeout   = errors.New("did not end in time")
	errTruncated = errors.New("printed more than is read")
	// errNoHandle is the error of a query in which nvidia-smi names a GPU that it cannot open. It may end well all the same.
	errNoHandle = errors.New(smi)
)

// missingError says that the host does not have the tool, or does not have it where it belongs.
type missingError struct{ tool, dir string }

func (e *missingError) Error() string {
	if e.dir != "" {
		return e.tool + " is not installed in " + e.dir
	}
	return e.tool + " is not installed"
}

// missing returns what of err says that a tool is missing.
func missing(err error) (*missingError, bool) {
	var e *missingError
	return e, errors.As(err, &e)
}

// lacksTool says that err is that of a missing tool.
func lacksTool(err error) bool {
	_, ok := missing(err) //nolint:errcheck // What is returned is what err holds.
	return ok
}

// exitStatus returns the exit status of a tool that ended by itself with an error.
func exitStatus(err error) (int, bool) {
	var e interface {
		error
		Exited() bool
		ExitCode() int
	}
	if errors.As(err, &e) && e.Exited() && !errors.Is(err, errTimeout) {
		return e.ExitCode(), true
	}
	return 0, false
}

// blames says that the tool itself answered with an error, of itself or of a GPU, or not at all. Anything else, such as a tool that is missing or
// an operation that was interrupted, says nothing about what the tool was asked for.
func blames(err error) bool {
	_, exited := exitStatus(err)
	return exited || errors.Is(err, errTimeout) || errors.Is(err, errNoHandle)
}

// host is the host that the operation runs on.
type host struct {
	root    *os.Root
	options Options
	// driver is where the driver of the GPUs is.
	driver func() driver
	// words are what tools said that ended badly.
	words *words
}

// maxWords is how many tools are remembered: an action may look again and again.
const maxWords = 20

// words are kept until somebody wants them. A check that was left behind may add to those of a later one.
type words struct {
	mu    sync.Mutex
	texts []string
}

func (w *words) add(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
	w.texts = w.texts[max(0, len(w.texts)-maxWords):]
}

// take returns the words since the last time.
func (w *words) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	texts := w.texts
	w.texts = nil
	return texts
}

func openHost(o Options) (*host, error) {
	root, err := os.OpenRoot(o.Root)
	if err != nil {
		return nil, err
	}
	h := &host{root: root, options: o, words: new(words)}
	h.driver = sync.OnceValue(h.findDriver)
	if o.replay {
		if err := h.refuseLive(); err != nil {
			return nil, errors.Join(err, root.Close())
		}
	}
	return h, nil
}

// within returns the host as a process sees it whose root is the directory, such as that of a container.
func (h *host) within(dir string) (*host, error) {
	inside, err := h.resolve(dir)
	if err != nil {
		return nil, err
	}
	root, err := h.root.OpenRoot(inside)
	if err != nil {
		return nil, err
	}
	o := h.options
	o.Root = filepath.Join(o.Root, inside)
	return &host{root: root, options: o, driver: h.driver, words: h.words}, nil
}

func (h *host) close() error {
	return errors.Join(h.driver().close(), h.root.Close())
}

// bounded returns d, or the limit that is set for all.
func (h *host) bounded(d time.Duration) time.Duration {
	if h.options.limit > 0 {
		return min(d, h.options.limit)
	}
	return d
}

// command is one run of a program of the host.
type command struct {
	// path is that of the program inside the root.
	path string
	args []string
	// env is added to the fixed environment.
	env     []string
	timeout time.Duration
	// stdin is what it reads, nothing by default.
	stdin string
	// stdout takes the output.
	stdout io.Writer
	// mounts says that it may mount: it runs in the mount namespace of the host, since nothing that is mounted here reaches the host.
	mounts bool
}

// run runs a tool of the host and returns what it printed. The error wraps a *missingError, errTimeout, errTruncated, or
// an *exec.ExitError, and holds the first line that the tool complained with.
func (h *host) run(ctx context.Context, timeout time.Duration, tool string, args ...string) (string, error) {
	out := &capped{limit: maxOutput}
	err := h.stream(ctx, timeout, out, tool, args...)
	if err == nil && out.overflowed() {
		err = fmt.Errorf("%s: %w", tool, errTruncated)
	}
	h.keep(err, out.String(), append([]string{tool}, args...))
	return out.String(), because(err, out.String())
}

// keep keeps all that a tool said that ended badly, on stdout and on stderr.
func (h *host) keep(err error, printed string, call []string) {
	var complained *complaintError
	if err == nil || lacksTool(err) {
		return
	}
	if errors.As(err, &complained) {
		printed += complained.text
	}
	h.words.add(fmt.Sprintf("=== %s ===\n%s\n(%v)\n", strings.Join(call, " "), strings.ToValidUTF8(strings.TrimSpace(printed), "?"), err))
}

// because adds to the error of a tool the first line of what it printed: nvidia-smi and dcgmi give their reasons where others give their
// results, also when they complain of something else.
func because(err error, printed string) error {
	if _, exited := exitStatus(err); !exited {
		return err
	}
	var complained *complaintError
	sep := ": "
	if errors.As(err, &complained) {
		sep = "; "
	}
	for line := range strings.Lines(printed) {
		if line := reason(line); line != "" && (complained == nil || line != complained.line) {
			return fmt.Errorf("%w%s%s", err, sep, line)
		}
	}
	return err
}

// reason returns the line where it says anything. The head of a report or of a table does not.
func reason(line string) string {
	for _, head := range []string{"==", "+", "| Diagnostic", "Successfully ran"} {
		if strings.HasPrefix(line, head) {
			return ""
		}
	}
	return oneLine(strings.Join(strings.Fields(strings.ReplaceAll(line, "|", " ")), " "))
}

// runMounting is run for a tool that mounts.
func (h *host) runMounting(ctx context.Context, timeout time.Duration, tool string, args ...string) error {
	p, err := h.find(tool)
	if err != nil {
		return err
	}
	out := &capped{limit: maxOutput}
	err = p.host.execute(ctx, command{path: p.path, args: args, env: p.env, timeout: timeout, stdout: out, mounts: true})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", tool, err)
	h.keep(err, out.String(), append([]string{tool}, args...))
	return because(err, out.String())
}

// start starts the command, in the mount namespace of the host where that is asked for.
func (h *host) start(cmd *exec.Cmd, mounts bool) error {
	if !mounts || h.options.noChroot {
		return cmd.Start()
	}
	namespace, err := os.Open(filepath.Join(h.options.Root, initNamespace))
	if errors.Is(err, os.ErrNotExist) {
		// A directory that is no running machine, as in a simulation, has no namespace of its own.
		if live, liveErr := h.live(); liveErr == nil && !live {
			return cmd.Start()
		}
	}
	if err != nil {
		return fmt.Errorf("the mount namespace of the host: %w", err)
	}
	defer namespace.Close()
	// In that namespace, the root is the host's.
	cmd.SysProcAttr.Chroot = ""
	return inNamespace(namespace, cmd.Start)
}

// stream is run for a tool whose output is read while it runs.
func (h *host) stream(ctx context.Context, timeout time.Duration, stdout io.Writer, tool string, args ...string) error {
	p, err := h.find(tool)
	if err != nil {
		return err
	}
	if err := p.host.execute(ctx, command{path: p.path, args: args, env: p.env, timeout: timeout, stdout: stdout}); err != nil {
		return fmt.Errorf("%s: %w", tool, err)
	}
	return nil
}

// lookup finds the tool in the directories.
func (h *host) lookup(tool string, dirs ...string) (string, error) {
	for _, dir := range dirs {
		path := filepath.Join(dir, tool)
		info, err := h.stat(path)
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", &missingError{tool: tool}
}

// execute runs the command in its own process group, and ends the whole group when its time is over.
func (h *host) execute(ctx context.Context, c command) error {
	if h.options.replay {
		return h.replay(c)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.bounded(c.timeout), errTimeout)
	defer cancel()
	complaint := &capped{limit: 4 << 10}
	cmd, err := h.command(ctx, c)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = c.stdout, complaint
	if c.stdin != "" {
		cmd.Stdin = strings.NewReader(c.stdin)
	}
	if err := h.start(cmd, c.mounts); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = awaitKilled(done)
	}
	return explain(ctx, err, complaint.String())
}

// told runs the command and prints what it said.
func (h *host) told(ctx context.Context, c command) error {
	out := &capped{limit: maxOutput}
	c.stdout = out
	err := h.execute(ctx, c)
	fmt.Fprintf(h.options.Stdout, "=== %s ===\n%s\n", strings.Join(append([]string{c.path}, c.args...), " "), strings.ToValidUTF8(out.String(), "?"))
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(c.path), err)
	}
	return nil
}

// awaitKilled gives a killed process a little time to go, and then leaves it behind.
func awaitKilled(done <-chan error) error {
	grace := time.NewTimer(killGrace)
	defer grace.Stop()
	select {
	case err := <-done:
		return err
	case <-grace.C:
		return errors.New("cannot be killed")
	}
}

// explain makes an error of a run readable: why it was ended, or what it complained about.
func explain(ctx context.Context, err error, complaint string) error {
	// What is left is a child that keeps the output open, as a daemon does that the tool has started.
	if err == nil || errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	if line := oneLine(firstLine(complaint)); line != "" {
		return &complaintError{err, line, complaint}
	}
	return err
}

// complaintError is the error of a tool that said what it complains of.
type complaintError struct {
	err error
	// line is the first of text.
	line, text string
}

func (e *complaintError) Error() string { return e.err.Error() + ": " + e.line }
func (e *complaintError) Unwrap() error { return e.err }

// command returns the command, ready to start.
func (h *host) command(ctx context.Context, c command) (*exec.Cmd, error) {
	path := c.path
	attr := &syscall.SysProcAttr{Setpgid: true, Chroot: h.options.Root}
	dir := "/"
	if h.options.noChroot {
		inside, err := h.resolve(c.path)
		if err != nil {
			return nil, err
		}
		path, dir, attr.Chroot = filepath.Join(h.options.Root, inside), h.options.Root, ""
	}
	cmd := exec.CommandContext(ctx, path, c.args...)
	cmd.Dir = dir
	cmd.SysProcAttr = attr
	// The language is what the parsers read. systemctl does nothing in what it takes for a chroot, and says that it did.
	cmd.Env = append([]string{"PATH=" + searchPath, "LC_ALL=C", "SYSTEMD_IGNORE_CHROOT=1"}, c.env...)
	cmd.WaitDelay = pipeGrace
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	return cmd, nil
}

func killGroup(pid int) error {
	err := syscall.Kill(-pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// capped keeps the first bytes that are written to it and drops the rest, so that a tool is never blocked by its own
// output. A tool that was left behind may write to it at any time.
type capped struct {
	limit int

	mu       sync.Mutex
	text     []byte
	overflow bool
}

func (b *capped) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(p), b.limit-len(b.text))
	b.text = append(b.text, p[:n]...)
	b.overflow = b.overflow || n < len(p)
	return len(p), nil
}

func (b *capped) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

func (b *capped) overflowed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.overflow
}

// maxLine is what is kept of one line of a log.
const maxLine = 4 << 10

// lines hands each line that is written to it to a function, whatever the length of the whole.
type lines struct {
	each func(line string)

	mu      sync.Mutex
	partial []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range p {
		if c == '\n' {
			l.flush()
		} else if len(l.partial) < maxLine {
			l.partial = append(l.partial, c)
		}
	}
	return len(p), nil
}

// close hands over a last line that has no end.
func (l *lines) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.partial) > 0 {
		l.flush()
	}
	l.each = func(string) {}
}

func (l *lines) flush() {
	l.each(string(l.partial))
	l.partial = l.partial[:0]
}

// logHead matches what is printed before a message of the kernel: its time, and of some kernels the thread or the CPU that it is of.
// A message of several lines goes on below that.
const logHead = `^(?:\[[^\]]*\]\s*)?(?:\[\s*[TC]\d+\]\s*)?\s*`

// kernelLog hands every line of the kernel log of this boot to each. A host without dmesg has the log itself.
func (h *host) kernelLog(ctx context.Context, each func(line string)) error {
	reader := &lines{each: each}
	err := h.stream(ctx, 60*time.Second, reader, "dmesg")
	reader.close()
	if lacksTool(err) {
		if kernel := h.kernelRecords(each); !isAbsent(kernel) {
			return kernel
		}
	}
	return err
}
