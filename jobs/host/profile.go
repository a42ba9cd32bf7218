package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"
)

// maxProfile is far above what any profile holds.
const maxProfile = 64 << 10

// expectation is what a node of a pool must have. A nil or zero value expects nothing.
type expectation struct {
	// GPUs is the number of GPUs.
	GPUs *int `json:"gpus"`
	// NVLinks is the number of active NVLinks of each GPU.
	NVLinks int `json:"nvlinks"`
	// NVLinkGBps is the least speed of a link.
	NVLinkGBps float64 `json:"nvlinkGBps"`
	// Persistence says that the persistence mode of every GPU must be on.
	Persistence bool `json:"persistence"`
	// DCGMDiag says that the short diagnosis of DCGM is run, which takes minutes.
	DCGMDiag bool `json:"dcgmDiag"`
	// IB is the number of RDMA devices whose ports have the link layer.
	IB *int `json:"ib"`
	// IBDevices names the devices that count; empty means all.
	IBDevices []string `json:"ibDevices"`
	// IBLinkLayer is InfiniBand or Ethernet.
	IBLinkLayer string `json:"ibLinkLayer"`
	// IBRateGbps is the least rate of a port.
	IBRateGbps float64 `json:"ibRateGbps"`
	// GPFS lists the file systems that must be mounted, by device or mount point.
	GPFS []string `json:"gpfs"`
	// CPUs is the number of CPUs that must be online.
	CPUs int `json:"cpus"`
	// MemoryGiB is the size of the memory.
	MemoryGiB float64 `json:"memoryGiB"`
	// Interfaces names the network interfaces that must be up.
	Interfaces []string `json:"interfaces"`
	// InterfaceMbps is the least speed of those.
	InterfaceMbps int `json:"interfaceMbps"`
	// APIServer is the name of the API server that must resolve. The default is that in the configuration of the kubelet.
	APIServer string `json:"apiServer"`
	// ReadOnlyRoot says that the root file system is meant to be read-only.
	ReadOnlyRoot bool `json:"readOnlyRoot"`
	// KubeletUnits and RuntimeUnits are the systemd units of which one must be active.
	KubeletUnits []string `json:"kubeletUnits"`
	RuntimeUnits []string `json:"runtimeUnits"`
	// Require names the checks that must not be skipped.
	Require []string `json:"require"`

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
	if err := decodeProfile(raw, e); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return e, nil
}

func decodeProfile(raw []byte, e *expectation) error {
	if len(raw) > maxProfile {
		return fmt.Errorf("is %d bytes long: at most %d are allowed", len(raw), maxProfile)
	}
	if err := yaml.UnmarshalStrict(raw, e); err != nil {
		return err
	}
	return e.validate()
}

func (e *expectation) validate() error {
	var errs []error
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
			errs = append(errs, fmt.Errorf("%s is negative", n.name))
		}
	}
	switch e.IBLinkLayer {
	case "", "InfiniBand", "Ethernet":
	default:
		errs = append(errs, fmt.Errorf("ibLinkLayer %.64q: must be InfiniBand or Ethernet", e.IBLinkLayer))
	}
	if e.APIServer != "" && !hostName.MatchString(e.APIServer) {
		errs = append(errs, fmt.Errorf("apiServer %.64q: must be the name of a host, without port", e.APIServer))
	}
	return errors.Join(errs...)
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
	if expects(e.GPUs) {
		names = append(names, checkGPUCount, checkGPUHealth)
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
	return names
}
