package host

import (
	"context"
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
	return h.oneActive(ctx, units)
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
	return h.oneActive(ctx, units)
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
