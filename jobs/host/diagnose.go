package host

import (
	"context"
	"flag"
	"fmt"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"aegis.io/aegis/jobs/protocol"
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

// sections returns the commands, each with whether the end of its output says more than the beginning. Of a device that is
// known by its PCI address, more is asked.
func sections(address string) []section {
	all := []section{
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
	if address != "" {
		all = append(all, section{"lspci", []string{"-vv", "-s", address}, false})
	}
	return all
}

type section struct {
	tool string
	args []string
	tail bool
}

func (s section) name() string {
	return strings.TrimSpace(s.tool + " " + strings.Join(s.args, " "))
}

func (d diagnose) run(ctx context.Context, h *host, report *protocol.Report) {
	if d.condition != "" || d.device != "" {
		fmt.Fprintf(h.options.Stdout, "condition %.64q, device %.64q\n", d.condition, d.device)
	}
	gpu := h.gpuBus(ctx, d.device)
	all := sections(h.address(gpu, d.device))
	collected := 0
	for _, s := range all {
		f := h.collect(ctx, s)
		if f.result == protocol.ResultPassed {
			collected++
		}
		report.Checks = append(report.Checks, protocol.Check{Name: s.name(), Result: f.result, Detail: oneLine(f.detail)})
	}
	if collected == 0 {
		conclude(report, broken("nothing could be collected"))
		return
	}
	wanted, told := h.recovery(ctx, gpu)
	told = append(told, fmt.Sprintf("%d of %d sections collected", collected, len(all)))
	f := passed("%s", strings.Join(append(told, h.crashNote()...), "; "))
	f.recovery = wanted
	conclude(report, f)
}

// gpuBus returns the bus ID of the GPU that the device names, nothing where it names none or the driver does not know it.
func (h *host) gpuBus(ctx context.Context, device string) string {
	switch {
	case device == "" || device == "all" || !gpuID.MatchString(device):
		return ""
	case strings.Contains(device, ":"):
		return busID(device)
	}
	ctx, cancel := context.WithTimeout(ctx, h.bounded(sectionTimeout))
	defer cancel()
	gpus, err := h.gpus(ctx)
	if err != nil {
		return ""
	}
	for _, g := range gpus {
		if g.is(device) {
			return g.bus
		}
	}
	return ""
}

// pciAddress is what a device is called on the PCI bus.
var pciAddress = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// address returns the PCI address of the GPU, or of the adapter that the device names.
func (h *host) address(gpu, device string) string {
	if gpu != "" {
		return gpu
	}
	if !ibDevice.MatchString(device) || device == "" {
		return ""
	}
	for _, dir := range []string{infinibandDir, netDir} {
		target, err := h.link(dir + device + "/device")
		if address := path.Base(target); err == nil && pciAddress.MatchString(address) {
			return address
		}
	}
	return ""
}

// recovery returns what the driver asks for, and how people are told, of one GPU where its bus ID is given. A log or a report that could not be read is
// said to be so, because it does not mean that nothing is asked for.
func (h *host) recovery(ctx context.Context, bus string) (wanted string, told []string) {
	ctx, cancel := context.WithTimeout(ctx, h.bounded(sectionTimeout))
	defer cancel()
	var log recoveries
	err := h.kernelLog(ctx, log.line)
	// The report of the driver knows what the log may have lost.
	now, errNow := h.fabric(ctx)
	log.add(now)
	if text := log.text(bus); text != "" {
		return log.most(bus), []string{text}
	}
	if err != nil {
		told = append(told, fmt.Sprintf("kernel log not read: %v", err))
	}
	if errNow != nil && !lacksTool(errNow) && len(now.gpus) == 0 {
		told = append(told, fmt.Sprintf("recovery action not read: %v", errNow))
	}
	return "", told
}

// crashNote returns the newest record of a crash of the kernel.
func (h *host) crashNote() []string {
	newest, err := h.newestCrash()
	switch {
	case err != nil:
		return []string{fmt.Sprintf("kernel crash records not read: %v", err)}
	case newest.file == "":
		return nil
	}
	return []string{"kernel crash record: " + newest.String()}
}

// collect prints what the tool says. It is collected even when the tool was not happy, or did not end.
func (h *host) collect(ctx context.Context, s section) finding {
	out := &window{limit: maxSection, tail: s.tail}
	err := h.stream(ctx, sectionTimeout, out, s.tool, s.args...)
	if lacksTool(err) && s.tool == "dmesg" {
		if kernel := h.kernelRecords(func(line string) { fmt.Fprintln(out, line) }); !isAbsent(kernel) {
			err = kernel
		}
	}
	if lacksTool(err) {
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
