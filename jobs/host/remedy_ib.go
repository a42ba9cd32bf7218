package host

import (
	"context"
	"errors"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

const (
	openibd = "/etc/init.d/openibd"
	// mofedContainer is where a container with the driver of the adapters mounts its root, or a part of it.
	mofedContainer = "/run/mellanox/drivers"
	// ibTimeout is how long a subnet manager may take to bring a port up again.
	ibTimeout = 3 * time.Minute
	// maxStacked is how many interfaces may lie on each other, such as a VLAN on a bond.
	maxStacked = 5
)

var verbsStatus = regexp.MustCompile(`VERBS RDMA status:\s*(\S+)`)

// ibModules returns the kernel modules without which no RDMA program runs.
func ibModules() []string {
	return []string{"mlx5_core", "mlx5_ib", "ib_core", "ib_uverbs", "ib_umad"}
}

// ibUsers returns the units that would hold the driver.
func ibUsers() []string { return []string{"opensm", "opensmd", "ibacm"} }

// ibReload reloads the RDMA driver of a host that nothing uses it on.
type ibReload struct {
	host *host
	// device is the one that must be back, empty for all.
	device string
	// active are the ports that were active before.
	active []string
}

// reloadIBDriver reloads the driver and sees the ports of the device active again, or those of all devices.
func reloadIBDriver(ctx context.Context, h *host, device string) finding {
	if none, err := h.noAdapters(); err != nil || none {
		return noAdaptersFinding(err)
	}
	ports, err := h.portsOf(device)
	if err != nil {
		return broken("%v", err)
	}
	r := ibReload{host: h, device: device}
	for _, port := range ports {
		if port.isActive() {
			r.active = append(r.active, port.name)
		}
	}
	if r.well(ports) {
		return unneeded("the modules are loaded and %d ports are active", len(r.active))
	}
	if err := h.driverOfAdapters(); err != nil {
		return notBegun(protocol.ExitIB, err)
	}
	if err := r.unused(ctx); err != nil {
		return notBegun(protocol.ExitIB, err)
	}
	stopped, err := h.stopUnits(ctx, ibUsers()...)
	if err == nil {
		err = r.reload(ctx)
	}
	// They are needed whatever became of the reload.
	if err = errors.Join(err, h.startUnits(ctx, stopped)); err != nil {
		return notDone(protocol.ExitIB, err)
	}
	return h.await(ctx, ibTimeout, r.look)
}

func noAdaptersFinding(err error) finding {
	if err != nil {
		return broken("%v", err)
	}
	return skipped("there is no RDMA device, and no adapter for one on the PCI bus")
}

// noAdapters says that there is nothing that the driver is for.
func (h *host) noAdapters() (bool, error) {
	devices, err := h.names(infinibandDir)
	if err != nil || len(devices) > 0 {
		return false, err
	}
	names, err := h.names(pciDir)
	for _, name := range names {
		vendor, err := h.readLine(pciDir + name + "/vendor")
		if err != nil || vendor == mellanox {
			return false, err
		}
	}
	return true, err
}

// mellanox is what PCI calls the maker of the adapters.
const mellanox = "0x15b3"

// driverOfAdapters refuses where a container brings the driver, also while it loads it. The modules of the host are others, which do not go
// with its own.
func (h *host) driverOfAdapters() error {
	there, err := h.exists(mofedContainer)
	if err != nil {
		return err
	}
	mounts, err := h.mounts()
	if err != nil {
		return err
	}
	mounted := slices.ContainsFunc(mounts, func(m mount) bool { return strings.HasPrefix(m.point+"/", mofedContainer+"/") })
	if there || mounted {
		return obstacle("the driver is in a container, %s; restart its pod instead", mofedContainer)
	}
	return nil
}

// portsOf returns the ports of the device, or of all devices.
func (h *host) portsOf(device string) ([]ibPort, error) {
	devices := []string{device}
	if device == "" {
		var err error
		if devices, err = h.names(infinibandDir); err != nil {
			return nil, err
		}
	}
	var all []ibPort
	for _, d := range devices {
		ports, err := h.ibPorts(d, func(string) bool { return true })
		if err != nil {
			return nil, err
		}
		all = append(all, ports...)
	}
	return all, nil
}

func (port ibPort) isActive() bool { return port.state == "4: ACTIVE" && port.phys == "5: LinkUp" }

// well says that there is nothing to reload. A port without a cable is common among those that speak Ethernet.
func (r ibReload) well(ports []ibPort) bool {
	down := slices.ContainsFunc(ports, func(p ibPort) bool { return !p.isActive() && (r.device != "" || p.layer == "InfiniBand") })
	return r.host.absentModule() == "" && len(r.active) > 0 && !down
}

// absentModule returns the first module that is not loaded.
func (h *host) absentModule() string {
	for _, module := range ibModules() {
		if ok, err := h.exists("/sys/module/" + module); err != nil || !ok {
			return module
		}
	}
	return ""
}

// unused refuses while a process, or a mounted GPFS, uses RDMA.
func (r ibReload) unused(ctx context.Context) error {
	err := r.host.unused(func(file string) bool { return strings.HasPrefix(file, "/dev/infiniband/uverbs") })
	if err != nil {
		return err
	}
	mounts, err := r.host.gpfsMounts()
	if err != nil || len(mounts) == 0 {
		return err
	}
	out, err := r.host.run(ctx, 30*time.Second, "mmfsadm", "test", "verbs", "status")
	if err != nil {
		return err
	}
	switch m := verbsStatus.FindStringSubmatch(out); {
	case m == nil:
		return errors.New("mmfsadm does not say whether GPFS uses RDMA")
	case m[1] == "started":
		return obstacle("%s is mounted and GPFS uses RDMA", mounts[0].point)
	}
	return nil
}

// reload uses the vendor's script where it is there. That takes every adapter of the vendor down, so a host that is reached
// through one keeps its network with the second way, which takes away RDMA alone.
func (r ibReload) reload(ctx context.Context) error {
	through, err := r.host.routedThrough("mlx5_core")
	if err != nil {
		return err
	}
	info, err := r.host.stat(openibd)
	if err == nil && info.Mode()&0o111 != 0 && !through {
		return r.host.told(ctx, command{path: openibd, args: []string{"restart"}, timeout: 5 * time.Minute})
	}
	loaded, err := r.host.exists("/sys/module/mlx5_ib")
	if err != nil {
		return err
	}
	if loaded {
		if _, err := r.host.run(ctx, 2*time.Minute, "modprobe", "-r", "mlx5_ib"); err != nil {
			return err
		}
	}
	_, err = r.host.run(ctx, 2*time.Minute, "modprobe", append([]string{"-a"}, ibModules()...)...)
	return err
}

// look sees whether the modules are loaded and the ports are active.
func (r ibReload) look(context.Context) finding {
	if module := r.host.absentModule(); module != "" {
		return failed(protocol.ExitIB, "module %s is not loaded after the reload", module)
	}
	ports, err := r.host.portsOf(r.device)
	if err != nil {
		return broken("after the reload: %v", err)
	}
	active := 0
	var down []string
	for _, port := range ports {
		switch {
		case port.isActive():
			active++
		case r.device != "" || slices.Contains(r.active, port.name):
			down = append(down, port.name)
		}
	}
	for _, name := range r.active {
		if !slices.ContainsFunc(ports, func(p ibPort) bool { return p.name == name }) {
			down = append(down, name)
		}
	}
	if len(down) > 0 {
		return failed(protocol.ExitIB, "not active after the reload: %s", strings.Join(down, ", "))
	}
	if active == 0 {
		return failed(protocol.ExitIB, "no port is active after the reload")
	}
	return passed("%d ports are active", active)
}

// routedThrough says whether a default route leaves the host through an adapter of the driver.
func (h *host) routedThrough(driver string) (bool, error) {
	names, err := h.defaultRoutes()
	if err != nil {
		return false, err
	}
	return h.anyDriver(names, driver, maxStacked)
}

// anyDriver looks at the interfaces and at those below them.
func (h *host) anyDriver(names []string, driver string, depth int) (bool, error) {
	for _, name := range names {
		target, err := h.link(netDir + name + "/device/driver")
		switch {
		case err == nil && path.Base(target) == driver:
			return true, nil
		case err != nil && !isAbsent(err): // A bond has no driver.
			return false, err
		}
		below, err := h.names(netDir + name)
		if err != nil {
			return false, err
		}
		var lower []string
		for _, entry := range below {
			if other, ok := strings.CutPrefix(entry, "lower_"); ok {
				lower = append(lower, other)
			}
		}
		if depth == 0 || len(lower) == 0 {
			continue
		}
		if found, err := h.anyDriver(lower, driver, depth-1); found || err != nil {
			return found, err
		}
	}
	return false, nil
}
