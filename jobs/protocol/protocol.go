// Package protocol is what a step Job and the operation that it runs on a node agree on: the names of the operations, their
// exit codes, and the report that they leave. It imports nothing of Kubernetes, because what runs as root on every node
// imports it.
package protocol

// The operations that a Job can run on a node.
const (
	ActionReboot      = "reboot"
	ActionShutdown    = "shutdown"
	ActionHealthcheck = "healthcheck"
	ActionRepair      = "repair"
	ActionRemedy      = "remedy"
	ActionDiagnose    = "diagnose"
)

// Actions returns the operations.
func Actions() []string {
	return []string{ActionReboot, ActionShutdown, ActionHealthcheck, ActionRepair, ActionRemedy, ActionDiagnose}
}

// NotAfterVariable is the environment variable with the time, as RFC 3339, after which an operation that changes the host may not be
// begun any more. Whoever ordered it has given up by then, and people may be at work on the node.
const NotAfterVariable = "AEGIS_NOT_AFTER"

// Changes reports whether the operation changes the host.
func Changes(action string) bool {
	switch action {
	case ActionReboot, ActionShutdown, ActionRepair, ActionRemedy:
		return true
	}
	return false
}

// The exit codes of an operation. Those that name hardware are also what an executable of a site may end with.
const (
	ExitOK       = 0
	ExitIB       = 1
	ExitGPU      = 2
	ExitGPFS     = 3
	ExitCPU      = 4
	ExitMemory   = 5
	ExitDisk     = 6
	ExitNetwork  = 7
	ExitRowRemap = 21
	ExitSRAM     = 22
	ExitGPUCheck = 23
	ExitNVLink   = 24
	// ExitUsage says that the arguments are wrong, so that nothing was done.
	ExitUsage = 64
	// ExitUnknown says that it could not be found out, or not be done: a required check could not be made or read.
	ExitUnknown = 70
	// ExitSkipped says that there is nothing on the node to check, or to do it with, such as a repair that no site has configured.
	ExitSkipped = 75
)

// The hardware that a report names.
const (
	HardwareGPU     = "gpu"
	HardwareIB      = "ib"
	HardwareGPFS    = "gpfs"
	HardwareCPU     = "cpu"
	HardwareMemory  = "memory"
	HardwareDisk    = "disk"
	HardwareNetwork = "network"
)

// HardwareOf returns the hardware that an exit code stands for, nothing for a code that stands for none.
func HardwareOf(code int) string {
	switch code {
	case ExitIB:
		return HardwareIB
	case ExitGPU, ExitRowRemap, ExitSRAM, ExitGPUCheck, ExitNVLink:
		return HardwareGPU
	case ExitGPFS:
		return HardwareGPFS
	case ExitCPU:
		return HardwareCPU
	case ExitMemory:
		return HardwareMemory
	case ExitDisk:
		return HardwareDisk
	case ExitNetwork:
		return HardwareNetwork
	}
	return ""
}

// Conclusive reports whether an operation that ended with the code says something about the node. One that was called wrongly,
// was skipped or could not find out says nothing, good or bad.
func Conclusive(code int) bool {
	switch code {
	case ExitUsage, ExitUnknown, ExitSkipped:
		return false
	}
	return code >= 0
}
