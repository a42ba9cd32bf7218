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
	// Anchored, because the rest of a line holds the name of a process, which anybody may choose.
	xidLine   = regexp.MustCompile(`^(?:\[[^\]]*\]\s*)?NVRM: Xid \(PCI:([0-9A-Fa-f:.]+)\): (\d+)\b(.*)`)
	markLine  = regexp.MustCompile(`^(?:\[[^\]]*\]\s*)?` + resetMark + `([0-9A-Fa-f:.]+)\s*$`)
	lastWords = regexp.MustCompile(`\(([^()]*)\)[^()]*$`)
	fatalWord = regexp.MustCompile(`\bFatal\b`)
)

const recoveryXID = 154

// xidLog reads the XIDs of a boot: which GPUs had errors that only a reset or a reboot ends, and that neither ended.
type xidLog struct {
	// codes of each bus ID.
	codes map[string]map[int]bool
}

func (x *xidLog) line(text string) {
	if m := markLine.FindStringSubmatch(text); m != nil {
		delete(x.codes, busID(m[1]))
		return
	}
	m := xidLine.FindStringSubmatch(text)
	if m == nil {
		return
	}
	code, err := strconv.Atoi(m[2])
	if err != nil {
		return
	}
	gpu := busID(m[1])
	if code == recoveryXID && recoveryAction(m[3]) == protocol.RecoveryNone {
		delete(x.codes, gpu)
		return
	}
	if needsReset(code, m[3]) {
		if x.codes == nil {
			x.codes = make(map[string]map[int]bool)
		}
		if x.codes[gpu] == nil {
			x.codes[gpu] = make(map[int]bool)
		}
		x.codes[gpu][code] = true
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

// faults returns one line per GPU, sorted.
func (x *xidLog) faults() []string {
	var out []string
	for _, gpu := range slices.Sorted(maps.Keys(x.codes)) {
		var codes []string
		for _, code := range slices.Sorted(maps.Keys(x.codes[gpu])) {
			codes = append(codes, strconv.Itoa(code))
		}
		out = append(out, fmt.Sprintf("XID %s on %s", strings.Join(codes, " "), gpu))
	}
	return out
}

// needsReset says that nothing less than a reset or a reboot ends the error. Errors of applications do not, nor do row
// remappings (63) and contained errors (94), which wait until the GPU is idle, nor a code that nobody knows.
func needsReset(code int, rest string) bool {
	switch code {
	case 46, 48, 62, 64, 74, 95, 109, 110, 119, 120, 136, 140, 143, 150, 155, 156, 158, 169, 171, 172:
		return true
	case 79, 151, 167, 173:
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
