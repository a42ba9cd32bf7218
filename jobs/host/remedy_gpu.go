package host

import (
	"context"
	"path"
	"slices"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

const (
	fabricManager = "nvidia-fabricmanager"
	persistenced  = "nvidia-persistenced"
	// fabricTimeout is how long eight GPUs and their switches may take to train their links.
	fabricTimeout = 5 * time.Minute

	peerMemModule = "/sys/module/nvidia_peermem"
	peerMemConf   = "/etc/modules-load.d/nvidia-peermem.conf"
	uvmDevice     = "/dev/nvidia-uvm"
)

// monitors returns the names of the programs that have every GPU open and lose nothing by a restart of the fabric manager, cut
// as the kernel cuts them.
func monitors() []string {
	return []string{"nvidia-persiste", "nv-hostengine", "nv-fabricmanage", "dcgm-exporter"}
}

// restartFabricManager restarts the unit that joins the GPUs behind NVSwitches. It ends whatever computes on them.
func restartFabricManager(ctx context.Context, h *host, _ string) finding {
	if dir := h.driver().container(); dir != "" {
		if f := h.fabricReady(ctx); f.code == protocol.ExitOK {
			return unneeded("%s", f.detail)
		}
		return refused(protocol.ExitNVLink, "%s runs in the container of the driver, %s; restart its pod instead", fabricManager, dir)
	}
	unit, err := h.unitState(ctx, fabricManager)
	if err != nil {
		return unmade(err)
	}
	if !unit.loaded() {
		return refused(protocol.ExitNVLink, "the unit %s is %.32q", fabricManager, unit.load)
	}
	if f := h.fabricReady(ctx); f.code == protocol.ExitOK {
		return unneeded("%s", f.detail)
	}
	if err := h.gpusIdle(ctx); err != nil {
		return notBegun(protocol.ExitNVLink, err)
	}
	if _, err := h.run(ctx, unitStartTimeout, "systemctl", "restart", fabricManager); err != nil {
		return failed(protocol.ExitNVLink, "%v", err)
	}
	return h.await(ctx, fabricTimeout, h.fabricReady)
}

// gpusIdle returns an error that names a process which uses a GPU. What computes has the file of unified memory open; who
// only watches has not.
func (h *host) gpusIdle(ctx context.Context) error {
	gpus, err := h.gpus(ctx)
	if err != nil {
		return err
	}
	if err := h.computing(ctx, gpus); err != nil {
		return err
	}
	return h.unused(func(file string) bool { return file == uvmDevice }, monitors()...)
}

// fabricReady sees whether the fabric manager runs, and has joined every GPU that says so.
func (h *host) fabricReady(ctx context.Context) finding {
	active, err := h.joinsGPUs(ctx)
	switch {
	case err != nil:
		return unmade(err)
	case !active:
		return failed(protocol.ExitNVLink, "%s is not active", fabricManager)
	}
	state, err := h.fabric(ctx)
	if err != nil {
		return unmade(err)
	}
	if faults := state.faults(); len(faults) > 0 {
		return failed(protocol.ExitNVLink, "%s", strings.Join(faults, ", "))
	}
	return passed("%s is active, the fabric is complete on %d of %d GPUs", fabricManager, state.known(), len(state.gpus))
}

// enablePersistence keeps the driver initialised while nobody uses the GPUs. The daemon does it where the host has it and it
// was not told otherwise; else the driver's own mode, which the next boot forgets.
func enablePersistence(ctx context.Context, h *host, _ string) finding {
	off, err := h.persistenceOff(ctx)
	switch {
	case err != nil:
		return notBegun(protocol.ExitGPU, err)
	case len(off) == 0:
		return unneeded("persistence is on")
	}
	daemon, err := h.startPersistenced(ctx)
	if err == nil && daemon {
		if off, err = h.persistenceOff(ctx); err == nil && len(off) == 0 {
			return passed("persistence is on, by %s", persistenced)
		}
	}
	if _, err := h.run(ctx, smiTimeout, smi, "-pm", "1"); err != nil {
		return failed(protocol.ExitGPU, "%v", err)
	}
	off, err = h.persistenceOff(ctx)
	switch {
	case err != nil:
		return lost("persistence was switched on", err)
	case len(off) > 0:
		return failed(protocol.ExitGPU, "persistence is still off on GPU %s", strings.Join(off, ", "))
	}
	return passed("persistence is on until the next boot")
}

// persistenceOff returns the indices of the GPUs without persistence.
func (h *host) persistenceOff(ctx context.Context) ([]string, error) {
	rows, err := h.query(ctx, 2, "--query-gpu=index,persistence_mode", "--format=csv,noheader")
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, errNoGPU
	}
	var off []string
	for _, row := range rows {
		if row[1] != "Enabled" {
			off = append(off, row[0])
		}
	}
	return off, nil
}

// startPersistenced starts the daemon, now and at every boot, and says whether the host has it.
func (h *host) startPersistenced(ctx context.Context) (bool, error) {
	unit, err := h.unitState(ctx, persistenced)
	if err != nil || !unit.loaded() {
		return false, err
	}
	for _, verb := range []string{"enable", "start"} {
		if _, err := h.run(ctx, unitStartTimeout, "systemctl", verb, persistenced); err != nil {
			return false, err
		}
	}
	return true, nil
}

var errNoGPU = obstacle("there is no GPU")

// configPeerMem loads the module that lets network adapters read the memory of GPUs, now and at every boot. The module of a driver in a
// container is in the container, which loads it at a boot; and a directory of the host that is read-only takes no line.
func configPeerMem(ctx context.Context, h *host, _ string) finding {
	unlisted, err := h.unlisted()
	if err != nil {
		return broken("%v", err)
	}
	loaded, listed, err := h.peerMem()
	switch {
	case err != nil:
		return broken("%v", err)
	case loaded && listed:
		return unneeded("nvidia_peermem is loaded, and %s lists it", peerMemConf)
	case loaded && unlisted != "":
		return unneeded("nvidia_peermem is loaded, %s", unlisted)
	}
	if !loaded {
		if err := h.loadPeerMem(ctx); err != nil {
			return notDone(protocol.ExitGPU, err)
		}
	}
	if !listed && unlisted == "" {
		if err := h.listPeerMem(); err != nil {
			return failed(protocol.ExitGPU, "%v", err)
		}
	}
	return h.peerMemConfigured(unlisted)
}

// loadPeerMem loads the module from where the driver is.
func (h *host) loadPeerMem(ctx context.Context) error {
	d, from := h.driver(), h
	if dir := d.container(); dir != "" {
		if d.tools == nil {
			return &missingError{tool: "modprobe", dir: dir}
		}
		from = d.tools
	}
	_, err := from.run(ctx, 60*time.Second, "modprobe", "nvidia-peermem")
	return err
}

func (h *host) peerMemConfigured(unlisted string) finding {
	loaded, listed, err := h.peerMem()
	switch {
	case err != nil:
		return lost("nvidia-peermem was configured", err)
	case !loaded:
		return failed(protocol.ExitGPU, "nvidia-peermem was loaded, but there is no %s", peerMemModule)
	case unlisted != "":
		return passed("nvidia_peermem is loaded, %s", unlisted)
	case !listed:
		return failed(protocol.ExitGPU, "%s does not list nvidia-peermem", peerMemConf)
	}
	return passed("nvidia_peermem is loaded, and %s lists it", peerMemConf)
}

// unlisted says why no line can tell the host to load the module at boot, nothing where it can.
func (h *host) unlisted() (string, error) {
	if dir := h.driver().container(); dir != "" {
		return "and the next boot leaves that to the container of the driver, " + dir, nil
	}
	mounts, err := h.mounts()
	if err != nil {
		return "", err
	}
	for dir := path.Dir(peerMemConf); ; dir = path.Dir(dir) {
		if m, ok := at(mounts, dir); ok && m.readOnly() {
			return "until the next boot: " + dir + " is read-only", nil
		} else if ok || dir == "/" {
			return "", nil
		}
	}
}

// peerMem says whether the module is loaded, and whether it is listed to be loaded at boot.
func (h *host) peerMem() (loaded, listed bool, err error) {
	if loaded, err = h.exists(peerMemModule); err != nil {
		return false, false, err
	}
	text, err := h.read(peerMemConf)
	if err != nil && !isAbsent(err) {
		return false, false, err
	}
	return loaded, listsModule(text, "nvidia-peermem"), nil
}

// listsModule reads a file of systemd-modules-load, for which '-' and '_' are the same.
func listsModule(text, module string) bool {
	plain := func(name string) string { return strings.ReplaceAll(strings.TrimSpace(name), "-", "_") }
	return slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool { return plain(line) == plain(module) })
}

// listPeerMem adds the line, on a line of its own whatever the file ends with.
func (h *host) listPeerMem() error {
	text, err := h.read(peerMemConf)
	if err != nil && !isAbsent(err) {
		return err
	}
	line := "nvidia-peermem\n"
	if text != "" && !strings.HasSuffix(text, "\n") {
		line = "\n" + line
	}
	return h.add(peerMemConf, line)
}
