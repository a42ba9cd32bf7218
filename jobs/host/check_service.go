package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

const serviceTimeout = 20 * time.Second

// bootIDFinding compares the boot: on another one, whatever the check was asked for has been overtaken.
func bootIDFinding(_ context.Context, h *host, e *expectation) finding {
	id, err := h.bootID()
	switch {
	case err != nil:
		return broken("%v", err)
	case e.bootID == "":
		return skipped("no boot is expected, this one is %s", id)
	case id != e.bootID:
		return broken("boot is %s, not %s", id, e.bootID)
	}
	return passed("%s", id)
}

func kubeletFinding(ctx context.Context, h *host, e *expectation) finding {
	units := e.KubeletUnits
	if len(units) == 0 {
		units = append([]string{"kubelet"}, append(distributions(), "snap.microk8s.daemon-kubelite")...)
	}
	f := h.oneActive(ctx, units)
	if f.unmade {
		return h.kubeletProcess()
	}
	return f
}

// kubeletProcesses are what the processes are called that are the kubelet. That of RKE2 and of k0s is a process of its own, in k3s it is a
// part of the one process.
func kubeletProcesses() []string { return []string{"kubelet", "k3s-server", "k3s-agent"} }

// kubeletProcess looks for the kubelet on a host without systemd, such as one of Talos.
func (h *host) kubeletProcess() finding {
	for _, name := range kubeletProcesses() {
		pid, err := h.runs(name)
		switch {
		case err != nil:
			return broken("%v", err)
		case pid != "":
			return passed("process %s, %s", pid, name)
		}
	}
	return failed(protocol.ExitUnknown, "there is no systemd, and no process is called %s", strings.Join(kubeletProcesses(), " or "))
}

// runtimeSockets are where the container runtimes listen.
func runtimeSockets() []string {
	return []string{
		"/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/k3s/containerd/containerd.sock", "/run/k0s/containerd.sock", "/run/cri-dockerd.sock",
	}
}

// runtimeSocket looks for a container runtime that listens, on a host without systemd.
func (h *host) runtimeSocket(ctx context.Context) finding {
	p := parts{code: protocol.ExitUnknown}
	for _, socket := range runtimeSockets() {
		switch err := h.listens(ctx, socket); {
		case err == nil:
			return passed("listens on %s", socket)
		case !isAbsent(err):
			p.fault("%v", err)
		}
	}
	if len(p.faults) == 0 {
		p.fault("there is no systemd, and no runtime listens on %s", strings.Join(runtimeSockets(), ", "))
	}
	return p.finding()
}

// listens connects to the socket, through its directory: the path of a socket is short.
func (h *host) listens(ctx context.Context, socket string) error {
	// In a directory nobody listens; that the socket is there has to do.
	if _, err := h.stat(socket); err != nil || h.options.replay {
		return err
	}
	dir, err := h.open(path.Dir(socket), os.O_RDONLY)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, h.bounded(serviceTimeout))
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), path.Base(socket)))
	if err == nil {
		err = conn.Close()
	}
	if err = errors.Join(err, dir.Close()); err != nil {
		return fmt.Errorf("nothing listens on %s: %w", socket, err)
	}
	return nil
}

// distributions are the units of those that run the kubelet and the container runtime in one process of theirs.
func distributions() []string {
	return []string{"k3s", "k3s-agent", "rke2-server", "rke2-agent", "k0scontroller", "k0sworker"}
}

func runtimeFinding(ctx context.Context, h *host, e *expectation) finding {
	units := e.RuntimeUnits
	if len(units) == 0 {
		units = append([]string{"containerd", "crio", "docker"}, append(distributions(), "snap.microk8s.daemon-containerd")...)
	}
	f := h.oneActive(ctx, units)
	if f.unmade {
		return h.runtimeSocket(ctx)
	}
	return f
}

// oneActive says whether one of the units is active.
func (h *host) oneActive(ctx context.Context, units []string) finding {
	active, err := h.active(ctx, units...)
	switch {
	case err != nil:
		return unmade(err)
	case len(active) == 0:
		return failed(protocol.ExitUnknown, "not active: %s", strings.Join(units, ", "))
	}
	return passed("active: %s", strings.Join(active, ", "))
}

func clockFinding(ctx context.Context, h *host, _ *expectation) finding {
	out, err := h.run(ctx, serviceTimeout, "timedatectl", "show", "--property=NTPSynchronized", "--value")
	if err != nil {
		return unmade(err)
	}
	switch said := strings.TrimSpace(out); said {
	case "yes":
		return passed("synchronised")
	case "no":
		return failed(protocol.ExitUnknown, "not synchronised")
	default:
		return skipped("timedatectl does not say whether it is synchronised: %.64q", said)
	}
}
