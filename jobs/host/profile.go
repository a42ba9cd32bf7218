package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"aegis.io/aegis/strict"
)

// expectation is what a node of a pool must have. A nil or zero value expects nothing.
type expectation struct {
	// GPUs is the number of GPUs.
	GPUs *int `yaml:"gpus"`
	// NVLinks is the number of active NVLinks of each GPU.
	NVLinks int `yaml:"nvlinks"`
	// NVLinkGBps is the least speed of a link.
	NVLinkGBps float64 `yaml:"nvlinkGBps"`
	// Persistence says that the persistence mode of every GPU must be on.
	Persistence bool `yaml:"persistence"`
	// DCGMDiag says that the short diagnosis of DCGM is run, which takes minutes.
	DCGMDiag bool `yaml:"dcgmDiag"`
	// IB is the number of RDMA devices whose ports have the link layer.
	IB *int `yaml:"ib"`
	// IBDevices names the devices that count; empty means all.
	IBDevices []string `yaml:"ibDevices"`
	// IBLinkLayer is InfiniBand or Ethernet.
	IBLinkLayer string `yaml:"ibLinkLayer"`
	// IBRateGbps is the least rate of a port.
	IBRateGbps float64 `yaml:"ibRateGbps"`
	// GPFS lists the file systems that must be mounted, by device or mount point.
	GPFS []string `yaml:"gpfs"`
	// CPUs is the number of CPUs that must be online.
	CPUs int `yaml:"cpus"`
	// MemoryGiB is the size of the memory.
	MemoryGiB float64 `yaml:"memoryGiB"`
	// Interfaces names the network interfaces that must be up.
	Interfaces []string `yaml:"interfaces"`
	// InterfaceMbps is the least speed of those.
	InterfaceMbps int `yaml:"interfaceMbps"`
	// APIServer is the name of the API server that must resolve. The default is that in the configuration of the kubelet.
	APIServer string `yaml:"apiServer"`
	// ReadOnlyRoot says that the root file system is meant to be read-only.
	ReadOnlyRoot bool `yaml:"readOnlyRoot"`
	// KubeletUnits and RuntimeUnits are the systemd units of which one must be active.
	KubeletUnits []string `yaml:"kubeletUnits"`
	RuntimeUnits []string `yaml:"runtimeUnits"`
	// Require names the checks that must not be skipped.
	Require []string `yaml:"require"`

	// bootID is the boot that must still be running, empty when any will do.
	bootID string
	// since is when the incident began; a crash before it is known already.
	since time.Time
}

// noProfile is the profile of a pool that has none: without a file it expects nothing.
const noProfile = "default"

// loadProfile reads the profile of the pool. One that somebody named and nobody wrote is an error: it would expect nothing.
func loadProfile(dir, name string) (*expectation, error) {
	e := new(expectation)
	file := filepath.Join(dir, name+".yaml")
	raw, err := os.ReadFile(file)
	if err != nil && (name != noProfile || !errors.Is(err, os.ErrNotExist)) {
		return nil, err
	}
	if err := decodeProfile(file, raw, e); err != nil {
		return nil, err
	}
	return e, nil
}

// CheckProfile says what is wrong with a profile. The checks that it requires may be a site's own, which only a host knows.
func CheckProfile(file string) error {
	raw, err := strict.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return decodeProfile(file, raw, new(expectation))
}

// ProfileFields are the fields of a profile.
func ProfileFields() []string {
	var fields []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[expectation]()) {
		if name := f.Tag.Get("yaml"); name != "" {
			fields = append(fields, name)
		}
	}
	return fields
}

func decodeProfile(file string, raw []byte, e *expectation) error {
	d := strict.NewDecoder(file)
	d.Aliases, d.Legacy = true, true
	if root, ok := d.Document(raw, ""); ok {
		d.Decode(root, e)
	}
	e.validate(d.FailAt)
	return d.Err()
}

// validate says which fields have a value that nothing can have.
func (e *expectation) validate(fail func(field, format string, args ...any)) {
	for _, n := range []struct {
		name  string
		value float64
	}{
		{"gpus", count(e.GPUs)},
		{"nvlinks", float64(e.NVLinks)},
		{"nvlinkGBps", e.NVLinkGBps},
		{"ib", count(e.IB)},
		{"ibRateGbps", e.IBRateGbps},
		{"cpus", float64(e.CPUs)},
		{"memoryGiB", e.MemoryGiB},
		{"interfaceMbps", float64(e.InterfaceMbps)},
	} {
		if n.value < 0 {
			fail(n.name, "%s is negative", n.name)
		}
	}
	switch e.IBLinkLayer {
	case "", "InfiniBand", "Ethernet":
	default:
		fail("ibLinkLayer", "ibLinkLayer %.64q: must be InfiniBand or Ethernet", e.IBLinkLayer)
	}
	if e.APIServer != "" && !hostName.MatchString(e.APIServer) {
		fail("apiServer", "apiServer %.64q: must be the name of a host, without port", e.APIServer)
	}
}

func count(n *int) float64 {
	if n == nil {
		return 0
	}
	return float64(*n)
}

// expects says that at least one is expected.
func expects(n *int) bool {
	return n != nil && *n > 0
}

// required returns the names of the checks that must not be skipped.
func (e *expectation) required() []string {
	names := append([]string{checkKubelet, checkRuntime}, e.Require...)
	if e.bootID != "" {
		names = append(names, checkBootID)
	}
	if expects(e.GPUs) || e.Persistence {
		names = append(names, checkGPUCount, checkGPUHealth)
	}
	if e.NVLinks > 0 || e.NVLinkGBps > 0 {
		names = append(names, checkNVLink)
	}
	if e.DCGMDiag {
		names = append(names, checkDCGM)
	}
	if !e.since.IsZero() {
		names = append(names, checkCrash)
	}
	if expects(e.IB) || len(e.IBDevices) > 0 {
		names = append(names, checkIB)
	}
	if len(e.GPFS) > 0 {
		names = append(names, checkGPFS)
	}
	if e.CPUs > 0 {
		names = append(names, checkCPU)
	}
	if e.MemoryGiB > 0 {
		names = append(names, checkMemory)
	}
	if len(e.Interfaces) > 0 || e.APIServer != "" {
		names = append(names, checkNetwork)
	}
	return names
}

// implied returns the names of the checks that hardware implies where it is there; without it, they say that there is nothing to check. They
// alone look for it: what looks at a device can hang.
func (h *host) implied(e *expectation) []string {
	names := []string{checkGPUCount, checkGPUHealth, checkRowRemap, checkSRAM, checkXID, checkNVLink}
	if e.impliesIB() {
		names = append(names, checkIB)
	}
	// A list that cannot be read implies the check, which then says so.
	if listed, err := h.listedGPFS(); err != nil || len(listed) > 0 {
		names = append(names, checkGPFS)
	}
	return names
}

// impliesIB says that an adapter implies its check: the profile does not say how many there are, or which.
func (e *expectation) impliesIB() bool { return e.IB == nil && len(e.IBDevices) == 0 }
