package host

import (
	"context"
	"slices"
	"strings"
	"time"
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
		units = []string{"kubelet"}
	}
	return h.oneActive(ctx, units)
}

func runtimeFinding(ctx context.Context, h *host, e *expectation) finding {
	units := e.RuntimeUnits
	if len(units) == 0 {
		units = []string{"containerd", "crio", "docker"}
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
		return failed(exitUnknown, "not active: %s", strings.Join(units, ", "))
	}
	return passed("active: %s", strings.Join(active, ", "))
}

// active returns those of the units that are active. systemctl prints one state per unit, and exits with an error when
// one of them is not active; so its words count, not its exit status.
func (h *host) active(ctx context.Context, units ...string) ([]string, error) {
	out, err := h.run(ctx, serviceTimeout, "systemctl", append([]string{"is-active"}, units...)...)
	if _, exited := exitStatus(err); err != nil && !exited {
		return nil, err
	}
	states := strings.Fields(out)
	if len(states) == 0 && err != nil {
		return nil, err
	}
	var active []string
	for i, unit := range units {
		if i < len(states) && states[i] == "active" {
			active = append(active, unit)
		}
	}
	return active, nil
}

func (h *host) isActive(ctx context.Context, unit string) (bool, error) {
	active, err := h.active(ctx, unit)
	return slices.Contains(active, unit), err
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
		return failed(exitUnknown, "not synchronised")
	default:
		return skipped("timedatectl does not say whether it is synchronised: %.64q", said)
	}
}
