package nodesim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

const (
	// socketPath is where the tools on a host find the simulation, inside the root of the host.
	socketPath = "/run/nodesim.sock"
	binaryPath = "/usr/libexec/hosttool"
	// siteRemedy is what a site has installed for a file system of its own.
	siteRemedy = "RemountLustre"
	kmsgPath   = "/dev/kmsg"
	crashPath  = "/sys/fs/pstore/dmesg-efi-1"
	sysrqPath  = "/proc/sysrq-trigger"
	maxRequest = 1 << 20
)

// root is the root folder of a host.
type root struct {
	dir      string
	listener net.Listener
	// serving is done when nobody asks any more.
	serving sync.WaitGroup

	mu sync.Mutex
	// files holds what the files that show the state of the host were last written with.
	files map[string]string
	conns map[net.Conn]bool
	// bootID is the boot that the folder was last brought up to date for.
	bootID string
}

// request is what a tool asks, answer what it is told to print and to end with.
type request struct {
	Tool string   `json:"tool"`
	Args []string `json:"args"`
}

type answer struct {
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
	Exit   int    `json:"exit"`
	// hang is never answered.
	hang bool
}

// toolPaths are the names under which the one binary lies on a host.
func toolPaths() []string {
	var paths []string
	for _, tool := range []string{
		"systemctl", "nvidia-smi", "ibstat", "dmesg", "smartctl", "sync", "lspci", "ipmitool", "findmnt", "df", "stat", "timedatectl",
		"journalctl", "free", "ps", "ls", "modprobe", "ethtool", "crictl",
	} {
		paths = append(paths, "/usr/bin/"+tool)
	}
	for _, tool := range []string{"mmgetstate", "mmhealth", "mmstartup", "mmmount", "mmumount", "mmdiag", "mmfsadm", "mmcommon"} {
		paths = append(paths, "/usr/lpp/mmfs/bin/"+tool)
	}
	return append(paths, "/etc/aegis/checks.d/gpu-burn", "/etc/aegis/remedies.d/"+siteRemedy)
}

// prepareRoot makes the root folder of the host, or brings it up to date, and returns its path.
func (h *host) prepareRoot() (string, error) {
	h.mu.Lock()
	r := h.root
	if r == nil {
		r = &root{dir: filepath.Join(h.sim.options.Dir, "hosts", h.name), files: map[string]string{}, conns: map[net.Conn]bool{}}
		h.root = r
	}
	h.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener == nil {
		if err := r.create(h); err != nil {
			return "", fmt.Errorf("make the root of %s: %w", h.name, err)
		}
	}
	// As after a boot: an operation reads back what it writes here.
	for _, name := range []string{sysrqPath, "/proc/sys/vm/drop_caches"} {
		if err := os.Truncate(filepath.Join(r.dir, name), 0); err != nil {
			return "", fmt.Errorf("make the root of %s: %w", h.name, err)
		}
	}
	if err := r.showLocked(h); err != nil {
		return "", fmt.Errorf("make the root of %s: %w", h.name, err)
	}
	return r.dir, nil
}

// create makes what never changes.
func (r *root) create(h *host) error {
	if err := r.write(binaryPath, ""); err != nil {
		return err
	}
	binary := filepath.Join(r.dir, binaryPath)
	if err := link(h.sim.options.HostTool, binary); err != nil {
		return err
	}
	for _, name := range toolPaths() {
		if err := os.MkdirAll(filepath.Join(r.dir, path.Dir(name)), 0o755); err != nil {
			return err
		}
		if err := link(binary, filepath.Join(r.dir, name)); err != nil {
			return err
		}
	}
	for _, name := range []string{sysrqPath, "/proc/sys/vm/drop_caches", kmsgPath} {
		if err := r.write(name, ""); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/run", "/tmp", "/var/lib/kubelet", "/var/log", "/gpfs/fs1", "/sys/fs/pstore", "/var/crash", "/sys/block/nvme0n1"} {
		if err := os.MkdirAll(filepath.Join(r.dir, dir), 0o755); err != nil {
			return err
		}
	}
	listener, err := listen(filepath.Join(r.dir, path.Dir(socketPath)), path.Base(socketPath))
	if err != nil {
		return err
	}
	r.listener = listener
	r.serving.Go(func() { r.serve(h) })
	return nil
}

// listen makes the socket in a folder whose path may be longer than the address of a socket.
func listen(dir, name string) (net.Listener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), name)})
	if err != nil {
		return nil, err
	}
	// Its address means nothing once the folder is closed.
	l.SetUnlinkOnClose(false)
	return l, nil
}

// link makes a hard link, or a copy where the file systems differ.
func link(from, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	err := os.Link(from, to)
	if !errors.Is(err, syscall.EXDEV) && !errors.Is(err, syscall.EPERM) {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o755)
}

func (r *root) write(name, content string) error {
	file := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(content), 0o644)
}

// refreshLocked writes the files that have changed and removes those that are gone, with the folders that this empties:
// a device is a folder.
func (r *root) refreshLocked(files map[string]string) error {
	for name, content := range files {
		if old, ok := r.files[name]; ok && old == content {
			continue
		}
		if err := r.write(name, content); err != nil {
			return err
		}
	}
	for name := range r.files {
		if _, ok := files[name]; ok {
			continue
		}
		if err := os.Remove(filepath.Join(r.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for dir := path.Dir(name); dir != "/" && os.Remove(filepath.Join(r.dir, dir)) == nil; dir = path.Dir(dir) {
		}
	}
	r.files = files
	return nil
}

func (h *host) refresh() error {
	r := h.root
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.showLocked(h)
}

// showLocked brings the folder up to date with the state of the host.
func (r *root) showLocked(h *host) error {
	files, bootID, crashedAt := h.onDisk()
	if r.bootID != bootID {
		// It is in memory on a real host.
		if err := os.RemoveAll(filepath.Join(r.dir, "/run/aegis")); err != nil {
			return err
		}
		r.bootID = bootID
	}
	if err := r.refreshLocked(files); err != nil || crashedAt.IsZero() {
		return err
	}
	// It is as old as the crash, however late it is written here.
	return os.Chtimes(filepath.Join(r.dir, crashPath), crashedAt, crashedAt)
}

// serve answers the tools of the host.
func (r *root) serve(h *host) {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		r.conns[conn] = true
		r.mu.Unlock()
		r.serving.Go(func() {
			if err := h.answer(conn); err != nil {
				h.sim.log.Warn("tool not answered", "node", h.name, "err", err)
			}
			r.mu.Lock()
			delete(r.conns, conn)
			r.mu.Unlock()
		})
	}
}

func (h *host) answer(conn net.Conn) (err error) {
	defer func() { err = errors.Join(err, conn.Close()) }()
	var asked request
	if err := json.NewDecoder(io.LimitReader(conn, maxRequest)).Decode(&asked); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	told := h.tool(asked.Tool, asked.Args)
	h.sim.log.Debug("tool", "node", h.name, "tool", asked.Tool, "args", strings.Join(asked.Args, " "), "exit", told.Exit)
	if told.hang {
		// Until it is killed, or the host goes.
		if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
	if err := h.refresh(); err != nil {
		return err
	}
	if err := json.NewEncoder(conn).Encode(told); err != nil && !errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// pollSysrq does what was written to the kernel's trigger.
func (h *host) pollSysrq() {
	keys, err := os.ReadFile(filepath.Join(h.root.dir, sysrqPath))
	if err != nil {
		h.sim.log.Warn("sysrq not read", "node", h.name, "err", err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.power != PowerOn:
	case strings.Contains(string(keys), "b"):
		h.cycleLocked("reset by sysrq")
	case strings.Contains(string(keys), "o"):
		h.downLocked(PowerOff, "powered off by sysrq")
	}
}

// discard ends what runs on the host and in its root folder. The folder stays, for a look at it.
func (h *host) discard() error {
	h.mu.Lock()
	for _, o := range h.current {
		o.signal(syscall.SIGKILL)
	}
	r := h.root
	h.mu.Unlock()
	if r == nil {
		return nil
	}
	r.mu.Lock()
	var err error
	if r.listener != nil {
		err = r.listener.Close()
	}
	for conn := range r.conns {
		if e := conn.Close(); e != nil && !errors.Is(e, net.ErrClosed) {
			err = errors.Join(err, e)
		}
	}
	r.mu.Unlock()
	r.serving.Wait()
	return err
}
