package host

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

// The names of the checks, as profiles and reports have them.
const (
	checkBootID    = "boot-id"
	checkKubelet   = "kubelet"
	checkRuntime   = "runtime"
	checkClock     = "clock"
	checkCrash     = "crash-record"
	checkGPUCount  = "gpu-count"
	checkGPUHealth = "gpu-health"
	checkRowRemap  = "gpu-row-remap"
	checkSRAM      = "gpu-sram"
	checkXID       = "gpu-xid"
	checkNVLink    = "gpu-nvlink"
	checkDCGM      = "gpu-dcgm"
	checkIB        = "ib"
	checkGPFS      = "gpfs"
	checkCPU       = "cpu"
	checkMemory    = "memory"
	checkDisk      = "disk"
	checkRootFS    = "rootfs"
	checkNetwork   = "network"
)

// abandonGrace is how much longer than its tools a check may take before it is left behind, also once the operation is to end.
const abandonGrace = 15 * time.Second

// check looks at one part of the host and changes nothing.
type check struct {
	name     string
	hardware string
	// timeout bounds the whole check; its tools have limits of their own.
	timeout time.Duration
	run     func(ctx context.Context, h *host, e *expectation) finding
}

// builtinChecks returns the checks in the order in which they run.
func builtinChecks() []check {
	const short, long = 2 * time.Minute, 6 * time.Minute
	// It waits for the driver before it asks the driver.
	const first = driverWait + long
	return []check{
		{checkBootID, "", short, bootIDFinding},
		{checkKubelet, "", short, kubeletFinding},
		{checkRuntime, "", short, runtimeFinding},
		{checkClock, "", short, clockFinding},
		{checkCrash, "", short, crashFinding},
		{checkGPUCount, protocol.HardwareGPU, first, gpuCountFinding},
		{checkGPUHealth, protocol.HardwareGPU, short, gpuHealthFinding},
		{checkRowRemap, protocol.HardwareGPU, short, rowRemapFinding},
		{checkSRAM, protocol.HardwareGPU, short, sramFinding},
		{checkXID, protocol.HardwareGPU, short, xidFinding},
		{checkNVLink, protocol.HardwareGPU, long, nvlinkFinding},
		{checkDCGM, protocol.HardwareGPU, long, dcgmFinding},
		{checkIB, "ib", short, ibFinding},
		{checkGPFS, "gpfs", long, gpfsFinding},
		{checkCPU, "cpu", short, cpuFinding},
		{checkMemory, "memory", short, memoryFinding},
		{checkDisk, "disk", long, diskFinding},
		{checkRootFS, "disk", short, rootFSFinding},
		{checkNetwork, "network", short, networkFinding},
	}
}

// everywhere returns the checks of what every node has. Their errors count; where their tools are missing, they are skipped.
func everywhere() []string {
	return []string{checkCPU, checkMemory, checkDisk, checkRootFS, checkNetwork}
}

// severity lists the exit codes of hardware, the most severe first.
func severity() []int {
	return []int{
		protocol.ExitRowRemap, protocol.ExitSRAM, protocol.ExitGPU, protocol.ExitGPUCheck, protocol.ExitNVLink, protocol.ExitIB, protocol.ExitGPFS, protocol.ExitMemory, protocol.ExitCPU, protocol.ExitDisk, protocol.ExitNetwork,
	}
}

// healthcheck looks at all the hardware of the host and changes nothing.
type healthcheck struct {
	profile string
	bootID  string
	since   time.Time
	// The rest overrides the profile where it is set.
	gpus, ib *int
	gpfs     []string
	require  []string
}

func parseHealthcheck(fs *flag.FlagSet, args []string) (operation, error) {
	var c healthcheck
	fs.StringVar(&c.profile, "profile", "", "name of the profile, which is that of the pool")
	fs.StringVar(&c.bootID, "boot-id", "", "boot that must still be running")
	fs.Func("since", "time since which the kernel must not have crashed", timeFlag(&c.since))
	fs.Func("gpus", "number of GPUs", countFlag(&c.gpus))
	fs.Func("ib", "number of InfiniBand devices", countFlag(&c.ib))
	fs.Func("gpfs", "GPFS file systems that must be mounted", listFlag(&c.gpfs))
	fs.Func("require", "checks that must not be skipped", listFlag(&c.require))
	if err := parseFlags(fs, args); err != nil {
		return nil, err
	}
	if !profileName.MatchString(c.profile) {
		return nil, fmt.Errorf("--profile %.64q must be the name of a pool", c.profile)
	}
	return c, nil
}

func timeFlag(to *time.Time) func(string) error {
	return func(text string) (err error) {
		*to, err = time.Parse(time.RFC3339, text)
		return err
	}
}

func countFlag(to **int) func(string) error {
	return func(text string) error {
		n, err := strconv.Atoi(text)
		if err == nil && n < 0 {
			err = errors.New("is negative")
		}
		*to = &n
		return err
	}
}

func listFlag(to *[]string) func(string) error {
	return func(text string) error {
		*to = append(*to, list(text)...)
		return nil
	}
}

// expectation returns the profile with what the flags override.
func (c healthcheck) expectation(h *host) (*expectation, error) {
	e, err := loadProfile(h.options.profileDir, c.profile)
	if err != nil {
		return nil, err
	}
	if c.gpus != nil {
		e.GPUs = c.gpus
	}
	if c.ib != nil {
		e.IB = c.ib
	}
	if c.gpfs != nil {
		e.GPFS = c.gpfs
	}
	e.Require = append(e.Require, c.require...)
	e.bootID, e.since = c.bootID, c.since
	return e, nil
}

func (c healthcheck) run(ctx context.Context, h *host, report *protocol.Report) {
	e, err := c.expectation(h)
	if err != nil {
		conclude(report, broken("profile: %v", err))
		return
	}
	site, err := h.siteChecks(c.profile)
	if err != nil {
		conclude(report, broken("site checks: %v", err))
		return
	}
	checks := append(builtinChecks(), site...)
	if err := knownChecks(checks, e.Require); err != nil {
		conclude(report, broken("%v", err))
		return
	}
	h.examine(ctx, checks, e, report)
}

// examine runs the checks, whatever becomes of those before, and concludes the report.
func (h *host) examine(ctx context.Context, checks []check, e *expectation, report *protocol.Report) {
	var findings []finding
	required, implied := e.required(), h.implied(e)
	for _, k := range checks {
		started := time.Now()
		f := decided(h.runCheck(ctx, k, e), slices.Contains(required, k.name), slices.Contains(implied, k.name))
		findings = append(findings, f)
		h.tell(k.name, f)
		report.Checks = append(report.Checks, protocol.Check{
			Name:     k.name,
			Hardware: hardwareOfCheck(k.hardware, f),
			Result:   f.result,
			Detail:   oneLine(f.detail),
			Seconds:  time.Since(started).Round(time.Millisecond).Seconds(),
		})
	}
	f := verdict(report.Checks, findings, slices.Concat(required, implied, everywhere()))
	if f.result == protocol.ResultPassed && ctx.Err() != nil {
		f = broken("interrupted: %v", ctx.Err())
	}
	conclude(report, f)
}

// tell prints what the tools of a check said that failed, or could not be made: people are to see it whole.
func (h *host) tell(name string, f finding) {
	said := h.words.take()
	if len(said) == 0 || f.result != protocol.ResultFailed && f.result != protocol.ResultError {
		return
	}
	fmt.Fprintf(h.options.Stdout, "%s %s\n%s", name, f.result, strings.Join(said, ""))
}

// decided makes an error of a check that nothing is known by although it had to be made. Hardware implies its checks as far as they apply to
// it; what the profile names must have been checked.
func decided(f finding, required, implied bool) finding {
	left := f.unmade && f.result != protocol.ResultFailed
	if (required || implied) && left || required && f.result == protocol.ResultSkipped {
		f.result, f.code = protocol.ResultError, protocol.ExitUnknown
	}
	return f
}

// hardwareOfCheck returns the hardware of the check, or for a check of a site that of its exit code.
func hardwareOfCheck(hardware string, f finding) string {
	if hardware == "" && f.result == protocol.ResultFailed {
		return protocol.HardwareOf(f.code)
	}
	return hardware
}

// knownChecks refuses a requirement that nothing would ever meet or break, such as a misspelt one.
func knownChecks(checks []check, require []string) error {
	var errs []error
	for _, name := range require {
		if !slices.ContainsFunc(checks, func(k check) bool { return k.name == name }) {
			errs = append(errs, fmt.Errorf("required check %.64q does not exist on this host", name))
		}
	}
	return errors.Join(errs...)
}

// runCheck runs one check. One that hangs in the kernel is left behind, so that the next ones run all the same.
func (h *host) runCheck(ctx context.Context, k check, e *expectation) finding {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	done := make(chan finding, 1)
	go func() { done <- k.run(ctx, h, e) }()
	started := time.Now()
	select {
	case f := <-done:
		return f
	case <-ctx.Done():
	}
	grace := time.NewTimer(abandonGrace)
	defer grace.Stop()
	select {
	case f := <-done:
		return f
	case <-grace.C:
		return broken("hangs, and was left behind after %s", time.Since(started).Round(time.Second))
	}
}

// verdict weighs the findings: hardware that failed is named even where another check could not be made, and nothing is
// healthy that could not be checked although it had to be.
func verdict(checks []protocol.Check, findings []finding, required []string) finding {
	var told []string
	worst, unknown, service := len(severity()), false, false
	for i, f := range findings {
		must := slices.Contains(required, checks[i].Name)
		switch {
		case f.result == protocol.ResultFailed:
			rank := slices.Index(severity(), f.code)
			if rank < 0 {
				service = true
			} else {
				worst = min(worst, rank)
			}
		case must && f.result == protocol.ResultError:
			unknown = true
		default:
			continue
		}
		told = append(told, strings.TrimSuffix(checks[i].Name+" "+f.result+": "+f.detail, ": "))
	}
	detail := strings.Join(told, "; ")
	switch {
	case worst < len(severity()):
		return failed(severity()[worst], "%s", detail)
	case service:
		return failed(protocol.ExitUnknown, "%s", detail)
	case unknown:
		return broken("%s", detail)
	}
	return passed("%s", summary(findings))
}

func summary(findings []finding) string {
	n := make(map[string]int)
	for _, f := range findings {
		n[f.result]++
	}
	return fmt.Sprintf("%d checks passed, %d skipped, %d could not be made", n[protocol.ResultPassed], n[protocol.ResultSkipped], n[protocol.ResultError])
}

// unmade is the finding of a check that a tool stood in the way of: missing means skipped.
func unmade(err error) finding {
	if absent, ok := missing(err); ok {
		f := skipped("%v", absent)
		f.unmade = true
		return f
	}
	return broken("%v", err)
}

// parts collects what the parts of a check came to.
type parts struct {
	// faults make the check fail with code.
	code   int
	faults []string
	// errs make it an error unless it failed.
	errs []error
	// notes are told in any case.
	notes []string
	// partial says that a part could not be made.
	partial bool
}

func (p *parts) fault(format string, args ...any) {
	p.faults = append(p.faults, fmt.Sprintf(format, args...))
}

func (p *parts) note(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

// unmade takes a part that could not be made: noted where its tool is missing, else an error of the check.
func (p *parts) unmade(err error) {
	if absent, ok := missing(err); ok {
		p.note("not checked, %v", absent)
		p.partial = true
		return
	}
	p.errs = append(p.errs, err)
}

func (p *parts) finding() finding {
	switch {
	case len(p.faults) > 0:
		return failed(p.code, "%s", strings.Join(append(p.faults, p.notes...), ", "))
	case len(p.errs) > 0:
		return broken("%s", strings.ReplaceAll(errors.Join(p.errs...).Error(), "\n", ", "))
	}
	f := passed("%s", strings.Join(p.notes, ", "))
	f.unmade = p.partial
	return f
}
