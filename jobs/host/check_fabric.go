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

const infinibandDir = "/sys/class/infiniband/"

// ibPort is one port of an RDMA device.
type ibPort struct {
	name, state, phys, layer string
	// gbps is its rate, where that could be read.
	gbps    float64
	rateErr error
}

// ibFinding checks the ports of the RDMA devices that the profile counts.
func ibFinding(_ context.Context, h *host, e *expectation) finding {
	switch {
	case e.impliesIB():
		return h.impliedIB()
	case !expects(e.IB) && len(e.IBDevices) == 0:
		return skipped("no InfiniBand is expected")
	}
	devices := e.IBDevices
	named := len(devices) > 0
	if !named {
		var err error
		if devices, err = h.adapters(); err != nil {
			return broken("%v", err)
		}
	}
	p := parts{code: protocol.ExitIB}
	found := 0
	for _, device := range devices {
		ports, err := h.ibPorts(device, e.counts)
		if err != nil {
			// It is there, but what state it is in is unknown.
			p.errs = append(p.errs, err)
			found++
			continue
		}
		if len(ports) == 0 && named {
			p.fault("%s is missing", device)
		}
		if !named {
			ports = p.inUse(ports)
		}
		if len(ports) == 0 {
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

// impliedIB checks the InfiniBand adapters of a host of which nobody says how many count. One of them is well while one of its ports is:
// an adapter with two ports often has one cable.
func (h *host) impliedIB() finding {
	adapters, err := h.infiniBand()
	switch {
	case err != nil:
		return broken("%v", err)
	case len(adapters) == 0:
		return skipped("there is no InfiniBand adapter, and none is expected")
	}
	p := parts{code: protocol.ExitIB}
	linked := slices.ContainsFunc(adapters, func(a ibAdapter) bool { return slices.ContainsFunc(a.ports, ibPort.isActive) })
	for _, a := range adapters {
		p.adapter(a, linked)
	}
	p.note("%d adapters", len(adapters))
	return p.finding()
}

// adapter checks one adapter. While another one has a link, one that only looks for a link has no cable.
func (p *parts) adapter(a ibAdapter, linked bool) {
	switch {
	case a.device == "" && a.bound:
		p.note("the InfiniBand adapter %s has no RDMA device, its driver brings none", a.address)
		return
	case a.device == "":
		p.errs = append(p.errs, fmt.Errorf("the InfiniBand adapter %s has no RDMA device, its driver does not run", a.address))
		return
	}
	down := p.inUse(a.ports)
	if slices.ContainsFunc(down, ibPort.isActive) {
		return
	}
	if linked && len(down) > 0 && !slices.ContainsFunc(down, func(q ibPort) bool { return !q.polls() }) {
		p.note("%s has no link", a.device)
		return
	}
	for _, port := range down {
		p.port(port, 0)
	}
}

// ibAdapter is an InfiniBand adapter, with its PCI address, or with its device and ports.
type ibAdapter struct {
	address, device string
	// bound says that a driver has the adapter of the address. It has no device if mlx5_ib is not loaded, or if another network namespace
	// has the device.
	bound bool
	ports []ibPort
}

// infiniBand returns the InfiniBand adapters: the RDMA devices with ports of that kind, and what is one on the PCI bus and has no device.
func (h *host) infiniBand() ([]ibAdapter, error) {
	devices, err := h.adapters()
	if err != nil {
		return nil, err
	}
	var out []ibAdapter
	for _, device := range devices {
		ports, err := h.ibPorts(device, func(layer string) bool { return layer == "InfiniBand" })
		if err != nil {
			return nil, err
		}
		if len(ports) > 0 {
			out = append(out, ibAdapter{device: device, ports: ports})
		}
	}
	addresses, err := h.driverless()
	if err != nil {
		return nil, err
	}
	for _, address := range addresses {
		_, err := h.link(pciDir + address + "/driver")
		if err != nil && !isAbsent(err) {
			return nil, err
		}
		out = append(out, ibAdapter{address: address, bound: err == nil})
	}
	return out, nil
}

// driverless returns the PCI addresses of the InfiniBand adapters that have no RDMA device.
func (h *host) driverless() ([]string, error) {
	names, err := h.names(pciDir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		class, err := h.readLine(pciDir + name + "/class")
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(class, "0x0207") || h.forVirtualMachines(name) {
			continue
		}
		for _, file := range []string{"/physfn", "/infiniband"} {
			has, err := h.exists(pciDir + name + file)
			if err != nil {
				return nil, err
			}
			if has {
				name = ""
				break
			}
		}
		if name != "" && !h.switchManager(pciDir+name) {
			out = append(out, name)
		}
	}
	return out, nil
}

// counts says that the link layer is the one that the profile asks for. The adapters of AWS have none and tell Unknown.
func (e *expectation) counts(layer string) bool {
	if e.IBLinkLayer == "" {
		return layer == "InfiniBand" || layer == "Unknown"
	}
	return layer == e.IBLinkLayer
}

// inUse returns the ports but those that are switched off, or that are Ethernet without a cable, which says the same. Their device
// does not count among those that are expected; nothing else tells a port that nobody uses from one that has lost its link.
func (p *parts) inUse(ports []ibPort) []ibPort {
	return slices.DeleteFunc(ports, func(q ibPort) bool {
		unused := q.state == "1: DOWN" && q.phys == "3: Disabled"
		if unused {
			p.note("%s is not in use", q.name)
		}
		return unused
	})
}

// managementDevice is what the interface is called that comes with a device of several planes, to manage its fabric.
var managementDevice = regexp.MustCompile(`^smi\d+$`)

// adapters returns the RDMA devices that carry data of the host: no virtual function, and none that manages a fabric.
func (h *host) adapters() ([]string, error) {
	names, err := h.names(infinibandDir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		virtual, err := h.exists(infinibandDir + name + "/device/physfn")
		if err != nil {
			return nil, err
		}
		if !virtual && !managementDevice.MatchString(name) && !h.managesSwitch(name) {
			out = append(out, name)
		}
	}
	return out, nil
}

// managesSwitch says that the device is the way to an NVSwitch, which its vital product data tells.
func (h *host) managesSwitch(device string) bool {
	return h.switchManager(infinibandDir + device + "/device")
}

func (h *host) switchManager(dir string) bool {
	// What was read before an error counts: not every device says where its data ends.
	data, err := h.read(dir + "/vpd")
	return !isAbsent(err) && strings.Contains(data, "SMDL=SW_MNG")
}

func (p *parts) port(port ibPort, rate float64) {
	switch {
	case port.state != "4: ACTIVE":
		p.fault("%s is %q", port.name, port.state)
	case port.phys != "5: LinkUp":
		p.fault("%s has physical state %q", port.name, port.phys)
	case rate > 0 && port.rateErr != nil:
		p.errs = append(p.errs, port.rateErr)
	case port.gbps < rate:
		p.fault("%s runs at %g Gb/s of %g", port.name, port.gbps, rate)
	}
}

// polls says that the port looks for a link, as one without a cable does.
func (port ibPort) polls() bool { return port.state == "1: DOWN" && port.phys == "2: Polling" }

// ibPorts returns the ports of the device whose link layer counts. Of the others nothing else is read: an adapter of Ethernet may not have it.
func (h *host) ibPorts(device string, counts func(layer string) bool) ([]ibPort, error) {
	dir := infinibandDir + device + "/ports/"
	names, err := h.names(dir)
	if err != nil {
		return nil, err
	}
	var ports []ibPort
	for _, name := range names {
		port := ibPort{name: device + " port " + name}
		if port.layer, err = h.readLine(dir + name + "/link_layer"); err != nil {
			return nil, err
		}
		if !counts(port.layer) {
			continue
		}
		if port.state, err = h.readLine(dir + name + "/state"); err != nil {
			return nil, err
		}
		if port.phys, err = h.readLine(dir + name + "/phys_state"); err != nil {
			return nil, err
		}
		port.gbps, port.rateErr = h.ibRate(dir+name, port.name)
		ports = append(ports, port)
	}
	return ports, nil
}

// ibRate reads the rate of a port, in Gb/s.
func (h *host) ibRate(dir, port string) (float64, error) {
	rate, err := h.readLine(dir + "/rate")
	if err != nil {
		return 0, err
	}
	number, _, _ := strings.Cut(rate, " ")
	gbps, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, fmt.Errorf("%s has rate %.64q", port, rate)
	}
	return gbps, nil
}

// gpfsFinding checks that GPFS runs, and that its mounts are there and answer.
func gpfsFinding(ctx context.Context, h *host, e *expectation) finding {
	mounts, err := h.gpfsMounts()
	if err != nil {
		return broken("%v", err)
	}
	listed, err := h.listedGPFS()
	if err != nil {
		return broken("%v", err)
	}
	_, err = h.stat("/usr/lpp/mmfs")
	if len(e.GPFS)+len(mounts)+len(listed) == 0 && isAbsent(err) {
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
