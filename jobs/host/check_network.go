package host

import (
	"context"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"aegis.io/aegis/jobs/protocol"
)

const netDir = "/sys/class/net/"

func networkFinding(ctx context.Context, h *host, e *expectation) finding {
	p := parts{code: protocol.ExitNetwork}
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
	p.bonds(h, append(routed, interfaces...))
	p.gateways(h)
	p.lookup(ctx, h, e)
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
	// An interface that is administratively down has no carrier to read.
	if carrier, err := h.readLine(netDir + name + "/carrier"); err == nil && carrier == "0" {
		p.fault("%s has no carrier", name)
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

// bonds looks at the members of every bond: one that is down is not seen from outside. A bond without members that nothing uses
// is what the module makes when it is loaded.
func (p *parts) bonds(h *host, used []string) {
	names, err := h.names(netDir)
	if err != nil {
		p.errs = append(p.errs, err)
	}
	for _, bond := range names {
		members, err := h.readLine(netDir + bond + "/bonding/slaves")
		if err != nil || members == "" && !slices.Contains(used, bond) {
			continue
		}
		if state, err := h.readLine(netDir + bond + "/bonding/mii_status"); err == nil && state != "up" {
			p.fault("%s is %.32s", bond, state)
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

// gateways looks whether the gateways of the default routes have answered. One that nobody has asked lately is not in the table.
func (p *parts) gateways(h *host) {
	routes, err := h.read("/proc/1/net/route")
	if err != nil {
		// Its absence is told as that of the routes.
		return
	}
	table, err := h.read("/proc/1/net/arp")
	if err != nil {
		p.note("gateways not checked: %v", err)
		return
	}
	for _, gateway := range parseGateways(routes) {
		switch answered, known := parseARP(table, gateway); {
		case !known:
			p.note("gateway %s was not asked lately", gateway)
		case !answered:
			p.fault("gateway %s does not answer", gateway)
		}
	}
}

// parseGateways returns the addresses of the gateways of the default routes. The table has them as numbers, the lowest byte first.
func parseGateways(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		n, err := strconv.ParseUint(f[2], 16, 32)
		if err != nil || n == 0 {
			continue
		}
		out = append(out, netip.AddrFrom4([4]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}).String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// parseARP looks for an address in the table of the kernel: address, type, flags, hardware address, mask, interface. Bit 1 of
// the flags says that the neighbour has answered.
func parseARP(text, address string) (answered, known bool) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 6 || f[0] != address {
			continue
		}
		flags, err := strconv.ParseUint(strings.TrimPrefix(f[2], "0x"), 16, 32)
		if err != nil {
			continue
		}
		known = true
		answered = answered || flags&2 != 0
	}
	return answered, known
}

// hostName is a name, or an address, that a resolver can be asked for.
var hostName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$`)

// kubeconfigs returns where the kubelet has its own, of which only the address of the API server is read.
func kubeconfigs() []string {
	return []string{
		"/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/kubeconfig", "/etc/kubernetes/kubelet.kubeconfig",
		"/etc/kubernetes/kubeconfig-kubelet", "/etc/kubernetes/kubelet/kubeconfig",
	}
}

// lookup resolves the name of the API server as the host does.
func (p *parts) lookup(ctx context.Context, h *host, e *expectation) {
	name := e.APIServer
	if name == "" {
		name = h.apiServer()
	}
	if _, err := netip.ParseAddr(name); err == nil || !hostName.MatchString(name) {
		p.note("the API server has no name to look up")
		return
	}
	_, err := h.run(ctx, 15*time.Second, "getent", "ahosts", name)
	switch {
	case blames(err):
		p.fault("the name %s of the API server does not resolve: %v", name, err)
	case err != nil && e.APIServer == "":
		p.note("the name %s of the API server not looked up: %v", name, err)
	case err != nil:
		p.unmade(err)
	}
}

// apiServer returns the host of the API server in the configuration of the kubelet, nothing where that does not tell.
func (h *host) apiServer() string {
	for _, file := range kubeconfigs() {
		text, err := h.read(file)
		if err == nil {
			return parseServer(text)
		}
	}
	return ""
}

func parseServer(text string) string {
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
			} `json:"cluster"`
		} `json:"clusters"`
	}
	if yaml.Unmarshal([]byte(text), &config) != nil || len(config.Clusters) == 0 {
		return ""
	}
	server, err := url.Parse(config.Clusters[0].Cluster.Server)
	if err != nil {
		return ""
	}
	return server.Hostname()
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
