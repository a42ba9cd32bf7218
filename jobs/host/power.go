package host

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

const (
	// downTimeout is how long a host may take to go down after it said that it will.
	downTimeout = 10 * time.Minute
	// sysrqPause lets the kernel finish what a key has asked for.
	sysrqPause = 2 * time.Second
)

// power ends the boot of the host.
type power struct {
	bootID string
	// verb is what systemctl calls it.
	verb string
	// keys are what the kernel calls it: sync, remount read-only, and the act itself.
	keys string
}

func parsePower(action string, fs *flag.FlagSet, args []string) (operation, error) {
	p := power{verb: "reboot", keys: "sub"}
	if action == protocol.ActionShutdown {
		p = power{verb: "poweroff", keys: "suo"}
	}
	fs.StringVar(&p.bootID, "boot-id", "", "the boot that is to end")
	if err := parseFlags(fs, args); err != nil {
		return nil, err
	}
	// Without it, a Job that starts late ends a boot that nobody wanted to end.
	if p.bootID == "" {
		return nil, errors.New("--boot-id is missing")
	}
	return p, nil
}

func (p power) run(ctx context.Context, h *host, report *protocol.Report) {
	if report.BootID != p.bootID {
		conclude(report, passed("already rebooted: boot is %s, not %s", report.BootID, p.bootID))
		return
	}
	how, err := p.request(ctx, h)
	if err != nil {
		conclude(report, failed(protocol.ExitUnknown, "%s was refused: %v", p.verb, err))
		return
	}
	if h.options.replay {
		conclude(report, passed("%s was accepted, and a directory does not go down", how))
		return
	}
	conclude(report, p.awaitEnd(ctx, how))
}

// request asks for the end of the boot, in the order from the gentlest to the most certain, and returns what took it.
func (p power) request(ctx context.Context, h *host) (string, error) {
	var errs []error
	if err := h.sync(ctx, 30*time.Second); err != nil {
		// A disk that hangs is a reason to reboot, not one against it.
		errs = append(errs, err)
	}
	for _, args := range [][]string{{p.verb}, {"--force", p.verb}} {
		_, err := h.run(ctx, 60*time.Second, "systemctl", args...)
		if err == nil {
			return "systemctl " + strings.Join(args, " "), nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			return "", errors.Join(errs...)
		}
	}
	if err := p.sysrq(ctx, h); err != nil {
		return "", errors.Join(append(errs, err)...)
	}
	return "sysrq", nil
}

func (p power) sysrq(ctx context.Context, h *host) error {
	for i, key := range p.keys {
		if i > 0 {
			if err := h.pause(ctx, sysrqPause); err != nil {
				return err
			}
		}
		if err := h.write("/proc/sysrq-trigger", string(key), os.O_APPEND); err != nil {
			return fmt.Errorf("sysrq %c: %w", key, err)
		}
	}
	return nil
}

// awaitEnd waits to be ended with everything else.
func (p power) awaitEnd(ctx context.Context, how string) finding {
	err := pause(ctx, downTimeout)
	if errors.Is(err, context.Canceled) {
		// A host that goes down ends its containers first; that is no sign that it stays.
		return passed("%s was accepted, and this container was then told to end", how)
	}
	return failed(protocol.ExitUnknown, "%s was accepted, but the host is still up", how)
}

// pause waits for the host to do something. A directory does nothing.
func (h *host) pause(ctx context.Context, d time.Duration) error {
	if h.options.replay {
		return nil
	}
	return pause(ctx, d)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
