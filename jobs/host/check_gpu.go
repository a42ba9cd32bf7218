package host

import (
	"context"
	"encoding/csv"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
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
	// maxRetired is how many pages a GPU of before 2020 may retire; it has room for 64.
	maxRetired = 60
	// noHandle is what nvidia-smi says, also among rows, of a GPU that does not answer.
	noHandle = "Unable to determine the device handle"
	// dcgmTimeout is how long the short diagnosis may take.
	dcgmTimeout = 5 * time.Minute
)

var (
	gpuLine    = regexp.MustCompile(`^GPU \d+: `)
	gpuDevice  = regexp.MustCompile(`^nvidia\d+$`)
	nvlinkLine = regexp.MustCompile(`^\s+Link (\d+): (?:(<inactive>)|([0-9.]+) GB/s)`)
	gpuNamed   = regexp.MustCompile(`\bGPU ?\d`)
)

const pciDir = "/sys/bus/pci/devices/"

// pciCount counts the devices of NVIDIA on the PCI bus.
type pciCount struct {
	gpus, switches int
	// lent are the GPUs that are kept for virtual machines. The driver of the host does not see them.
	lent int
}

func (h *host) pciGPUs() (pciCount, error) {
	var n pciCount
	names, err := h.names(pciDir)
	if err != nil {
		return n, err
	}
	for _, name := range names {
		vendor, err := h.readLine(pciDir + name + "/vendor")
		if err != nil {
			return n, err
		}
		class, err := h.readLine(pciDir + name + "/class")
		if err != nil {
			return n, err
		}
		switch {
		case vendor != "0x10de":
		case strings.HasPrefix(class, "0x0300"), strings.HasPrefix(class, "0x0302"):
			if h.forVirtualMachines(name) {
				n.lent++
			} else {
				n.gpus++
			}
		case strings.HasPrefix(class, "0x0680"):
			n.switches++
		}
	}
	return n, nil
}

// forVirtualMachines says that the driver of the device hands it through, such as vfio-pci and its variants.
func (h *host) forVirtualMachines(address string) bool {
	target, err := h.link(pciDir + address + "/driver")
	driver := path.Base(target)
	return err == nil && (strings.Contains(driver, "vfio") || driver == "pci-stub")
}

func (h *host) deviceFiles() (int, error) {
	names, err := h.driver().deviceFiles()
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
		bus, err := h.pciGPUs()
		if err != nil {
			return broken("%v", err)
		}
		if bus.gpus == 0 {
			trace, err := h.traceOfGPU(bus)
			switch {
			case err != nil:
				return broken("%v", err)
			case trace == "", e.GPUs != nil && *e.GPUs == 0:
				return skipped("no NVIDIA GPU on the PCI bus")
			}
		}
		return check(ctx, h, e, bus.switches)
	}
}

// gpuCountFinding compares the GPUs that the bus, the driver and its tool see with those that must be there.
func gpuCountFinding(ctx context.Context, h *host, e *expectation) finding {
	bus, err := h.pciGPUs()
	if err != nil {
		return broken("%v", err)
	}
	onBus := bus.gpus
	if onBus == 0 && !expects(e.GPUs) {
		return h.noGPU(ctx, e, bus)
	}
	if onBus > 0 {
		h.awaitDriver(ctx)
	}
	devices, err := h.deviceFiles()
	if err != nil {
		return unmade(err)
	}
	want := onBus
	if e.GPUs != nil {
		want = *e.GPUs
	}
	p := parts{code: protocol.ExitGPU}
	out, err := h.run(ctx, smiListTimeout, smi, "-L")
	// Without its tool and its device files, the driver is not there, or not yet; only the bus tells of the GPUs.
	driverless := devices == 0 && lacksTool(err)
	if onBus != want || devices != want && !driverless {
		p.fault("%d GPUs expected, %d on the PCI bus, %d device files", want, onBus, devices)
	}
	if err != nil && !blames(err) && len(p.faults) == 0 {
		return unmade(err)
	}
	p.listed(out, err, want)
	p.note("%d GPUs on the PCI bus", onBus)
	if bus.lent > 0 {
		p.note("%d for virtual machines", bus.lent)
	}
	return p.finding()
}

// listed counts the GPUs that nvidia-smi lists.
func (p *parts) listed(out string, err error, want int) {
	switch {
	case blames(err):
		p.fault("%v", err)
	case err != nil:
		p.unmade(err)
	default:
		if listed := matching(out, gpuLine); listed != want {
			p.fault("%d GPUs expected, %d listed by nvidia-smi", want, listed)
		}
	}
}

// noGPU is the finding of a host without a GPU on the bus, where the profile counts none: nothing is to be checked unless the last GPU was
// lost.
func (h *host) noGPU(ctx context.Context, e *expectation, bus pciCount) finding {
	none := skipped("no NVIDIA GPU on the PCI bus, and none is expected")
	if e.GPUs != nil {
		return none
	}
	trace, err := h.traceOfGPU(bus)
	if err == nil && trace == "" && bus.lent == 0 {
		trace = h.loggedLoss(ctx)
	}
	switch {
	case err != nil:
		return broken("%v", err)
	case trace == "":
		return none
	}
	return failed(protocol.ExitGPU, "no NVIDIA GPU on the PCI bus, but %s", trace)
}

// traceOfGPU returns what tells of a GPU that is not on the bus any more, nothing where nothing does. The driver is not loaded without a GPU.
// Once all were lent to virtual machines, it stays loaded.
func (h *host) traceOfGPU(bus pciCount) (string, error) {
	kept, err := h.names("/proc/driver/nvidia/gpus")
	switch {
	case err != nil:
		return "", err
	case len(kept) > 0:
		return "the driver has " + strings.Join(kept, ", "), nil
	case bus.lent > 0:
		return "", nil
	}
	loaded, err := h.exists("/sys/module/nvidia")
	switch {
	case err != nil:
		return "", err
	case loaded:
		return "the module nvidia is loaded", nil
	}
	for _, dir := range []string{"/dev", h.driver().deviceDir()} {
		names, err := h.names(dir)
		if err != nil {
			return "", err
		}
		if i := slices.IndexFunc(names, gpuDevice.MatchString); i >= 0 {
			return dir + " has " + names[i], nil
		}
	}
	return "", nil
}

// loggedLoss returns what the kernel log of this boot tells of a GPU that fell off the bus. A host without any other trace of a GPU needs
// no log.
func (h *host) loggedLoss(ctx context.Context) string {
	var log xidLog
	if h.kernelLog(ctx, log.line) != nil {
		return ""
	}
	lost := slices.Collect(maps.Keys(log.gone))
	for gpu, codes := range log.codes {
		if codes[lostXID] {
			lost = append(lost, gpu)
		}
	}
	if len(lost) == 0 {
		return ""
	}
	return "by the kernel log " + slices.Min(lost) + " was lost"
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
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, noHandle) {
			return nil, fmt.Errorf("%w: %s", errNoHandle, oneLine(line))
		}
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
		return nil, fmt.Errorf("%s printed output that cannot be parsed, %w: %.64q", smi, err, firstLine(text))
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
	switch value {
	case "[N/A]", "N/A", "[Not Supported]", "Requested functionality has been deprecated":
		return true
	}
	return false
}

// complains says that the value is what a GPU prints in place of one when it is not well, such as [GPU requires reset].
func complains(value string) bool {
	return !notKnown(value) && (strings.HasPrefix(value, "[") || value == "ERR!" || value == "Unknown Error")
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
		p.gpu(h, row, e.Persistence)
		if len(p.faults) > before {
			sick = append(sick, row[0])
		}
	}
	for _, i := range p.recoveries(h.fabric(ctx)) {
		if i < len(rows) && !slices.Contains(sick, rows[i][0]) {
			sick = append(sick, rows[i][0])
		}
	}
	if mask := gpuMask(sick, rows, e); mask != "" {
		p.note("mask %s", mask)
	}
	return p.finding()
}

// recoveries takes what the driver asks for, and returns the places of those GPUs in its report, which has the order of the indices.
func (p *parts) recoveries(f *fabric, err error) []int {
	if err != nil && len(f.gpus) == 0 {
		p.note("recovery actions not read: %v", err)
	}
	var sick []int
	for i, g := range f.gpus {
		if g.asks() {
			p.fault("%.64s asks for a recovery: %s", g.name, g.recovery)
			sick = append(sick, i)
		}
	}
	return sick
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
func (p *parts) gpu(h *host, row []string, persistence bool) {
	name := "GPU " + row[0]
	switch {
	case complains(row[2]):
		p.fault("%s says %.64q", name, row[2])
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
	if ok && okMost && width < most && width < h.lanes(row[1], most) {
		p.fault("%s has PCIe width x%d of x%d", name, width, most)
	}
}

// lanes returns how many lanes the card of the GPU has. nvidia-smi tells what the chip could have, which some cards do not wire; PCI knows.
func (h *host) lanes(uuid string, most int) int {
	const dir = "/proc/driver/nvidia/gpus/"
	names, err := h.names(dir)
	if err != nil {
		return most
	}
	for _, name := range names {
		text, err := h.read(dir + name + "/information")
		if err != nil || uuid == "" || !slices.Contains(strings.Fields(text), uuid) {
			continue
		}
		if n, err := h.readNumber(pciDir + name + "/max_link_width"); err == nil && n > 0 {
			return min(n, most)
		}
	}
	return most
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
		if i := slices.IndexFunc(row, complains); i >= 0 {
			pending.fault("%s says %.64q", row[0], row[i])
			continue
		}
		failure.flag(row[0]+" failed to remap a row", row[1])
		pending.flag(row[0]+" waits for a reset to remap a row", row[2])
	}
	switch {
	case known == 0:
		return retiredPages(ctx, h)
	case len(failure.faults) > 0:
		return failure.finding()
	}
	pending.errs = append(pending.errs, failure.errs...)
	return pending.finding()
}

// retiredPages looks at GPUs that cannot remap rows. Those of the time before retire pages of their memory.
func retiredPages(ctx context.Context, h *host) finding {
	out, err := h.run(ctx, smiTimeout, smi, "-q", "-d", "PAGE_RETIREMENT")
	if err != nil {
		return queryFault(err)
	}
	p := parts{code: protocol.ExitGPUCheck}
	known := false
	for _, g := range parseRetired(out) {
		known = known || g.known
		if g.pages >= maxRetired {
			p.fault("%s has %d retired pages", g.gpu, g.pages)
		}
		if complains(g.pending) {
			p.fault("%s says %.64q", g.gpu, g.pending)
		} else if g.pending != "" {
			p.flag(g.gpu+" waits for a reset to retire a page", g.pending)
		}
	}
	if !known {
		return skipped("the GPUs neither remap rows nor retire pages")
	}
	return p.finding()
}

// retired is what a GPU says of its retired pages.
type retired struct {
	gpu     string
	pages   int
	pending string
	known   bool
}

func parseRetired(text string) []retired {
	var all []retired
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " : ")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if strings.HasPrefix(line, "GPU ") {
			all = append(all, retired{gpu: key})
		}
		if len(all) == 0 || notKnown(value) {
			continue
		}
		g := &all[len(all)-1]
		switch key {
		case "Single Bit ECC", "Double Bit ECC":
			if n, err := strconv.Atoi(value); err == nil {
				g.pages += n
				g.known = true
			}
		case "Pending Page Blacklist":
			g.pending, g.known = value, true
		}
	}
	return all
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
	// unrepairable says that memory is lost for ever, pending that a reset repairs it.
	unrepairable bool
	pending      []string
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
		case gpu != nil:
			gpu.repair(key, value)
		}
	}
	return r
}

// repair takes what drivers from 590 on say of repairs.
func (s *sramState) repair(key, value string) {
	if value != "Yes" {
		return
	}
	switch key {
	case "Unrepairable Memory":
		s.unrepairable, s.known = true, true
	case "Channel Repair Pending":
		s.pending, s.known = append(s.pending, "a memory channel"), true
	case "TPC Repair Pending":
		s.pending, s.known = append(s.pending, "a TPC"), true
	}
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
	p, pending := parts{code: protocol.ExitSRAM}, parts{code: protocol.ExitGPUCheck}
	known := false
	for _, name := range r.order {
		gpu := r.gpus[name]
		known = known || gpu.known
		for _, part := range gpu.pending {
			pending.fault("%s waits for a reset to repair %s", name, part)
		}
		switch {
		case gpu.unrepairable:
			p.fault("%s has memory that cannot be repaired", name)
		case gpu.exceeded:
			p.fault("%s exceeded the threshold of SRAM errors", name)
		case gpu.errors > maxAggregateSRAM:
			p.fault("%s had %d uncorrectable SRAM errors", name, gpu.errors)
		case gpu.unread != "":
			p.errs = append(p.errs, fmt.Errorf("%s counts %.64q SRAM errors", name, gpu.unread))
		}
	}
	switch {
	case !known:
		return skipped("the GPUs do not count SRAM errors, or ECC is off")
	// A reset does not help against what asks for another GPU.
	case len(p.faults) == 0 && len(pending.faults) > 0:
		return pending.finding()
	}
	p.notes = append(p.notes, pending.faults...)
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
	links := parseNVLinks(out)
	if _, exited := exitStatus(err); err != nil && (!exited || !links.untold()) {
		f := queryFault(err)
		if f.code == protocol.ExitGPUCheck {
			f.code = protocol.ExitNVLink
		}
		return f
	}
	p, used := new(parts), switches > 0 || e.NVLinks > 0 || links.active() > 0 || links.untold()
	p.code = protocol.ExitNVLink
	if used {
		p = links.parts(e)
	}
	if switches > 0 {
		active, err := h.joinsGPUs(ctx)
		switch {
		case err != nil:
			p.unmade(err)
		case !active:
			p.fault("%s is not active", fabricManager)
		}
	}
	// Of B200, the switches are not on the PCI bus, and no link is active before the fabric is complete.
	f, err := h.fabric(ctx)
	p.fabric(f, err)
	if !used && f.known() == 0 && len(p.faults)+len(p.errs) == 0 {
		return skipped("no NVLink is in use, and none is expected")
	}
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
// number of those that have a result. A diagnosis that a GPU prevents has a row that says so, and no tests.
func parseDCGM(text string) (failures []string, tests int) {
	for line := range strings.Lines(text) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		test, result := strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2])
		word, _, _ := strings.Cut(result, " ")
		switch word = strings.ToLower(word); {
		case word == "fail", test == "Error" && gpuNamed.MatchString(result):
			failures = append(failures, fmt.Sprintf("%.64s %.64s", test, result))
			tests++
		case slices.Contains([]string{"pass", "skip", "warn"}, word):
			tests++
		}
	}
	return failures, tests
}

// gpuLinks are the NVLinks of one GPU.
type gpuLinks struct {
	gpu              string
	active, inactive int
	// mig says that the GPU is divided into instances, and does not tell its links.
	mig bool
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
		if len(all) == 0 {
			continue
		}
		if strings.Contains(line, "not supported") && strings.Contains(line, "MIG mode") {
			all[len(all)-1].mig = true
		}
		m := nvlinkLine.FindStringSubmatch(line)
		if m == nil {
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

// untold says that no GPU tells its links, because all are in MIG mode.
func (all nvlinks) untold() bool {
	return len(all) > 0 && !slices.ContainsFunc(all, func(g gpuLinks) bool { return !g.mig })
}

func (all nvlinks) parts(e *expectation) *parts {
	p := &parts{code: protocol.ExitNVLink}
	if len(all) == 0 {
		p.fault("%s lists no NVLink", smi)
	}
	for _, g := range all {
		switch {
		case g.mig:
			p.note("%s is in MIG mode and does not tell its NVLinks", g.gpu)
		// Not every model uses all the links that its chip has; a profile that counts them knows.
		case g.inactive > 0 && e.NVLinks == 0:
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
