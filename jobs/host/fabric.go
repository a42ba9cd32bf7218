package host

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"aegis.io/aegis/jobs/protocol"
)

// fabric is what the GPUs say in the report of nvidia-smi about the fabric that their NVSwitches make, and what they ask for.
type fabric struct {
	gpus []fabricGPU
	// section is the one that the next line is in.
	section string
	// said is the first line that the tool printed, which is its reason where it prints no report.
	said string
}

type fabricGPU struct {
	name, state, status string
	// ill are the lines of the health that say that something is wrong.
	ill []string
	// recovery is what the driver asks for.
	recovery string
}

// fabricHealth is the section of the health, which is a part of that of the fabric.
const fabricHealth = "Fabric Health"

// line reads one line of an indented report, in which a line without a value begins a section.
func (f *fabric) line(text string) {
	if f.said == "" {
		f.said = reason(text)
	}
	key, value, ok := strings.Cut(strings.TrimSpace(text), " : ")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	switch {
	case strings.HasPrefix(text, "GPU "):
		f.gpus = append(f.gpus, fabricGPU{name: key})
		f.section = ""
	case !ok && f.section == "Fabric" && key == "Health":
		f.section = fabricHealth
	case !ok:
		f.section = key
	case len(f.gpus) > 0:
		f.gpus[len(f.gpus)-1].take(f.section, key, value)
	}
}

func (g *fabricGPU) take(section, key, value string) {
	switch {
	case key == "GPU Recovery Action":
		g.ask(recoveryName(value))
	// Drivers before 565 have two flags in its place.
	case section == "GPU Reset Status" && key == "Reset Required" && value == "Yes":
		g.ask(protocol.RecoveryReset)
	case section == "GPU Reset Status" && key == "Drain and Reset Recommended" && value == "Yes":
		g.ask(protocol.RecoveryDrainAndReset)
	case section == "Fabric" && key == "State":
		g.state = value
	case section == "Fabric" && key == "Status":
		g.status = value
	case section == fabricHealth && illFabric(key, value):
		g.ill = append(g.ill, fmt.Sprintf("%s %.32q", key, value))
	}
}

// illFabric says that a line of the health of a fabric tells of something wrong.
func illFabric(key, value string) bool {
	if notKnown(value) {
		return false
	}
	switch key {
	case "Summary":
		return value != "Healthy"
	case "Bandwidth":
		return value != "Full"
	case "Route Recovery in progress", "Route Unhealthy", "Access Timeout Recovery", "Incorrect Configuration":
		return !slices.Contains([]string{"False", "No", "None"}, value)
	}
	return false
}

// ask takes what the driver asks for. Of several, the most counts.
func (g *fabricGPU) ask(recovery string) {
	g.recovery = protocol.MostRecovery(g.recovery, recovery)
}

// recoveryName returns the words of the kernel log for those of nvidia-smi, which are shorter, or are the names in NVML.
func recoveryName(value string) string {
	switch strings.ReplaceAll(strings.ToLower(value), "_", " ") {
	case "none", "":
		return protocol.RecoveryNone
	case "reset", "gpu reset", "gpu reset required":
		return protocol.RecoveryReset
	case "reboot", "node reboot", "node reboot required":
		return protocol.RecoveryReboot
	case "drain p2p":
		return protocol.RecoveryDrainP2P
	case "drain and reset":
		return protocol.RecoveryDrainAndReset
	}
	if notKnown(value) {
		return protocol.RecoveryNone
	}
	return truncate(strings.ReplaceAll(oneLine(value), ";", ","), maxAction)
}

// asks says that the driver asks for something.
func (g fabricGPU) asks() bool {
	return g.recovery != "" && g.recovery != protocol.RecoveryNone
}

// known counts the GPUs that know a state. Those without an NVSwitch, and old ones behind one, do not.
func (f *fabric) known() int {
	n := 0
	for _, g := range f.gpus {
		if g.tells() {
			n++
		}
	}
	return n
}

func (g fabricGPU) tells() bool { return g.state != "" && !notKnown(g.state) }

// faults returns the GPUs that the fabric has not taken in, or that are not well in it.
func (f *fabric) faults() []string {
	var out []string
	for _, g := range f.gpus {
		switch {
		case !g.tells():
		case g.state != "Completed":
			out = append(out, fmt.Sprintf("%.64s has fabric state %.32q", g.name, g.state))
		case g.status != "Success" && g.status != "" && !notKnown(g.status):
			out = append(out, fmt.Sprintf("%.64s has fabric status %.32q", g.name, g.status))
		case len(g.ill) > 0:
			out = append(out, fmt.Sprintf("%.64s has a fabric with %s", g.name, strings.Join(g.ill, ", ")))
		}
	}
	return out
}

// fabric reads the whole report while it is printed: with eight GPUs it is longer than what is kept of an output.
func (h *host) fabric(ctx context.Context) (*fabric, error) {
	f := new(fabric)
	reader := &lines{each: f.line}
	err := h.stream(ctx, smiTimeout, reader, smi, "-q")
	reader.close()
	return f, because(err, f.said)
}
