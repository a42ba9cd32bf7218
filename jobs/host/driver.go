package host

import (
	"context"
	"path"
	"strings"
	"time"
)

const (
	// driverReadyFile is where the validator of the GPU Operator says where it has found the driver.
	driverReadyFile = "/run/nvidia/validations/driver-ready"
	// validations is where the validator says what it has found. It removes driverReadyFile before it looks again.
	validations = "/run/nvidia/validations"
	// driverContainer is where the container of the driver mounts its root.
	driverContainer = "/run/nvidia/driver"
	// driverWait is how long a container may take to build and load the driver, and driverPoll is how often it is looked for.
	driverWait = 5 * time.Minute
	driverPoll = 5 * time.Second
)

// driverDirs are directories with the tools of a driver that no package has installed: those of GKE and of Container-Optimized OS, which
// have their libraries beside them.
func driverDirs() []string { return []string{"/home/kubernetes/bin/nvidia", "/var/lib/nvidia"} }

// driverPath are further directories with the tools of the driver: those of Bottlerocket.
func driverPath() []string { return []string{"/usr/libexec/nvidia/tesla/bin"} }

func searchDirs() []string { return strings.Split(searchPath, ":") }

// driver is where the driver of the GPUs is: on the host, in a directory of the host, or in the root of a container.
type driver struct {
	// tools is the host with the root that its tools run in, nil where that root is not there.
	tools *host
	// dir is the directory of the driver, empty for the host.
	dir string
	// own says that the directory is a root of its own.
	own bool
	// path are the directories of its tools in that root, and env is what they need.
	path, env []string
	// devices is the host with the root whose /dev has the device files, and devRoot is that root.
	devices *host
	devRoot string
	err     error
}

// findDriver asks the validator of the GPU Operator. Where it says nothing, the host has the driver if it has its tools, then the container,
// then a directory of the cloud's.
func (h *host) findDriver() driver {
	text, err := h.read(driverReadyFile)
	if err != nil && !isAbsent(err) {
		return driver{err: err}
	}
	ready := parseEnv(text)
	root, devRoot := path.Clean("/"+ready["NVIDIA_DRIVER_ROOT"]), path.Clean("/"+ready["NVIDIA_DEV_ROOT"])
	if ready["NVIDIA_DEV_ROOT"] == "" {
		// A validator of before 2024 does not tell.
		devRoot = h.devRootOf(root)
	}
	switch {
	case ready["IS_HOST_DRIVER"] == "true":
		return h.driverAt("/", "/")
	case ready["IS_HOST_DRIVER"] == "false" && root != "/":
		return h.containerAt(root, devRoot)
	}
	if _, err := h.lookup(smi, append(searchDirs(), driverPath()...)...); err == nil {
		return h.driverAt("/", "/")
	}
	for _, dir := range append([]string{driverContainer}, driverDirs()...) {
		d := h.driverAt(dir, h.devRootOf(dir))
		if d.tools == nil {
			continue
		}
		if _, err := d.tools.lookup(smi, d.path...); err == nil {
			return d
		}
		if err := d.close(); err != nil {
			return driver{err: err}
		}
	}
	return h.driverAt("/", "/")
}

// awaitDriver waits for a container that is about to bring the driver.
func (h *host) awaitDriver(ctx context.Context) {
	// The files of a directory do not change.
	if h.options.replay {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, h.bounded(driverWait))
	defer cancel()
	for h.driverStarts() && pause(ctx, driverPoll) == nil {
	}
}

// driverStarts says that the validator waits for a driver that is nowhere yet.
func (h *host) driverStarts() bool {
	validated, err := h.exists(validations)
	if err != nil || !validated {
		return false
	}
	if ready, err := h.exists(driverReadyFile); err != nil || ready {
		return false
	}
	d := h.findDriver()
	if d.err != nil || d.tools == nil {
		return false
	}
	_, err = d.tools.lookup(smi, d.path...)
	return d.close() == nil && lacksTool(err)
}

// devRootOf returns the root with the device files of the driver: its own, or the host's.
func (h *host) devRootOf(dir string) string {
	if ok, err := h.exists(dir + "/dev/nvidiactl"); err == nil && ok {
		return dir
	}
	return "/"
}

// driverAt describes the driver of the directory. The root of a container has the file system of the processes in it; a directory without
// is a part of the host.
func (h *host) driverAt(dir, devRoot string) driver {
	d := driver{tools: h, path: append(searchDirs(), driverPath()...), devices: h, devRoot: devRoot}
	if dir != "/" {
		d.dir = dir
		d.tools, d.err = h.within(dir)
	}
	switch {
	case dir == "/":
	case isAbsent(d.err):
		d.tools, d.err = nil, nil
	case d.err != nil:
		d.tools = nil
	default:
		d.own, d.err = d.tools.exists("/proc")
		if d.own || d.err != nil {
			break
		}
		d.err = d.tools.root.Close()
		d.tools, d.path, d.env = h, []string{dir + "/bin"}, []string{"LD_LIBRARY_PATH=" + dir + "/lib64"}
	}
	if devRoot != "/" {
		d.devices = nil
		if devRoot == dir && d.own {
			d.devices = d.tools
		}
	}
	return d
}

// containerAt describes the driver of the directory that the validator names. One that is no root and has no tool is what is left of a
// container that has ended.
func (h *host) containerAt(dir, devRoot string) driver {
	d := h.driverAt(dir, devRoot)
	if d.err != nil || d.tools == nil || d.own {
		return d
	}
	if _, err := h.lookup(smi, d.path...); err != nil {
		d.tools = nil
	}
	return d
}

// container returns the root of the container of the driver, nothing where the driver is not in one.
func (d driver) container() string {
	if d.own || d.dir != "" && d.tools == nil {
		return d.dir
	}
	return ""
}

// deviceDir is the directory of the device files, as the host sees it.
func (d driver) deviceDir() string { return path.Join(d.devRoot, "dev") }

// deviceFiles returns the names of the device files.
func (d driver) deviceFiles() ([]string, error) {
	switch {
	case d.err != nil:
		return nil, d.err
	case d.tools == nil, d.devices == nil:
		return nil, &missingError{tool: smi, dir: d.dir}
	}
	return d.devices.names("/dev")
}

func (d driver) close() error {
	if d.own && d.tools != nil {
		return d.tools.root.Close()
	}
	return nil
}

// place is where a tool of the host is, with the root it runs in.
type place struct {
	host *host
	path string
	env  []string
}

// find finds the tool where it belongs: in the root of the driver, or on the host.
func (h *host) find(tool string) (place, error) {
	if h.options.replay {
		return h.captured(tool)
	}
	if !strings.HasPrefix(tool, "nvidia-") {
		return h.findOnHost(tool)
	}
	d := h.driver()
	switch {
	case d.err != nil:
		return place{}, d.err
	case d.tools == nil:
		return place{}, &missingError{tool: tool, dir: d.dir}
	}
	file, err := d.tools.lookup(tool, d.path...)
	if absent, ok := missing(err); ok {
		absent.dir = d.dir
	}
	return place{host: d.tools, path: file, env: d.env}, err
}

// rke2 is the directory of RKE2, which brings the client of its runtime and the configuration of it.
const rke2 = "/var/lib/rancher/rke2"

// findOnHost finds a tool that is no part of the driver. The client of the container runtime is often where the distribution of Kubernetes
// has put it.
func (h *host) findOnHost(tool string) (place, error) {
	file, err := h.lookup(tool, searchDirs()...)
	if err == nil || tool != "crictl" {
		return place{host: h, path: file}, err
	}
	if file, err := h.lookup(tool, "/home/kubernetes/bin"); err == nil {
		return place{host: h, path: file}, nil
	}
	file, err = h.lookup(tool, rke2+"/bin")
	return place{host: h, path: file, env: []string{"CRI_CONFIG_FILE=" + rke2 + "/agent/etc/crictl.yaml"}}, err
}

// parseEnv reads lines of a name and its value.
func parseEnv(text string) map[string]string {
	out := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			out[name] = strings.Trim(value, `"'`)
		}
	}
	return out
}

// joinsGPUs says that the fabric manager runs: as a unit of the host, or as a process where the driver is in a container or the host has
// no systemd.
func (h *host) joinsGPUs(ctx context.Context) (bool, error) {
	active, err := h.isActive(ctx, fabricManager)
	if active || err != nil && !lacksTool(err) || err == nil && h.driver().container() == "" {
		return active, err
	}
	pid, err := h.runs("nv-fabricmanage")
	return pid != "", err
}
