package host

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

const (
	// gpfsStartTimeout is how long a node may take to join the cluster.
	gpfsStartTimeout = 30 * time.Minute
	gpfsMountTimeout = 10 * time.Minute
	// statTimeout is how long a file system may take to answer.
	statTimeout = 10 * time.Second
	// deadlockTimeout is how long the waiters may take to go.
	deadlockTimeout = 10 * time.Minute
	// maxWait is how long a thread of GPFS may wait for another.
	maxWait    = 900 * time.Second
	gpfsActive = "active"
)

// gpfsNode is what a node may be called in its cluster.
var gpfsNode = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$`)

// startGPFS starts GPFS on this node and waits until it is a member of its cluster.
func startGPFS(ctx context.Context, h *host, _ string) finding {
	state, err := h.gpfsState(ctx)
	switch {
	case err != nil:
		return unmade(err)
	case state == gpfsActive:
		return unneeded("GPFS is active")
	}
	// A daemon that waits for its cluster runs already.
	if state != "arbitrating" {
		// The daemon mounts, also what is to be mounted when it starts.
		if err := h.runMounting(ctx, 5*time.Minute, "mmstartup"); err != nil {
			return notDone(protocol.ExitGPFS, err)
		}
	}
	return h.await(ctx, gpfsStartTimeout, func(ctx context.Context) finding {
		now, err := h.gpfsState(ctx)
		switch {
		case err != nil:
			return lost("GPFS was started", err)
		case now != gpfsActive:
			return failed(protocol.ExitGPFS, "GPFS is %.64q, was %.64q", now, state)
		}
		return passed("GPFS is active, was %.64q", state)
	})
}

// gpfsMount mounts GPFS file systems that are not mounted or do not answer.
type gpfsMount struct {
	host *host
	// device is the file system that is to be mounted, by name or mount point, empty for all.
	device string
}

// mountGPFS mounts the file system, or all of them. One that is mounted and does not answer is unmounted first, never by force.
func mountGPFS(ctx context.Context, h *host, device string) finding {
	g := gpfsMount{h, device}
	state, err := h.gpfsState(ctx)
	switch {
	case err != nil:
		return unmade(err)
	case state != gpfsActive:
		return refused(protocol.ExitGPFS, "GPFS is %.64q", state)
	}
	look, stale, err := g.look(ctx)
	switch {
	case err != nil:
		return unmade(err)
	case look.code == protocol.ExitOK && g.complete():
		return unneeded("%s", look.detail)
	}
	// All of them first: whoever is refused finds everything as it was.
	for _, m := range stale {
		if err := h.unusedMount(m); err != nil {
			return notBegun(protocol.ExitGPFS, err)
		}
	}
	acted := g.mount(ctx, stale)
	look, _, err = g.look(ctx)
	switch {
	case err != nil:
		return lost("mmmount was run", err)
	case look.code != protocol.ExitOK && acted != nil:
		return notDone(protocol.ExitGPFS, fmt.Errorf("%w; %s", acted, look.detail))
	}
	return look
}

// mount takes away the mounts that do not answer, and mounts what is wanted. What became of it says more than how the commands
// ended: they complain about what is mounted already.
func (g gpfsMount) mount(ctx context.Context, stale []mount) error {
	var errs []error
	for _, m := range stale {
		errs = append(errs, g.host.runMounting(ctx, 2*time.Minute, "mmumount", strings.TrimPrefix(m.device, "/dev/")))
	}
	what := g.device
	if what == "" {
		what = "all"
	}
	errs = append(errs, g.host.runMounting(ctx, gpfsMountTimeout, "mmmount", what))
	return errors.Join(errs...)
}

// complete says that a passed look means that nothing is missing: without a list, there may always be one more.
func (g gpfsMount) complete() bool {
	wanted, err := g.wanted()
	return err == nil && len(wanted) > 0
}

// wanted returns the file systems that are to be mounted. GPFS lists those of its cluster in /etc/fstab.
func (g gpfsMount) wanted() ([]string, error) {
	if g.device != "" {
		return []string{g.device}, nil
	}
	return g.host.listedGPFS()
}

// listedGPFS returns the mount points of the file systems of GPFS in /etc/fstab.
func (h *host) listedGPFS() ([]string, error) {
	text, err := h.read("/etc/fstab")
	if err != nil && !isAbsent(err) {
		return nil, err
	}
	var listed []string
	for _, m := range parseMounts(text) {
		if m.fstype == "gpfs" {
			listed = append(listed, m.point)
		}
	}
	return listed, nil
}

// look sees whether what is wanted is mounted and answers, and returns the mounts that do not answer.
func (g gpfsMount) look(ctx context.Context) (finding, []mount, error) {
	mounts, err := g.host.gpfsMounts()
	if err != nil {
		return finding{}, nil, err
	}
	wanted, err := g.wanted()
	if err != nil {
		return finding{}, nil, err
	}
	p := parts{code: protocol.ExitGPFS}
	for _, name := range wanted {
		if !slices.ContainsFunc(mounts, func(m mount) bool { return m.isGPFS(name) }) {
			p.fault("%s is not mounted", name)
		}
	}
	if len(mounts) == 0 && len(p.faults) == 0 {
		p.fault("no file system is mounted")
	}
	var stale []mount
	for _, m := range mounts {
		if g.device != "" && !m.isGPFS(g.device) {
			continue
		}
		err := g.host.answers(ctx, m.point)
		switch {
		case blames(err):
			p.fault("%s does not answer: %v", m.point, err)
			stale = append(stale, m)
		case err != nil:
			return finding{}, nil, err
		default:
			p.note("%s is mounted and answers", m.point)
		}
	}
	return p.finding(), stale, nil
}

// unusedMount returns an error that names a process which would lose the file system. None of it is touched for that: whoever
// asks it for anything can hang.
func (h *host) unusedMount(m mount) error {
	pids, err := h.pids()
	if err != nil {
		return err
	}
	own, err := h.link("/proc/1/ns/mnt")
	if ignoreGone(err) != nil {
		return err
	}
	seen := make(map[string][]mountInfo)
	for _, pid := range pids {
		views, err := h.mountViews(pid, m.device, seen)
		if err != nil {
			return err
		}
		if err := h.usesMount(pid, own, views); err != nil {
			return err
		}
	}
	return nil
}

// usesMount returns an error where the process would lose one of its views of the file system.
func (h *host) usesMount(pid, own string, views []mountInfo) error {
	if len(views) == 0 {
		return nil
	}
	namespace, err := h.link("/proc/" + pid + "/ns/mnt")
	if ignoreGone(err) != nil {
		return err
	}
	for _, view := range views {
		// A container with a volume of it keeps the dead one for ever: the unmount does not reach it.
		if namespace != own && !view.follows {
			return obstacle("process %s (%.64s) has it in its container as %s", pid, h.processName(pid), view.point)
		}
	}
	inside := func(file string) bool {
		return slices.ContainsFunc(views, func(v mountInfo) bool { return file == v.point || strings.HasPrefix(file, v.point+"/") })
	}
	file, err := h.openFile(pid, inside)
	if err != nil {
		return err
	}
	for _, link := range []string{"cwd", "root", "exe"} {
		target, err := h.link("/proc/" + pid + "/" + link)
		if ignoreGone(err) != nil {
			return err
		}
		if err == nil && inside(target) {
			file = target
		}
	}
	if file != "" {
		return obstacle("process %s (%.64s) holds %s", pid, h.processName(pid), file)
	}
	return nil
}

// mountInfo is one mount as a process sees it.
type mountInfo struct {
	point, fstype, source string
	// follows says that what the host mounts and unmounts reaches it.
	follows bool
}

// mountViews returns the mounts of the file system that the process sees. Processes that share a namespace see the same.
func (h *host) mountViews(pid, device string, seen map[string][]mountInfo) ([]mountInfo, error) {
	namespace, err := h.link("/proc/" + pid + "/ns/mnt")
	if ignoreGone(err) != nil {
		return nil, err
	}
	if views, ok := seen[namespace]; ok && namespace != "" {
		return views, nil
	}
	text, err := h.read("/proc/" + pid + "/mountinfo")
	if err != nil {
		return nil, ignoreGone(err)
	}
	views := slices.DeleteFunc(parseMountInfo(text), func(m mountInfo) bool {
		return m.fstype != "gpfs" || strings.TrimPrefix(m.source, "/dev/") != strings.TrimPrefix(device, "/dev/")
	})
	seen[namespace] = views
	return views, nil
}

// parseMountInfo reads the table of the kernel: ID, parent, device, root, point, options, optional fields up to a dash, type,
// source, and options of the file system.
func parseMountInfo(text string) []mountInfo {
	var out []mountInfo
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		dash := slices.Index(f, "-")
		if dash < 6 || dash+2 >= len(f) {
			continue
		}
		out = append(out, mountInfo{
			point: unescape(f[4]), fstype: f[dash+1], source: unescape(f[dash+2]),
			follows: slices.ContainsFunc(f[6:dash], func(o string) bool {
				return strings.HasPrefix(o, "master:") || strings.HasPrefix(o, "shared:")
			}),
		})
	}
	return out
}

// gpfsMounts returns what is mounted of GPFS.
func (h *host) gpfsMounts() ([]mount, error) {
	mounts, err := h.mounts()
	return slices.DeleteFunc(mounts, func(m mount) bool { return m.fstype != "gpfs" }), err
}

// answers asks the file system from a child, because whoever asks a mount that hangs can wait for ever.
func (h *host) answers(ctx context.Context, point string) error {
	_, err := h.run(ctx, statTimeout, "stat", "-f", "-c", "%T", "--", point)
	return err
}

// breakDeadlock lets GPFS end what threads of this node wait for, after what they wait for was written down.
func breakDeadlock(ctx context.Context, h *host, _ string) finding {
	name, state, err := h.gpfsNode(ctx)
	switch {
	case err != nil:
		return unmade(err)
	case state != gpfsActive:
		return refused(protocol.ExitGPFS, "GPFS is %.64q", state)
	}
	before := h.waitersGone(ctx)
	switch {
	case before.code == protocol.ExitOK:
		return unneeded("%s", before.detail)
	case before.code != protocol.ExitGPFS:
		return before
	case !gpfsNode.MatchString(name):
		return broken("mmgetstate names this node %.64q", name)
	}
	// What is broken up cannot be looked at any more.
	for _, what := range []string{"--waiters", "--deadlock"} {
		h.collect(ctx, section{tool: "mmdiag", args: []string{what}})
	}
	tool, err := h.lookup("mmcommon", searchDirs()...)
	if err != nil {
		return unmade(err)
	}
	// It asks whether it is meant.
	err = h.told(ctx, command{path: tool, args: []string{"breakDeadlock", "-N", name}, timeout: 5 * time.Minute, stdin: "yes\n"})
	if err != nil {
		return notDone(protocol.ExitGPFS, fmt.Errorf("%w; before: %s", err, before.detail))
	}
	return h.await(ctx, deadlockTimeout, h.waitersGone)
}

// waitersGone sees whether no thread of GPFS waits too long.
func (h *host) waitersGone(ctx context.Context) finding {
	var log waiterLog
	reader := &lines{each: log.line}
	err := h.stream(ctx, 60*time.Second, reader, "mmdiag", "--waiters", "-Y")
	reader.close()
	if err == nil {
		err = log.err
	}
	switch {
	case err != nil:
		return unmade(err)
	case log.late > 0:
		return failed(protocol.ExitGPFS, "%d of %d waiters wait for more than %s, the longest %s: %s", log.late, log.all, maxWait, log.longest, log.what)
	}
	return passed("no waiter waits for more than %s", maxWait)
}

// idleThread is what the threads are called that wait for work and not for each other, as gpfs_exporter leaves them out.
var idleThread = regexp.MustCompile(`EventsExporterSenderThread|Fsck`)

// waiterLog reads the machine-readable list of the threads that wait.
type waiterLog struct {
	columns   []string
	all, late int
	longest   time.Duration
	// what the longest is and waits for.
	what string
	err  error
}

func (w *waiterLog) line(text string) {
	fields := strings.Split(strings.TrimSpace(text), ":")
	switch {
	case strings.TrimSpace(text) == "" || w.err != nil:
	case len(fields) > 2 && fields[0] == "mmdiag" && fields[2] == "HEADER":
		w.columns = fields
	case w.columns == nil || fields[0] != "mmdiag":
		w.err = fmt.Errorf("mmdiag printed output that cannot be parsed: %.64q", text)
	default:
		w.waiter(fields)
	}
}

func (w *waiterLog) waiter(fields []string) {
	seconds, err := strconv.ParseFloat(w.field(fields, "waitTime"), 64)
	if sane := seconds >= 0 && seconds < 1e9; err != nil || !sane {
		w.err = errors.New("mmdiag printed a waiter without the time that it waits")
		return
	}
	if idleThread.MatchString(w.field(fields, "threadName")) {
		return
	}
	w.all++
	wait := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	if wait <= maxWait {
		return
	}
	if w.late++; wait > w.longest {
		w.longest = wait
		reason := w.field(fields, "condVarReason") + " " + w.field(fields, "auxReason")
		w.what = fmt.Sprintf("%.64s, %.96s", w.field(fields, "threadName"), strings.TrimSpace(reason))
	}
}

func (w *waiterLog) field(fields []string, name string) string {
	i := slices.Index(w.columns, name)
	if i < 0 || i >= len(fields) {
		return ""
	}
	return fields[i]
}
