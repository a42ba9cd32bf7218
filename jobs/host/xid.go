package host

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"aegis.io/aegis/jobs/protocol"
)

// resetMark is the line that a GPU reset leaves in the kernel log: the errors before it are dealt with.
const resetMark = "aegis: gpu reset: PCI:"

var (
	// Anchored, because the rest of a line holds the name of a process, which anybody may choose. A GPU in MIG mode names its instances.
	xidLine   = regexp.MustCompile(logHead + `NVRM: Xid \(PCI:([0-9A-Fa-f:.]+)(?: [^()]*)?\): (\d+)\b(.*)`)
	markLine  = regexp.MustCompile(logHead + resetMark + `([0-9A-Fa-f:.]+)\s*$`)
	lastWords = regexp.MustCompile(`\(([^()]*)\)[^()]*$`)
	fatalWord = regexp.MustCompile(`\bFatal\b`)
	// switchLine is an error of an NVSwitch. Its numbers are not those of the XIDs.
	switchLine = regexp.MustCompile(logHead + `nvidia-nvswitch\d+: SXid \(PCI:([0-9A-Fa-f:.]+)\): (\d+), Fatal\b`)
	// freshLine comes once after the driver has initialised a GPU, with the first error since.
	freshLine = regexp.MustCompile(logHead + `NVRM: GPU at PCI:([0-9A-Fa-f:.]+): GPU-`)
	// A GPU that is gone before the driver has it is told in three lines: the GPU in the first, what about it in the last.
	goneHead = regexp.MustCompile(logHead + `NVRM: The NVIDIA GPU ([0-9A-Fa-f:.]+)`)
	goneTail = regexp.MustCompile(logHead + `NVRM: (?:.* )?fallen off the bus and is not responding`)
	goneLine = regexp.MustCompile(logHead + `NVRM: GPU ([0-9A-Fa-f:]+\.[0-7]): GPU has fallen off the bus`)
)

const (
	recoveryXID = 154
	lostXID     = 79
)

// xidLog reads the XIDs of a boot: which GPUs had errors that only a reset or a reboot ends, and that neither ended.
type xidLog struct {
	// codes of each bus ID.
	codes errorCodes
	// switches has those of the NVSwitches.
	switches errorCodes
	// gone are the GPUs that the driver does not have any more, and going is the one that the next line may be about.
	gone  map[string]bool
	going string
}

// errorCodes are the numbers of errors by bus ID.
type errorCodes map[string]map[int]bool

func (c *errorCodes) add(bus string, code int) {
	if *c == nil {
		*c = make(errorCodes)
	}
	if (*c)[bus] == nil {
		(*c)[bus] = make(map[int]bool)
	}
	(*c)[bus][code] = true
}

// list returns the numbers of a bus ID as a text.
func (c errorCodes) list(bus string) string {
	var out []string
	for _, code := range slices.Sorted(maps.Keys(c[bus])) {
		out = append(out, strconv.Itoa(code))
	}
	return strings.Join(out, " ")
}

func (x *xidLog) line(text string) {
	if m := markLine.FindStringSubmatch(text); m != nil {
		delete(x.codes, busID(m[1]))
		delete(x.gone, busID(m[1]))
		// Behind NVSwitches, all GPUs are reset, and the switches with them.
		clear(x.switches)
		return
	}
	if x.lost(text) {
		return
	}
	if m := freshLine.FindStringSubmatch(text); m != nil {
		maps.DeleteFunc(x.codes[busID(m[1])], func(code int, _ bool) bool { return !needsBoot(code) })
		return
	}
	if m := switchLine.FindStringSubmatch(text); m != nil {
		if code, err := strconv.Atoi(m[2]); err == nil {
			x.switches.add(busID(m[1]), code)
		}
		return
	}
	if m := xidLine.FindStringSubmatch(text); m != nil {
		x.xid(m)
	}
}

// lost reads what the driver says of a GPU that is not on the bus any more, and says whether the line is of that.
func (x *xidLog) lost(text string) bool {
	gpu := ""
	head := goneHead.FindStringSubmatch(text)
	if head != nil {
		x.going = busID(head[1])
	}
	if m := goneLine.FindStringSubmatch(text); m != nil {
		gpu = busID(m[1])
	} else if goneTail.MatchString(text) {
		gpu, x.going = x.going, ""
	}
	if gpu != "" {
		if x.gone == nil {
			x.gone = make(map[string]bool)
		}
		x.gone[gpu] = true
	}
	return head != nil || gpu != ""
}

// xid takes the bus ID, the code and the rest of a line.
func (x *xidLog) xid(m []string) {
	code, err := strconv.Atoi(m[2])
	if err != nil {
		return
	}
	gpu := busID(m[1])
	if code == recoveryXID && recoveryAction(m[3]) == protocol.RecoveryNone {
		delete(x.codes, gpu)
		delete(x.gone, gpu)
		return
	}
	if needsReset(code, m[3]) {
		x.codes.add(gpu, code)
	}
}

// recoveries reads what the driver asked for last, for each GPU that was not reset since.
type recoveries struct {
	// actions by bus ID.
	actions map[string]string
}

func (r *recoveries) line(text string) {
	if m := markLine.FindStringSubmatch(text); m != nil {
		delete(r.actions, busID(m[1]))
		return
	}
	m := xidLine.FindStringSubmatch(text)
	if m == nil || m[2] != strconv.Itoa(recoveryXID) || len(m[1]) > maxBus {
		return
	}
	if r.actions == nil {
		r.actions = make(map[string]string)
	}
	// What separates the texts of several GPUs cannot be part of one.
	action := strings.ReplaceAll(oneLine(recoveryAction(m[3])), ";", ",")
	r.actions[busID(m[1])] = truncate(action, maxAction)
}

const (
	// maxBus is longer than any PCI address.
	maxBus = 32
	// maxAction is longer than any text that a driver is known to have.
	maxAction = 64
	// maxRecovery leaves room for the rest of a detail.
	maxRecovery = 400
)

// add takes what the driver asks for now, in its report, besides what it has logged: the log may have lost it, or say how urgent it is.
func (r *recoveries) add(f *fabric) {
	for _, g := range f.gpus {
		_, bus, _ := strings.Cut(g.name, " ")
		if !g.asks() || len(bus) > maxBus {
			continue
		}
		if r.actions == nil {
			r.actions = make(map[string]string)
		}
		r.actions[busID(bus)] = protocol.MostRecovery(r.actions[busID(bus)], g.recovery)
	}
}

// text returns the actions of the GPUs, of one alone where a bus ID is given, and nothing where there are none.
func (r *recoveries) text(bus string) string {
	var told []string
	for _, gpu := range slices.Sorted(maps.Keys(r.actions)) {
		if bus != "" && gpu != bus {
			continue
		}
		told = append(told, "GPU "+gpu+": "+r.actions[gpu])
	}
	if len(told) == 0 {
		return ""
	}
	text := recoveryPrefix + told[0]
	for i, next := range told[1:] {
		if len(text)+len(next) > maxRecovery {
			return fmt.Sprintf("%s; and %d more", text, len(told)-1-i)
		}
		text += "; " + next
	}
	return text
}

// most returns the action of the GPUs that asks for most, of one alone where a bus ID is given.
func (r *recoveries) most(bus string) string {
	if bus != "" {
		return r.actions[bus]
	}
	return protocol.MostRecovery(slices.Sorted(maps.Values(r.actions))...)
}

// recoveryPrefix is what the detail of a diagnosis begins with, where the driver has asked for something.
const recoveryPrefix = "recovery action: "

// faults returns the lines of the GPUs, and then of the switches, each sorted.
func (x *xidLog) faults() []string {
	var out []string
	for _, gpu := range slices.Sorted(maps.Keys(x.codes)) {
		if codes := x.codes.list(gpu); codes != "" {
			out = append(out, fmt.Sprintf("XID %s on %s", codes, gpu))
		}
	}
	for _, gpu := range slices.Sorted(maps.Keys(x.gone)) {
		if !x.codes[gpu][lostXID] {
			out = append(out, gpu+" fell off the bus")
		}
	}
	for _, nvswitch := range slices.Sorted(maps.Keys(x.switches)) {
		out = append(out, fmt.Sprintf("SXid %s on the switch %s", x.switches.list(nvswitch), nvswitch))
	}
	return out
}

// needsReset says that nothing less than a reset or a reboot ends the error. Errors of applications do not, nor do row
// remappings (63) and contained errors (94), which wait until the GPU is idle, nor a code that nobody knows.
func needsReset(code int, rest string) bool {
	if needsBoot(code) {
		return true
	}
	switch code {
	case 46, 48, 54, 62, 64, 74, 95, 109, 110, 119, 120, 136, 140, 143, 150, 155, 156, 158, 169, 171, 172:
		return true
	case 144, 145, 146, 149:
		return fatalWord.MatchString(rest)
	case recoveryXID:
		switch recoveryAction(rest) {
		case protocol.RecoveryReset, protocol.RecoveryDrainAndReset, protocol.RecoveryReboot:
			return true
		}
	}
	return false
}

// needsBoot says that a reset does not end the error.
func needsBoot(code int) bool {
	switch code {
	case lostXID, 151, 167, 173:
		return true
	}
	return false
}

// recoveryAction returns what the driver says in the last brackets of the line that the GPU needs.
func recoveryAction(rest string) string {
	if m := lastWords.FindStringSubmatch(rest); m != nil {
		return strings.TrimSpace(m[1])
	}
	return ""
}

// busID writes a PCI address in the one way of the kernel log, such as 0000:3b:00, whatever the tool that printed it.
func busID(text string) string {
	text, _, _ = strings.Cut(strings.ToLower(text), ".")
	domain, rest, ok := strings.Cut(text, ":")
	if !ok {
		return text
	}
	if !strings.Contains(rest, ":") {
		return "0000:" + text
	}
	return domain[max(0, len(domain)-4):] + ":" + rest
}
