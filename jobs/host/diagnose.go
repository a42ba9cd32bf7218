package host

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"sync"
	"time"

	"aegis.io/aegis/jobs"
)

const (
	sectionTimeout = 10 * time.Second
	// maxSection is what is printed of the output of one tool.
	maxSection = 16 << 10
)

// diagnose collects what people look at first, and changes nothing. It says nothing about health.
type diagnose struct{ condition, device string }

func parseDiagnose(fs *flag.FlagSet, args []string) (operation, error) {
	var d diagnose
	fs.StringVar(&d.condition, "condition", "", "why it is asked for")
	fs.StringVar(&d.device, "device", "", "the device that it is about")
	return d, parseFlags(fs, args)
}

// sections returns the commands, each with whether the end of its output says more than the beginning.
func sections() []section {
	return []section{
		{"dmesg", nil, true},
		{"systemctl", []string{"--no-pager", "--failed"}, false},
		{"journalctl", []string{"-b", "-u", "kubelet", "-n", "200", "--no-pager"}, true},
		{smi, []string{"-q"}, false},
		{"ibstat", nil, false},
		{"mmhealth", []string{"node", "show"}, false},
		{"ipmitool", []string{"sel", "elist"}, true},
		{"ipmitool", []string{"sdr"}, false},
		{"lspci", []string{"-vv", "-d", "10de:"}, false},
		{"df", []string{"-h"}, false},
		{"free", []string{"-m"}, false},
		{"ps", []string{"-eo", "state,pid,ppid,wchan:32,etime,comm"}, false},
		{"ls", []string{"-l", "/sys/fs/pstore", "/var/crash"}, false},
	}
}

type section struct {
	tool string
	args []string
	tail bool
}

func (s section) name() string {
	return strings.TrimSpace(s.tool + " " + strings.Join(s.args, " "))
}

func (d diagnose) run(ctx context.Context, h *host, report *jobs.Report) {
	if d.condition != "" || d.device != "" {
		fmt.Fprintf(h.options.Stdout, "condition %.64q, device %.64q\n", d.condition, d.device)
	}
	collected := 0
	for _, s := range sections() {
		f := h.collect(ctx, s)
		if f.result == jobs.ResultPassed {
			collected++
		}
		report.Checks = append(report.Checks, jobs.Check{Name: s.name(), Result: f.result, Detail: oneLine(f.detail)})
	}
	if collected == 0 {
		conclude(report, broken("nothing could be collected"))
		return
	}
	conclude(report, passed("%d of %d sections collected", collected, len(sections())))
}

// collect prints what the tool says. It is collected even when the tool was not happy, or did not end.
func (h *host) collect(ctx context.Context, s section) finding {
	out := &window{limit: maxSection, tail: s.tail}
	err := h.stream(ctx, sectionTimeout, out, s.tool, s.args...)
	if _, ok := missing(err); ok {
		return unmade(err)
	}
	text, dropped := out.content()
	fmt.Fprintf(h.options.Stdout, "=== %s ===\n%s\n", s.name(), strings.ToValidUTF8(text, "?"))
	if dropped > 0 {
		fmt.Fprintf(h.options.Stdout, "(%d bytes left out)\n", dropped)
	}
	if err != nil {
		fmt.Fprintf(h.options.Stdout, "(%v)\n", err)
	}
	if _, exited := exitStatus(err); err != nil && !exited {
		return broken("%v", err)
	}
	return passed("")
}

// window keeps the first or the last bytes that are written to it.
type window struct {
	limit int
	tail  bool

	mu      sync.Mutex
	text    []byte
	dropped int
}

func (w *window) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, p...)
	if over := len(w.text) - w.limit; over > 0 {
		w.dropped += over
		if w.tail {
			w.text = append(w.text[:0], w.text[over:]...)
		} else {
			w.text = w.text[:w.limit]
		}
	}
	return len(p), nil
}

func (w *window) content() (text string, dropped int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.text), w.dropped
}
