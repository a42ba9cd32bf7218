package host

import (
	"context"
	"encoding/csv"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

const (
	smi        = "nvidia-smi"
	smiTimeout = 60 * time.Second
	// smiListTimeout is long because the driver may first have to initialise every GPU.
	smiListTimeout = 300 * time.Second
	// maxAggregateSRAM is how many uncorrectable SRAM errors a GPU may have had in its life.
	maxAggregateSRAM = 4
	// maxGPUs is far above what any host has.
	maxGPUs = 64
	// dcgmTimeout is how long the short diagnosis may take.
	dcgmTimeout = 5 * time.Minute
)

var (
	gpuLine    = regexp.MustCompile(`^GPU \d+: `)
	gpuDevice  = regexp.MustCompile(`^nvidia\d+$`)
	nvlinkLine = regexp.MustCompile(`^\s+Link (\d+): (?:(<inactive>)|([0-9.]+) GB/s)`)
)

// pciGPUs counts the GPUs and the NVSwitches of NVIDIA on the PCI bus.
func (h *host) pciGPUs() (gpus, switches int, err error) {
	const dir = "/sys/bus/pci/devices/"
	names, err := h.names(dir)
	if err != nil {
		return 0, 0, err
	}
	for _, name := range names {
		vendor, err := h.readLine(dir + name + "/vendor")
		if err != nil {
			return 0, 0, err
		}
		class, err := h.readLine(dir + name + "/class")
		if err != nil {
			return 0, 0, err
		}
		switch {
		case vendor != "0x10de":
		case strings.HasPrefix(class, "0x0300"), strings.HasPrefix(class, "0x0302"):
			gpus++
		case strings.HasPrefix(class, "0x0680"):
			switches++
		}
	}
	return gpus, switches, nil
}

func (h *host) deviceFiles() (int, error) {
	names, err := h.names("/dev")
	n := 0
	for _, name := range names {
		if gpuDevice.MatchString(name) {
			n++
		}
	}
	return n, err
}

// onGPUNode returns a finding of its own where there is no GPU to check.
func onGPUNode(check func(ctx context.Context, h *host, e *expectation, switches int) finding) func(context.Context, *host, *expectation) finding {
	return func(ctx context.Context, h *host, e *expectation) finding {
		gpus, switches, err := h.pciGPUs()
		switch {
		case err != nil:
			return broken("%v", err)
		case gpus == 0:
			return skipped("no NVIDIA GPU on the PCI bus")
		}
		return check(ctx, h, e, switches)
	}
}

// gpuCountFinding compares the GPUs that the bus, the driver and its tool see with those that must be there.
func gpuCountFinding(ctx context.Context, h *host, e *expectation) finding {
	onBus, _, err := h.pciGPUs()
	if err != nil {
		return broken("%v", err)
	}
	if onBus == 0 && !expects(e.GPUs) {
		return skipped("no NVIDIA GPU on the PCI bus, and none is expected")
	}
	devices, err := h.deviceFiles()
	if err != nil {
		return broken("%v", err)
	}
	want := onBus
	if e.GPUs != nil {
		want = *e.GPUs
	}
	p := parts{code: protocol.ExitGPU}
	if onBus != want || devices != want {
		p.fault("%d GPUs expected, %d on the PCI bus, %d device files", want, onBus, devices)
	}
	out, err := h.run(ctx, smiListTimeout, smi, "-L")
	switch {
	case blames(err):
		p.fault("%v", err)
	case err != nil && len(p.faults) == 0:
		return unmade(err)
	case err != nil:
		p.unmade(err)
	default:
		if listed := matching(out, gpuLine); listed != want {
			p.fault("%d GPUs expected, %d listed by nvidia-smi", want, listed)
		}
	}
	p.note("%d GPUs on the PCI bus", onBus)
	return p.finding()
}

func matching(text string, line *regexp.Regexp) int {
	n := 0
	for l := range strings.Lines(text) {
		if line.MatchString(l) {
			n++
		}
	}
	return n
}

// query runs a query of nvidia-smi that prints rows of the given number of fields, and at least one row.
func (h *host) query(ctx context.Context, fields int, args ...string) ([][]string, error) {
	out, err := h.run(ctx, smiTimeout, smi, args...)
	if err != nil {
		return nil, err
	}
	return parseRows(out, fields)
}

func parseRows(text string, fields int) ([][]string, error) {
	reader := csv.NewReader(strings.NewReader(text))
	reader.FieldsPerRecord = fields
	reader.TrimLeadingSpace = true
	reader.LazyQuotes = true
	rows, err := reader.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s printed what cannot be read, %w: %.64q", smi, err, firstLine(text))
	}
	for _, row := range rows {
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
	}
	return rows, nil
}

// queryFault turns what went wrong with a query into the finding of its check. A driver that does not answer is a fault
// of the GPU, a tool that is not there says nothing about it.
func queryFault(err error) finding {
	if blames(err) {
		return failed(protocol.ExitGPUCheck, "%v", err)
	}
	return unmade(err)
}

// notKnown says that the GPU or its driver does not have the value.
func notKnown(value string) bool {
	return value == "[N/A]" || value == "N/A" || value == "[Not Supported]"
}

func gpuHealthFinding(ctx context.Context, h *host, e *expectation) finding {
	return onGPUNode(gpuHealth)(ctx, h, e)
}

func gpuHealth(ctx context.Context, h *host, e *expectation, _ int) finding {
	rows, err := h.query(ctx, 6,
		"--query-gpu=index,uuid,persistence_mode,ecc.errors.uncorrected.volatile.total,pcie.link.width.current,pcie.link.width.max",
		"--format=csv,noheader,nounits")
	if err != nil {
		return queryFault(err)
	}
	if len(rows) == 0 {
		return failed(protocol.ExitGPUCheck, "%s knows no GPU", smi)
	}
	p := parts{code: protocol.ExitGPUCheck}
	var sick []string
	for _, row := range rows {
		before := len(p.faults)
		p.gpu(row, e.Persistence)
		if len(p.faults) > before {
			sick = append(sick, row[0])
		}
	}
	if mask := gpuMask(sick, rows, e); mask != "" {
		p.note("mask %s", mask)
	}
	return p.finding()
}

// gpuMask marks the GPUs of the indices in a string whose first character stands for GPU 0. It is as long as the host has, or
// must have, GPUs; an index that is none makes none.
func gpuMask(sick []string, rows [][]string, e *expectation) string {
	if len(sick) == 0 {
		return ""
	}
	size := 0
	if e.GPUs != nil {
		size = min(*e.GPUs, maxGPUs)
	}
	for _, row := range rows {
		index, err := strconv.Atoi(row[0])
		if err != nil || index < 0 || index >= maxGPUs {
			return ""
		}
		size = max(size, index+1)
	}
	mask := strings.Repeat("0", size)
	for _, text := range sick {
		if index, err := strconv.Atoi(text); err == nil {
			mask = mask[:index] + "1" + mask[index+1:]
		}
	}
	return mask
}

// gpu looks at one GPU: index, UUID, persistence, uncorrected ECC errors since the boot, PCIe width and its maximum.
func (p *parts) gpu(row []string, persistence bool) {
	name := "GPU " + row[0]
	switch {
	case row[2] == "Disabled" && persistence:
		p.fault("%s has persistence off", name)
	case row[2] == "Disabled":
		p.note("%s has persistence off", name)
	}
	if n, ok := p.number(name, row[3]); ok && n > 0 {
		p.fault("%s has %d uncorrected ECC errors", name, n)
	}
	width, ok := p.number(name, row[4])
	most, okMost := p.number(name, row[5])
	if ok && okMost && width < most {
		p.fault("%s has PCIe width x%d of x%d", name, width, most)
	}
}

// number reads a value. A GPU that prints anything but a number where one belongs is not well.
func (p *parts) number(name, value string) (int, bool) {
	if notKnown(value) {
		return 0, false
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		p.fault("%s says %.64q", name, value)
	}
	return n, err == nil
}

func rowRemapFinding(ctx context.Context, h *host, e *expectation) finding {
	return onGPUNode(rowRemap)(ctx, h, e)
}

func rowRemap(ctx context.Context, h *host, _ *expectation, _ int) finding {
	rows, err := h.query(ctx, 3,
		"--query-remapped-rows=gpu_uuid,remapped_rows.failure,remapped_rows.pending", "--format=csv,noheader")
	if err != nil {
		return queryFault(err)
	}
	failure, pending := parts{code: protocol.ExitRowRemap}, parts{code: protocol.ExitGPUCheck}
	known := 0
	for _, row := range rows {
		if notKnown(row[1]) && notKnown(row[2]) {
			continue
		}
		known++
		failure.flag(row[0]+" failed to remap a row", row[1])
		pending.flag(row[0]+" waits for a reset to remap a row", row[2])
	}
	switch {
	case known == 0:
		return skipped("the GPUs do not remap rows")
	case len(failure.faults) > 0:
		return failure.finding()
	}
	pending.errs = append(pending.errs, failure.errs...)
	return pending.finding()
}

// flag takes a value that says yes or no, or how often yes.
func (p *parts) flag(fault, value string) {
	n, err := strconv.Atoi(value)
	switch {
	case value == "Yes", err == nil && n > 0:
		p.fault("%s", fault)
	case value == "No", err == nil && n == 0, notKnown(value):
	default:
		p.errs = append(p.errs, fmt.Errorf("%s printed %.64q where yes or no belongs", smi, value))
	}
}

func sramFinding(ctx context.Context, h *host, e *expectation) finding {
	return onGPUNode(sram)(ctx, h, e)
}

func sram(ctx context.Context, h *host, _ *expectation, _ int) finding {
	out, err := h.run(ctx, smiTimeout, smi, "-q", "-d", "ECC")
	if err != nil {
		return queryFault(err)
	}
	return parseSRAM(out).finding()
}

// sramReport is what the ECC report says about the aggregate SRAM errors of each GPU.
type sramReport struct {
	order []string
	gpus  map[string]*sramState
}

type sramState struct {
	known, exceeded bool
	errors          int
	// unread is a value that is neither.
	unread string
}

// parseSRAM reads an indented report, in which a line without a value begins a section.
func parseSRAM(text string) sramReport {
	r := sramReport{gpus: make(map[string]*sramState)}
	var section string
	var gpu *sramState
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " : ")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		switch {
		case strings.HasPrefix(line, "GPU "):
			gpu = new(sramState)
			r.order = append(r.order, key)
			r.gpus[key] = gpu
		case !ok:
			section = key
		case gpu != nil && section == "Aggregate" && strings.HasPrefix(key, "SRAM"):
			gpu.take(key, value)
		}
	}
	return r
}

func (s *sramState) take(key, value string) {
	n, err := strconv.Atoi(value)
	threshold := key == "SRAM Threshold Exceeded"
	switch {
	case notKnown(value), !threshold && !strings.HasPrefix(key, "SRAM Uncorrectable"):
		return
	case threshold && (value == "Yes" || value == "No"):
		s.exceeded = value == "Yes"
	case !threshold && err == nil:
		s.errors += n
	default:
		s.unread = value
	}
	s.known = true
}

func (r sramReport) finding() finding {
	p := parts{code: protocol.ExitSRAM}
	known := false
	for _, name := range r.order {
		gpu := r.gpus[name]
		known = known || gpu.known
		switch {
		case gpu.exceeded:
			p.fault("%s exceeded the threshold of SRAM errors", name)
		case gpu.errors > maxAggregateSRAM:
			p.fault("%s had %d uncorrectable SRAM errors", name, gpu.errors)
		case gpu.unread != "":
			p.errs = append(p.errs, fmt.Errorf("%s counts %.64q SRAM errors", name, gpu.unread))
		}
	}
	if !known {
		return skipped("the GPUs do not count SRAM errors, or ECC is off")
	}
	return p.finding()
}

func xidFinding(ctx context.Context, h *host, e *expectation) finding {
	return onGPUNode(xids)(ctx, h, e)
}

func xids(ctx context.Context, h *host, _ *expectation, _ int) finding {
	var log xidLog
	if err := h.kernelLog(ctx, log.line); err != nil {
		return unmade(err)
	}
	p := parts{code: protocol.ExitGPUCheck, faults: log.faults()}
	return p.finding()
}

func nvlinkFinding(ctx context.Context, h *host, e *expectation) finding {
	return onGPUNode(nvlink)(ctx, h, e)
}

func nvlink(ctx context.Context, h *host, e *expectation, switches int) finding {
	out, err := h.run(ctx, smiTimeout, smi, "nvlink", "-s")
	if err != nil {
		f := queryFault(err)
		if f.code == protocol.ExitGPUCheck {
			f.code = protocol.ExitNVLink
		}
		return f
	}
	links := parseNVLinks(out)
	expected := switches > 0 || e.NVLinks > 0
	if !expected && links.active() == 0 {
		return skipped("no NVLink is in use, and none is expected")
	}
	p := links.parts(e)
	if switches > 0 {
		active, err := h.isActive(ctx, fabricManager)
		switch {
		case err != nil:
			p.unmade(err)
		case !active:
			p.fault("%s is not active", fabricManager)
		}
	}
	p.fabric(h.fabric(ctx))
	return p.finding()
}

// fabric takes what the GPUs say of the fabric. Those that are joined without a switch say nothing.
func (p *parts) fabric(f *fabric, err error) {
	// With some warnings, the report is whole and the tool ends with an error all the same.
	_, exited := exitStatus(err)
	switch {
	case blames(err) && (!exited || len(f.gpus) == 0):
		p.fault("%v", err)
	case err != nil && !exited:
		p.unmade(err)
	case f.known() > 0:
		p.faults = append(p.faults, f.faults()...)
		p.note("%d GPUs tell the state of their fabric", f.known())
	}
}

func dcgmFinding(ctx context.Context, h *host, e *expectation) finding {
	return onGPUNode(dcgm)(ctx, h, e)
}

// dcgm runs the short diagnosis, if the profile wants it. How it ends counts less than what it says of its tests: it also ends
// with an error when it could not begin.
func dcgm(ctx context.Context, h *host, e *expectation, _ int) finding {
	if !e.DCGMDiag {
		return skipped("the profile does not ask for it")
	}
	out, err := h.run(ctx, dcgmTimeout, "dcgmi", "diag", "-r", "1")
	failures, tests := parseDCGM(out)
	switch {
	case len(failures) > 0:
		return failed(protocol.ExitGPUCheck, "dcgmi: %s", strings.Join(failures, ", "))
	case err != nil:
		return unmade(err)
	case tests == 0:
		return broken("dcgmi printed no result: %.64q", firstLine(out))
	}
	return passed("%d tests", tests)
}

// parseDCGM reads the table of a diagnosis, of a test and its result in each row. It returns the tests that failed, and the
// number of those that have a result.
func parseDCGM(text string) (failures []string, tests int) {
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		test, result := strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2])
		word, _, _ := strings.Cut(result, " ")
		switch strings.ToLower(word) {
		case "fail":
			failures = append(failures, fmt.Sprintf("%.64s %.64s", test, result))
			tests++
		case "pass", "skip", "warn":
			tests++
		}
	}
	return failures, tests
}

// gpuLinks are the NVLinks of one GPU.
type gpuLinks struct {
	gpu              string
	active, inactive int
	// slowest is the least speed of an active link, in GB/s.
	slowest float64
}

type nvlinks []gpuLinks

func parseNVLinks(text string) nvlinks {
	var all nvlinks
	for line := range strings.Lines(text) {
		if gpuLine.MatchString(line) {
			name, _, _ := strings.Cut(line, ":")
			all = append(all, gpuLinks{gpu: name})
			continue
		}
		m := nvlinkLine.FindStringSubmatch(line)
		if m == nil || len(all) == 0 {
			continue
		}
		all[len(all)-1].add(m[2] != "", m[3])
	}
	return all
}

func (g *gpuLinks) add(inactive bool, speed string) {
	gbps, err := strconv.ParseFloat(speed, 64)
	if inactive || err != nil {
		g.inactive++
		return
	}
	if g.active == 0 || gbps < g.slowest {
		g.slowest = gbps
	}
	g.active++
}

func (all nvlinks) active() int {
	n := 0
	for _, g := range all {
		n += g.active
	}
	return n
}

func (all nvlinks) parts(e *expectation) *parts {
	p := &parts{code: protocol.ExitNVLink}
	if len(all) == 0 {
		p.fault("%s lists no NVLink", smi)
	}
	for _, g := range all {
		switch {
		case g.inactive > 0:
			p.fault("%s has %d inactive NVLinks", g.gpu, g.inactive)
		case g.active < e.NVLinks, g.active == 0:
			p.fault("%s has %d NVLinks of %d", g.gpu, g.active, e.NVLinks)
		case g.slowest < e.NVLinkGBps:
			p.fault("%s has an NVLink of %g GB/s", g.gpu, g.slowest)
		}
	}
	p.note("%d NVLinks active", all.active())
	return p
}
