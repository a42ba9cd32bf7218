package host

import (
	"context"
	"slices"
	"strings"
)

const netDir = "/sys/class/net/"

func networkFinding(_ context.Context, h *host, e *expectation) finding {
	p := parts{code: exitNetwork}
	interfaces := e.Interfaces
	routed, err := h.defaultRoutes()
	switch {
	case err != nil:
		p.errs = append(p.errs, err)
	case len(routed) == 0:
		p.fault("there is no default route")
	default:
		p.note("default route through %s", strings.Join(routed, ", "))
	}
	for _, name := range routed {
		if !slices.Contains(interfaces, name) {
			p.linkUp(h, name, 0)
		}
	}
	for _, name := range interfaces {
		p.linkUp(h, name, e.InterfaceMbps)
	}
	p.bonds(h)
	return p.finding()
}

func (p *parts) linkUp(h *host, name string, mbps int) {
	state, err := h.readLine(netDir + name + "/operstate")
	switch {
	case isAbsent(err):
		p.fault("%s is missing", name)
		return
	case err != nil:
		p.errs = append(p.errs, err)
		return
	// Virtual interfaces do not know their state.
	case state != "up" && state != "unknown":
		p.fault("%s is %.32s", name, state)
		return
	}
	if mbps == 0 {
		return
	}
	speed, err := h.readNumber(netDir + name + "/speed")
	if err != nil {
		p.errs = append(p.errs, err)
	} else if speed < mbps {
		p.fault("%s runs at %d Mb/s of %d", name, speed, mbps)
	}
}

// bonds looks at the members of every bond: one that is down is not seen from outside.
func (p *parts) bonds(h *host) {
	names, err := h.names(netDir)
	if err != nil {
		p.errs = append(p.errs, err)
	}
	for _, bond := range names {
		members, err := h.readLine(netDir + bond + "/bonding/slaves")
		if err != nil {
			continue
		}
		for _, member := range strings.Fields(members) {
			state, err := h.readLine(netDir + member + "/bonding_slave/mii_status")
			if err != nil {
				p.errs = append(p.errs, err)
			} else if state != "up" {
				p.fault("%s of %s is %.32s", member, bond, state)
			}
		}
	}
}

// defaultRoutes returns the interfaces of the default routes of the host, of either family.
func (h *host) defaultRoutes() ([]string, error) {
	v4, err := h.read("/proc/1/net/route")
	if err != nil && !isAbsent(err) {
		return nil, err
	}
	v6, err := h.read("/proc/1/net/ipv6_route")
	if err != nil && !isAbsent(err) {
		return nil, err
	}
	names := append(parseRoutes(v4), parseRoutes6(v6)...)
	slices.Sort(names)
	return slices.Compact(names), nil
}

// parseRoutes reads the table of the kernel: interface, destination, gateway, flags, ..., mask in the eighth field.
func parseRoutes(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) >= 8 && f[1] == "00000000" && f[7] == "00000000" {
			names = append(names, f[0])
		}
	}
	return names
}

// parseRoutes6 reads the table of the kernel: destination, prefix length, ..., interface at the end. The route that the
// kernel itself keeps on lo rejects everything.
func parseRoutes6(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 10 && strings.Trim(f[0], "0") == "" && f[1] == "00" && f[9] != "lo" {
			names = append(names, f[9])
		}
	}
	return names
}
