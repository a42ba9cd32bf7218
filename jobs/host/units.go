package host

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

const (
	unitStopTimeout  = 60 * time.Second
	unitStartTimeout = 120 * time.Second
	// pollEvery is how often an action looks whether it has had its effect.
	pollEvery = 10 * time.Second
)

// unitState is what systemd says about a unit.
type unitState struct{ load, pid string }

func (h *host) unitState(ctx context.Context, unit string) (unitState, error) {
	out, err := h.run(ctx, serviceTimeout, "systemctl", "show", unit, "--property=LoadState", "--property=MainPID")
	if err != nil {
		return unitState{}, err
	}
	var s unitState
	for line := range strings.Lines(out) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key {
		case "LoadState":
			s.load = value
		case "MainPID":
			s.pid = value
		}
	}
	return s, nil
}

// loaded says that the unit exists.
func (s unitState) loaded() bool { return s.load == "loaded" }

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

// stopUnits stops those of the units that run and returns them, also those that it stopped before an error.
func (h *host) stopUnits(ctx context.Context, units ...string) ([]string, error) {
	active, err := h.active(ctx, units...)
	if err != nil {
		return nil, err
	}
	for i, unit := range active {
		if _, err := h.run(ctx, unitStopTimeout, "systemctl", "stop", unit); err != nil {
			return active[:i+1], err
		}
	}
	return active, nil
}

// startUnits starts what was stopped, the last one first, even when the time of the operation is over.
func (h *host) startUnits(ctx context.Context, units []string) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for _, unit := range slices.Backward(units) {
		if _, err := h.run(ctx, unitStartTimeout, "systemctl", "start", unit); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// await looks again and again until it sees what it waits for, and returns what it saw last.
func (h *host) await(ctx context.Context, within time.Duration, look func(context.Context) finding) finding {
	deadline := time.Now().Add(h.bounded(within))
	for {
		f := look(ctx)
		if f.code == protocol.ExitOK || h.options.replay || ctx.Err() == nil && !time.Now().Before(deadline) {
			return f
		}
		if err := pause(ctx, pollEvery); err != nil {
			return broken("what became of it is unknown: %v; %s", err, f.detail)
		}
	}
}
