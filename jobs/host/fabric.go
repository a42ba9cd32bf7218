package host

import (
	"context"
	"fmt"
	"strings"
)

// fabric is what the GPUs say about the fabric that their NVSwitches make, in the report of nvidia-smi.
type fabric struct {
	gpus []fabricGPU
	// section is the one that the next line is in.
	section string
}

type fabricGPU struct{ name, state, status string }

// line reads one line of an indented report, in which a line without a value begins a section.
func (f *fabric) line(text string) {
	key, value, ok := strings.Cut(strings.TrimSpace(text), " : ")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	switch {
	case strings.HasPrefix(text, "GPU "):
		f.gpus = append(f.gpus, fabricGPU{name: key})
		f.section = ""
	case !ok:
		f.section = key
	case len(f.gpus) == 0 || f.section != "Fabric":
	case key == "State":
		f.gpus[len(f.gpus)-1].state = value
	case key == "Status":
		f.gpus[len(f.gpus)-1].status = value
	}
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

// faults returns the GPUs that the fabric has not taken in.
func (f *fabric) faults() []string {
	var out []string
	for _, g := range f.gpus {
		switch {
		case !g.tells():
		case g.state != "Completed":
			out = append(out, fmt.Sprintf("%.64s has fabric state %.32q", g.name, g.state))
		case g.status != "Success" && g.status != "" && !notKnown(g.status):
			out = append(out, fmt.Sprintf("%.64s has fabric status %.32q", g.name, g.status))
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
	return f, err
}
