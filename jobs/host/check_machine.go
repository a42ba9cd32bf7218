package host

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

const (
	cpuDir  = "/sys/devices/system/cpu/"
	edacDir = "/sys/devices/system/edac/mc/"
	// memoryTolerance is what firmware and kernel keep of the memory for themselves.
	memoryTolerance = 0.03
)

var (
	// machineCheck are the lines of errors that the hardware could not correct.
	machineCheck = regexp.MustCompile(logHead + `(?:mce: |\[Hardware Error\]: ).*(?:Machine Check Exception|\bUncorrected\b|System Fatal error)`)
	// firmwareError is the same where the firmware is told first. Its records have a number; those of the boot before have none.
	firmwareError   = regexp.MustCompile(logHead + `\{\d+\}\[Hardware Error\]: event severity: (recoverable|fatal)\b`)
	firmwareSection = regexp.MustCompile(logHead + `\{\d+\}\[Hardware Error\]:\s+section_type: (.*)`)
	// processorEvent is an event of a sensor that has no threshold.
	processorEvent = regexp.MustCompile(`(?i)\b(?:IERR|Thermal Trip|FRB\d|Configuration Error|Uncorrectable)\b`)
	cpuName        = regexp.MustCompile(`^cpu\d+$`)
	mcName         = regexp.MustCompile(`^mc\d+$`)
)

func cpuFinding(ctx context.Context, h *host, e *expectation) finding {
	p := parts{code: protocol.ExitCPU}
	p.online(h, e.CPUs)
	p.machineChecks(ctx, h)
	p.processorSensors(ctx, h)
	p.governors(h)
	return p.finding()
}

func (p *parts) online(h *host, want int) {
	text, err := h.readLine(cpuDir + "online")
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	have, err := parseRanges(text)
	switch {
	case err != nil:
		p.errs = append(p.errs, err)
	case have < want:
		p.fault("%d CPUs expected, %d online", want, have)
	default:
		p.note("%d CPUs online", have)
	}
}

// parseRanges counts the numbers of a list such as 0-3,8.
func parseRanges(text string) (int, error) {
	n := 0
	for part := range strings.SplitSeq(text, ",") {
		low, high, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(low, 10, 31)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(high, 10, 31)
		}
		if err != nil || last < first {
			return 0, fmt.Errorf("%.64q is not a list of numbers", text)
		}
		n += int(last-first) + 1
	}
	return n, nil
}

func (p *parts) machineChecks(ctx context.Context, h *host) {
	var log hardwareLog
	err := h.kernelLog(ctx, log.line)
	log.settle("")
	if err != nil {
		p.unmade(err)
	}
	if log.n > 0 {
		p.fault("%d uncorrected errors of the hardware, the first: %.160s", log.n, log.first)
	}
	if log.recovered > 0 {
		p.note("%d errors of PCIe devices were recovered", log.recovered)
	}
}

// hardwareLog reads the errors that were not corrected.
type hardwareLog struct {
	n     int
	first string
	// open is an error that was recovered from, before the log says of what it is.
	open string
	// recovered counts those of devices on the bus. They say nothing about the processors, and the device is there again.
	recovered int
}

func (l *hardwareLog) line(text string) {
	if m := firmwareSection.FindStringSubmatch(text); m != nil {
		l.settle(m[1])
		return
	}
	m := firmwareError.FindStringSubmatch(text)
	switch {
	case m != nil && m[1] == "recoverable":
		l.settle("")
		l.open = text
	case m != nil, machineCheck.MatchString(text):
		l.add(text)
	}
}

// settle decides on the error that is open.
func (l *hardwareLog) settle(section string) {
	switch {
	case l.open == "":
	case strings.HasPrefix(section, "PCIe"):
		l.recovered++
	default:
		l.add(l.open)
	}
	l.open = ""
}

func (l *hardwareLog) add(text string) {
	if l.n++; l.n == 1 {
		l.first = text
	}
}

// processorSensors asks the baseboard. A machine without one, such as a virtual one, says nothing about its processors.
func (p *parts) processorSensors(ctx context.Context, h *host) {
	out, err := h.run(ctx, 30*time.Second, "ipmitool", "sdr", "type", "Processor")
	if err != nil {
		p.note("sensors not checked: %v", err)
		return
	}
	for line := range strings.Lines(out) {
		fields := strings.Split(line, "|")
		if len(fields) < 3 {
			continue
		}
		name := strings.TrimSpace(fields[0])
		switch {
		case slices.Contains([]string{"cr", "nr", "ucr", "unr", "lcr", "lnr"}, strings.TrimSpace(fields[2])):
			p.fault("sensor %s is critical", name)
		// A sensor without a threshold is always ok.
		case len(fields) > 4 && processorEvent.MatchString(fields[4]):
			p.fault("sensor %s says %.64s", name, strings.TrimSpace(fields[4]))
		}
	}
}

func (p *parts) governors(h *host) {
	names, err := h.names(cpuDir)
	if err != nil {
		p.note("governors not checked: %v", err)
		return
	}
	other := make(map[string]int)
	for _, name := range names {
		if !cpuName.MatchString(name) {
			continue
		}
		// Not every CPU can scale.
		governor, err := h.readLine(cpuDir + name + "/cpufreq/scaling_governor")
		if err == nil && governor != "performance" {
			other[governor]++
		}
	}
	for governor, n := range other {
		p.note("%d CPUs with governor %s", n, governor)
	}
}

func memoryFinding(_ context.Context, h *host, e *expectation) finding {
	p := parts{code: protocol.ExitMemory}
	info, err := h.memInfo()
	if err != nil {
		return broken("%v", err)
	}
	total, ok := info["MemTotal"]
	have := float64(total) / (1 << 20)
	switch {
	case !ok:
		p.errs = append(p.errs, fmt.Errorf("/proc/meminfo has no MemTotal"))
	case have < e.MemoryGiB*(1-memoryTolerance):
		p.fault("%g GiB of memory expected, %.1f found", e.MemoryGiB, have)
	default:
		p.note("%.1f GiB of memory", have)
	}
	if bad := info["HardwareCorrupted"]; bad > 0 {
		p.fault("%d kB of memory are corrupted", bad)
	}
	p.uncorrected(h)
	return p.finding()
}

// memInfo returns /proc/meminfo, in kB.
func (h *host) memInfo() (map[string]int64, error) {
	text, err := h.read("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	info := make(map[string]int64)
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err == nil {
			info[key] = n
		}
	}
	return info, nil
}

func (p *parts) uncorrected(h *host) {
	names, err := h.names(edacDir)
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !mcName.MatchString(n) })
	if len(names) == 0 {
		p.note("memory errors not checked, there is no edac driver")
	}
	for _, name := range names {
		n, err := h.readNumber(edacDir + name + "/ue_count")
		if err != nil {
			p.errs = append(p.errs, err)
		} else if n > 0 {
			p.fault("%d uncorrected memory errors on %s", n, name)
		}
	}
}
