package host

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

const infinibandDir = "/sys/class/infiniband/"

// ibPort is one port of an RDMA device.
type ibPort struct {
	name, state, phys, layer string
	// gbps is its rate.
	gbps float64
}

// ibFinding checks the ports of the RDMA devices that the profile counts.
func ibFinding(_ context.Context, h *host, e *expectation) finding {
	if !expects(e.IB) && len(e.IBDevices) == 0 {
		return skipped("no InfiniBand is expected")
	}
	devices := e.IBDevices
	if len(devices) == 0 {
		var err error
		if devices, err = h.names(infinibandDir); err != nil {
			return broken("%v", err)
		}
	}
	layer := e.IBLinkLayer
	if layer == "" {
		layer = "InfiniBand"
	}
	p := parts{code: protocol.ExitIB}
	found := 0
	for _, device := range devices {
		ports, err := h.ibPorts(device)
		if err != nil {
			// It is there, but what state it is in is unknown.
			p.errs = append(p.errs, err)
			found++
			continue
		}
		ports = slices.DeleteFunc(ports, func(q ibPort) bool { return q.layer != layer })
		if len(ports) == 0 {
			if len(e.IBDevices) > 0 {
				p.fault("%s is missing", device)
			}
			continue
		}
		found++
		for _, port := range ports {
			p.port(port, e.IBRateGbps)
		}
	}
	if e.IB != nil && found < *e.IB {
		p.fault("%d devices expected, %d found", *e.IB, found)
	}
	p.note("%d devices", found)
	return p.finding()
}

func (p *parts) port(port ibPort, rate float64) {
	switch {
	case port.state != "4: ACTIVE":
		p.fault("%s is %q", port.name, port.state)
	case port.phys != "5: LinkUp":
		p.fault("%s has physical state %q", port.name, port.phys)
	case port.gbps < rate:
		p.fault("%s runs at %g Gb/s of %g", port.name, port.gbps, rate)
	}
}

func (h *host) ibPorts(device string) ([]ibPort, error) {
	dir := infinibandDir + device + "/ports/"
	names, err := h.names(dir)
	if err != nil {
		return nil, err
	}
	var ports []ibPort
	for _, name := range names {
		port := ibPort{name: device + " port " + name}
		var rate string
		for _, f := range []struct {
			file string
			to   *string
		}{{"state", &port.state}, {"phys_state", &port.phys}, {"link_layer", &port.layer}, {"rate", &rate}} {
			if *f.to, err = h.readLine(dir + name + "/" + f.file); err != nil {
				return nil, err
			}
		}
		number, _, _ := strings.Cut(rate, " ")
		if port.gbps, err = strconv.ParseFloat(number, 64); err != nil {
			return nil, fmt.Errorf("%s has rate %.64q", port.name, rate)
		}
		ports = append(ports, port)
	}
	return ports, nil
}

// gpfsFinding checks that GPFS runs, and that its mounts are there and answer.
func gpfsFinding(ctx context.Context, h *host, e *expectation) finding {
	mounts, err := h.gpfsMounts()
	if err != nil {
		return broken("%v", err)
	}
	_, err = h.stat("/usr/lpp/mmfs")
	if len(e.GPFS) == 0 && len(mounts) == 0 && isAbsent(err) {
		return skipped("GPFS is not installed, and none is expected")
	}
	p := parts{code: protocol.ExitGPFS}
	p.gpfsState(h.gpfsState(ctx))
	for _, want := range e.GPFS {
		if !slices.ContainsFunc(mounts, func(m mount) bool { return m.isGPFS(want) }) {
			p.fault("%s is not mounted", want)
		}
	}
	for _, m := range mounts {
		err := h.answers(ctx, m.point)
		switch {
		case blames(err):
			p.fault("%s does not answer: %v", m.point, err)
		case err != nil:
			p.errs = append(p.errs, err)
		}
	}
	p.note("%d mounted", len(mounts))
	return p.finding()
}

func (m mount) isGPFS(name string) bool {
	return m.point == name || strings.TrimPrefix(m.device, "/dev/") == strings.TrimPrefix(name, "/dev/")
}

func (p *parts) gpfsState(state string, err error) {
	switch {
	case blames(err):
		p.fault("%v", err)
	case err != nil:
		p.unmade(err)
	case state != gpfsActive:
		p.fault("GPFS is %.64q", state)
	}
}

// gpfsState returns the state of GPFS on this node.
func (h *host) gpfsState(ctx context.Context) (string, error) {
	_, state, err := h.gpfsNode(ctx)
	return state, err
}

// gpfsNode returns what this node is called in its cluster, and the state of GPFS on it.
func (h *host) gpfsNode(ctx context.Context) (name, state string, err error) {
	out, err := h.run(ctx, 60*time.Second, "mmgetstate", "-Y")
	if err != nil {
		return "", "", err
	}
	return parseGPFSState(out)
}

// parseGPFSState reads the machine-readable form: a line of column names, and one of values.
func parseGPFSState(text string) (name, state string, err error) {
	nameColumn, stateColumn := -1, -1
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) < 3 || fields[0] != "mmgetstate" {
			continue
		}
		if fields[2] == "HEADER" {
			nameColumn, stateColumn = slices.Index(fields, "nodeName"), slices.Index(fields, "state")
			continue
		}
		if stateColumn < 0 || stateColumn >= len(fields) {
			continue
		}
		if nameColumn >= 0 && nameColumn < len(fields) {
			name = fields[nameColumn]
		}
		return name, fields[stateColumn], nil
	}
	return "", "", fmt.Errorf("mmgetstate printed no state: %.64q", firstLine(text))
}
