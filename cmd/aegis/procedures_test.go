package main

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// What is done about each condition of the catalogue, three ways. Every step went well unless its word says otherwise: failed, or
// canceled, which is a step that was not needed any more or could not be carried out.

// The ways in which an incident may go.
const (
	happy      = "happy"      // The first repair helps; where nothing is repaired, the fault goes away by itself.
	failing    = "failing"    // The first repair does not help, or the way to it is barred.
	escalation = "escalation" // Nothing helps, and the fault stays.
)

// Parts of most procedures.
const (
	isolate = "cordon, diagnose, "
	fit     = "verify, healthcheck, uncordon"
)

const (
	// soon is while the node is being diagnosed.
	soon = 30 * time.Second
	// alertTime is when the alert of an event ends.
	alertTime = 15 * time.Minute
)

// incident is a row: how a condition goes one way.
type incident struct {
	condition string
	way       string
	story     story
	// steps are those of the ticket that was written last, end is how the incidents ended.
	steps, end string
}

func incidents() []incident {
	return []incident{
		// The node as a whole.
		{"NodeNotReady", happy, story{after: soon}, "wait", "resolved"},
		{"NodeNotReady", failing, story{after: 40 * time.Minute}, "wait failed, cordon, wait, diagnose, healthcheck, uncordon", "resolved"},
		{"NodeNotReady", escalation, story{}, "wait failed, cordon, wait failed, handover", "handed over to host"},
		{"NodeInhibitAll", happy, story{after: soon}, "healthcheck, uncordon", "resolved"},
		{"NodeInhibitAll", failing, story{broken: 2, cure: "reboot"}, "healthcheck failed, " + isolate + "drain, reboot, " + fit, "resolved"},
		{"NodeInhibitAll", escalation, story{broken: 2}, "healthcheck failed, " + isolate + "drain, reboot, verify, healthcheck failed, reboot, verify, healthcheck failed, shutdown, handover", "handed over to gpu, powered off"},
		{"NodeCordon", happy, story{cure: "healthcheck"}, "healthcheck, uncordon", "resolved"},
		{"NodeCordon", failing, story{broken: 2, cure: "reboot"}, "healthcheck failed, " + isolate + "drain, reboot, " + fit, "resolved"},
		{"NodeCordon", escalation, story{broken: 2}, "healthcheck failed, " + isolate + "drain, reboot, verify, healthcheck failed, reboot, verify, healthcheck failed, shutdown, handover", "handed over to gpu, powered off"},
		{"NodeFrequentDown", happy, story{cure: "reboot"}, isolate + "drain, reboot, " + fit, "resolved"},
		{"NodeFrequentDown", failing, story{fails: "reboot"}, isolate + "drain, reboot failed, handover", "handed over to host"},
		{"NodeFrequentDown", escalation, story{}, isolate + "drain, reboot, verify failed, handover", "handed over to host"},
		{"KubeletFailedCreatePodContainer", happy, story{cure: "RestartKubelet"}, isolate + "remedy, " + fit, "resolved"},
		{"KubeletFailedCreatePodContainer", failing, story{fails: "RestartKubelet", cure: "RestartKubelet", at: 2}, isolate + "remedy failed, remedy, " + fit, "resolved"},
		{"KubeletFailedCreatePodContainer", escalation, story{}, isolate + "remedy, verify failed, remedy, verify failed, drain, reboot, verify failed, handover", "handed over to k8s"},
		{"NodeHasTerminatingPod", happy, story{after: 2 * time.Hour}, isolate + fit, "resolved"},
		{"NodeHasTerminatingPod", failing, story{after: 2 * time.Hour, fails: "diagnose"}, "cordon, diagnose failed, " + fit, "resolved"},
		{"NodeHasTerminatingPod", escalation, story{}, isolate + "verify failed, handover", "handed over to k8s"},
		{"NodeHasRestarted", happy, story{after: soon}, "", "noted"},
		{"NodeHasRestarted", failing, story{}, "", "noted"},
		{"NodeHasRestarted", escalation, story{again: 25 * time.Hour}, "", "noted, noted"},
		// Processors, memory and disks.
		{"CPUPressure", happy, story{after: 30 * time.Minute}, "cordon, verify, uncordon", "resolved"},
		{"CPUPressure", failing, story{after: 30 * time.Minute, busy: true, full: true}, "verify", "resolved"},
		{"CPUPressure", escalation, story{}, "cordon, verify failed, handover", "handed over to k8s"},
		{"CpuUnhealthy", happy, story{after: soon}, isolate + "drain canceled, " + fit, "resolved"},
		{"CpuUnhealthy", failing, story{busy: true, held: true}, isolate + "drain failed, handover", "handed over to k8s"},
		{"CpuUnhealthy", escalation, story{}, isolate + "drain, shutdown, handover", "handed over to host, powered off"},
		{"KubeletMemoryPressure", happy, story{cure: "DropCache"}, "remedy, verify", "resolved"},
		{"KubeletMemoryPressure", failing, story{fails: "DropCache", after: 30 * time.Minute}, "remedy failed, cordon, verify, uncordon", "resolved"},
		{"KubeletMemoryPressure", escalation, story{}, "remedy, verify failed, cordon, verify failed, handover", "handed over to k8s"},
		{"MemoryPressure", happy, story{after: 30 * time.Minute}, "cordon, verify, uncordon", "resolved"},
		{"MemoryPressure", failing, story{after: 30 * time.Minute, busy: true, full: true}, "verify", "resolved"},
		{"MemoryPressure", escalation, story{}, "cordon, verify failed, handover", "handed over to k8s"},
		{"MemoryUnhealthy", happy, story{after: soon}, isolate + "drain canceled, " + fit, "resolved"},
		{"MemoryUnhealthy", failing, story{busy: true, held: true}, isolate + "drain failed, handover", "handed over to k8s"},
		{"MemoryUnhealthy", escalation, story{}, isolate + "drain, shutdown, handover", "handed over to host, powered off"},
		{"DiskPressure", happy, story{cure: "PruneImages"}, "cordon, remedy, verify, uncordon", "resolved"},
		{"DiskPressure", failing, story{fails: "PruneImages", after: 3 * time.Hour}, "cordon, remedy failed, verify, uncordon", "resolved"},
		{"DiskPressure", escalation, story{}, "cordon, remedy, verify failed, handover", "handed over to k8s"},
		{"DiskUnhealthy", happy, story{after: soon}, isolate + "drain canceled, " + fit, "resolved"},
		{"DiskUnhealthy", failing, story{busy: true, held: true}, isolate + "drain failed, handover", "handed over to k8s"},
		{"DiskUnhealthy", escalation, story{}, isolate + "drain, handover", "handed over to storage"},
		// GPFS. Pods that use a dead file system hang, so it is repaired under them.
		{"GpfsDown", happy, story{cure: "StartGpfs"}, isolate + "repair, " + fit, "resolved"},
		{"GpfsDown", failing, story{fails: "StartGpfs", cure: "StartGpfs", at: 2}, isolate + "repair failed, repair, " + fit, "resolved"},
		{"GpfsDown", escalation, story{}, isolate + "repair, verify failed, repair, verify failed, handover", "handed over to storage"},
		{"GpfsNotStarted", happy, story{cure: "StartGpfs"}, isolate + "repair, " + fit, "resolved"},
		{"GpfsNotStarted", failing, story{fails: "StartGpfs", cure: "StartGpfs", at: 2}, isolate + "repair failed, repair, " + fit, "resolved"},
		{"GpfsNotStarted", escalation, story{}, isolate + "repair, verify failed, repair, verify failed, handover", "handed over to storage"},
		{"GpfsInactive", happy, story{cure: "StartGpfs"}, isolate + "repair, " + fit, "resolved"},
		{"GpfsInactive", failing, story{fails: "StartGpfs"}, isolate + "repair failed, handover", "handed over to storage"},
		{"GpfsInactive", escalation, story{}, isolate + "repair, verify failed, handover", "handed over to storage"},
		{"GpfsMountLost", happy, story{cure: "MountGpfs"}, isolate + "repair, " + fit, "resolved"},
		{"GpfsMountLost", failing, story{fails: "MountGpfs", cure: "MountGpfs", at: 2}, isolate + "repair failed, repair, " + fit, "resolved"},
		{"GpfsMountLost", escalation, story{}, isolate + "repair, verify failed, repair, verify failed, drain, reboot, verify failed, handover", "handed over to storage"},
		{"GpfsNotMounted", happy, story{cure: "MountGpfs"}, isolate + "repair, " + fit, "resolved"},
		{"GpfsNotMounted", failing, story{fails: "MountGpfs", cure: "MountGpfs", at: 2}, isolate + "repair failed, repair, " + fit, "resolved"},
		{"GpfsNotMounted", escalation, story{}, isolate + "repair, verify failed, repair, verify failed, drain, reboot, verify failed, handover", "handed over to storage"},
		{"GpfsThreadDeadlock", happy, story{after: soon}, "", "noted"},
		{"GpfsThreadDeadlock", failing, story{}, "", "noted"},
		{"GpfsThreadDeadlock", escalation, story{again: 25 * time.Hour}, "", "noted, noted"},
		{"GpfsTestFailed", happy, story{after: 2 * time.Hour}, isolate + fit, "resolved"},
		{"GpfsTestFailed", failing, story{after: 2 * time.Hour, fails: "diagnose"}, "cordon, diagnose failed, " + fit, "resolved"},
		{"GpfsTestFailed", escalation, story{}, isolate + "verify failed, handover", "handed over to storage"},
		{"GpfsIBNotConfig", happy, story{after: soon}, isolate + fit, "resolved"},
		{"GpfsIBNotConfig", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to storage"},
		{"GpfsIBNotConfig", escalation, story{}, isolate + "handover", "handed over to storage"},
		{"GpfsRdmaError", happy, story{after: soon}, isolate + fit, "resolved"},
		{"GpfsRdmaError", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to storage"},
		{"GpfsRdmaError", escalation, story{}, isolate + "handover", "handed over to storage"},
		{"GpfsNodeNotHealthy", happy, story{after: soon}, isolate + fit, "resolved"},
		{"GpfsNodeNotHealthy", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to storage"},
		{"GpfsNodeNotHealthy", escalation, story{}, isolate + "handover", "handed over to storage"},
		{"GpfsNotInCluster", happy, story{after: soon}, isolate + fit, "resolved"},
		{"GpfsNotInCluster", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to storage"},
		{"GpfsNotInCluster", escalation, story{}, isolate + "handover", "handed over to storage"},
		{"GpfsNotInstalled", happy, story{after: soon}, isolate + fit, "resolved"},
		{"GpfsNotInstalled", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to storage"},
		{"GpfsNotInstalled", escalation, story{}, isolate + "handover", "handed over to storage"},
		// GPUs.
		{"GpuHung", happy, story{cure: "reboot"}, isolate + "drain, reboot, " + fit, "resolved"},
		{"GpuHung", failing, story{cure: "reboot", at: 2}, isolate + "drain, reboot, verify failed, reboot, " + fit, "resolved"},
		{"GpuHung", escalation, story{}, isolate + "drain, reboot, verify failed, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"},
		{"GpuDown", happy, story{cure: "reboot"}, isolate + "drain, reboot, " + fit, "resolved"},
		{"GpuDown", failing, story{cure: "reboot", at: 2}, isolate + "drain, reboot, verify failed, reboot, " + fit, "resolved"},
		{"GpuDown", escalation, story{}, isolate + "drain, reboot, verify failed, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"},
		{"GpuCheckFailed", happy, story{cure: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved"},
		{"GpuCheckFailed", failing, story{fails: "ResetGPU", cure: "reboot"}, isolate + "draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"GpuCheckFailed", escalation, story{}, isolate + "draingpu, reset, verify failed, drain, reboot, verify failed, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"},
		{"GpuNvlinkInactive", happy, story{cure: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved"},
		{"GpuNvlinkInactive", failing, story{fails: "ResetGPU", cure: "reboot"}, isolate + "draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"GpuNvlinkInactive", escalation, story{}, isolate + "draingpu, reset, verify failed, drain, reboot, verify failed, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"},
		{"GpuNvlinkError", happy, story{cure: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved"},
		{"GpuNvlinkError", failing, story{fails: "ResetGPU", cure: "reboot"}, isolate + "draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"GpuNvlinkError", escalation, story{}, isolate + "draingpu, reset, verify failed, drain, reboot, verify failed, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"},
		{"GpuErrResetRequired", happy, story{cure: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved"},
		{"GpuErrResetRequired", failing, story{fails: "ResetGPU", cure: "reboot"}, isolate + "draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"GpuErrResetRequired", escalation, story{}, isolate + "draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"},
		{"GpuVolSramUncorrectable", happy, story{cure: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved"},
		{"GpuVolSramUncorrectable", failing, story{fails: "ResetGPU", cure: "reboot"}, isolate + "draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"GpuVolSramUncorrectable", escalation, story{}, isolate + "draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"},
		{"GpuRowRemappingPending", happy, story{cure: "ResetGPU"}, isolate + "waitidle, draingpu, reset, " + fit, "resolved"},
		{"GpuRowRemappingPending", failing, story{fails: "ResetGPU", cure: "reboot"}, isolate + "waitidle, draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"GpuRowRemappingPending", escalation, story{}, isolate + "waitidle, draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"},
		{"GpuVolDramUncorrectable", happy, story{cure: "ResetGPU"}, isolate + "waitidle, draingpu, reset, " + fit, "resolved"},
		{"GpuVolDramUncorrectable", failing, story{fails: "ResetGPU", cure: "reboot"}, isolate + "waitidle, draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"GpuVolDramUncorrectable", escalation, story{}, isolate + "waitidle, draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"},
		{"GpuRowRemappingFailure", happy, story{after: soon}, isolate + "drain canceled, " + fit, "resolved"},
		{"GpuRowRemappingFailure", failing, story{busy: true, held: true}, isolate + "drain failed, handover", "handed over to k8s"},
		{"GpuRowRemappingFailure", escalation, story{}, isolate + "drain, shutdown, handover", "handed over to gpu, powered off"},
		{"GpuAggSramUncorrectable", happy, story{after: soon}, isolate + "drain canceled, " + fit, "resolved"},
		{"GpuAggSramUncorrectable", failing, story{busy: true, held: true}, isolate + "drain failed, handover", "handed over to k8s"},
		{"GpuAggSramUncorrectable", escalation, story{}, isolate + "drain, shutdown, handover", "handed over to gpu, powered off"},
		{"GpuTooManyPageRetired", happy, story{after: soon}, isolate + "drain canceled, " + fit, "resolved"},
		{"GpuTooManyPageRetired", failing, story{busy: true, held: true}, isolate + "drain failed, handover", "handed over to k8s"},
		{"GpuTooManyPageRetired", escalation, story{}, isolate + "drain, handover", "handed over to gpu"},
		{"NvidiaFabricManagerNotActive", happy, story{cure: "RestartFabricManager"}, isolate + "draingpu, remedy, " + fit, "resolved"},
		{"NvidiaFabricManagerNotActive", failing, story{fails: "RestartFabricManager", cure: "RestartFabricManager", at: 2}, isolate + "draingpu, remedy failed, remedy, " + fit, "resolved"},
		{"NvidiaFabricManagerNotActive", escalation, story{}, isolate + "draingpu, remedy, verify failed, remedy, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"},
		{"GpuPersistenceModeNotEnabled", happy, story{cure: "EnableGpuPersistence"}, "remedy, verify", "resolved"},
		{"GpuPersistenceModeNotEnabled", failing, story{fails: "EnableGpuPersistence", cure: "EnableGpuPersistence", at: 2}, "remedy failed, remedy, verify", "resolved"},
		{"GpuPersistenceModeNotEnabled", escalation, story{}, "remedy, verify failed, remedy, verify failed, " + isolate + "handover", "handed over to gpu"},
		{"GpuSmClkSlowDown", happy, story{cure: "reboot"}, isolate + "waitidle, reboot, " + fit, "resolved"},
		{"GpuSmClkSlowDown", failing, story{busy: true}, isolate + "waitidle failed, handover", "handed over to gpu"},
		{"GpuSmClkSlowDown", escalation, story{}, isolate + "waitidle, reboot, verify failed, handover", "handed over to gpu"},
		{"GpuPcieLinkDegraded", happy, story{cure: "reboot"}, isolate + "waitidle, reboot, " + fit, "resolved"},
		{"GpuPcieLinkDegraded", failing, story{busy: true}, isolate + "waitidle failed, handover", "handed over to gpu"},
		{"GpuPcieLinkDegraded", escalation, story{}, isolate + "waitidle, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"},
		{"GpuP2PNotSupported", happy, story{cure: "reboot"}, isolate + "waitidle, reboot, " + fit, "resolved"},
		{"GpuP2PNotSupported", failing, story{busy: true}, isolate + "waitidle failed, handover", "handed over to gpu"},
		{"GpuP2PNotSupported", escalation, story{}, isolate + "waitidle, reboot, verify failed, handover", "handed over to gpu"},
		{"GpuHWSlowdown", happy, story{after: soon}, isolate + fit, "resolved"},
		{"GpuHWSlowdown", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to gpu"},
		{"GpuHWSlowdown", escalation, story{}, isolate + "handover", "handed over to gpu"},
		{"GpuIbgdaNotEnabled", happy, story{after: soon}, isolate + fit, "resolved"},
		{"GpuIbgdaNotEnabled", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to gpu"},
		{"GpuIbgdaNotEnabled", escalation, story{}, isolate + "handover", "handed over to gpu"},
		{"GpuRegisterFailed", happy, story{cure: "restartpod"}, "restartpod, verify", "resolved"},
		{"GpuRegisterFailed", failing, story{cure: "restartpod", at: 2}, "restartpod, verify failed, restartpod, verify", "resolved"},
		{"GpuRegisterFailed", escalation, story{}, "restartpod, verify failed, restartpod, verify failed, " + isolate + "drain, reboot, verify failed, handover", "handed over to gpu"},
		{"GpuMetricsHang", happy, story{cure: "restartpod"}, "restartpod, verify", "resolved"},
		{"GpuMetricsHang", failing, story{bare: true}, "restartpod failed, handover", "handed over to k8s"},
		{"GpuMetricsHang", escalation, story{}, "restartpod, verify failed, handover", "handed over to k8s"},
		{"HighGpuTemp", happy, story{after: soon}, "", "noted"},
		{"HighGpuTemp", failing, story{}, "", "noted"},
		{"HighGpuTemp", escalation, story{again: 25 * time.Hour}, "", "noted, noted"},
		{"HighGpuMemoryTemp", happy, story{after: soon}, "", "noted"},
		{"HighGpuMemoryTemp", failing, story{}, "", "noted"},
		{"HighGpuMemoryTemp", escalation, story{again: 25 * time.Hour}, "", "noted, noted"},
		{"GpuVolDramCorrectable", happy, story{after: soon}, "", "noted"},
		{"GpuVolDramCorrectable", failing, story{}, "", "noted"},
		{"GpuVolDramCorrectable", escalation, story{again: 25 * time.Hour}, "", "noted, noted"},
		// XIDs, each with its usual code.
		{"Xid79GPULost", happy, story{cure: "reboot"}, isolate + "drain, reboot, " + fit, "resolved"},
		{"Xid79GPULost", failing, story{fails: "reboot"}, isolate + "drain, reboot failed, handover", "handed over to gpu"},
		{"Xid79GPULost", escalation, story{}, isolate + "drain, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"},
		{"Xid74NVLinkError", happy, story{cure: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved"},
		{"Xid74NVLinkError", failing, story{fails: "ResetGPU", cure: "reboot"}, isolate + "draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"Xid74NVLinkError", escalation, story{}, isolate + "draingpu, reset, verify failed, drain, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"},
		{"XIDHWSystemErr", happy, story{cure: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved"},
		{"XIDHWSystemErr", failing, story{fails: "ResetGPU", cure: "reboot"}, isolate + "draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"XIDHWSystemErr", escalation, story{}, isolate + "draingpu, reset, verify failed, drain, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"},
		{"Xid95UncontainedECCError", happy, story{cure: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved"},
		{"Xid95UncontainedECCError", failing, story{fails: "ResetGPU", cure: "reboot"}, isolate + "draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"Xid95UncontainedECCError", escalation, story{}, isolate + "draingpu, reset, verify failed, drain, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"},
		{"XIDECCMemoryErr", happy, story{cure: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved"},
		{"XIDECCMemoryErr", failing, story{fails: "ResetGPU", cure: "reboot"}, isolate + "draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"XIDECCMemoryErr", escalation, story{}, isolate + "draingpu, reset, verify failed, drain, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"},
		{"Xid48GPUMemoryDBE", happy, story{cure: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved"},
		{"Xid48GPUMemoryDBE", failing, story{fails: "ResetGPU", cure: "reboot"}, isolate + "draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"Xid48GPUMemoryDBE", escalation, story{}, isolate + "draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"},
		{"GpuXidResetRequired", happy, story{xid: 119, cure: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved"},
		{"GpuXidResetRequired", failing, story{xid: 119, fails: "ResetGPU", cure: "reboot"}, isolate + "draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"GpuXidResetRequired", escalation, story{xid: 119}, isolate + "draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"},
		{"Xid63ECCRowremapperPending", happy, story{cure: "ResetGPU"}, isolate + "waitidle, draingpu, reset, " + fit, "resolved"},
		{"Xid63ECCRowremapperPending", failing, story{fails: "ResetGPU", cure: "reboot"}, isolate + "waitidle, draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"Xid63ECCRowremapperPending", escalation, story{}, isolate + "waitidle, draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"},
		{"Xid94ContainedECCError", happy, story{cure: "ResetGPU"}, isolate + "waitidle, draingpu, reset, " + fit, "resolved"},
		{"Xid94ContainedECCError", failing, story{fails: "ResetGPU", cure: "reboot"}, isolate + "waitidle, draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"Xid94ContainedECCError", escalation, story{}, isolate + "waitidle, draingpu, reset, verify failed, drain, reboot, verify failed, handover", "handed over to gpu"},
		{"Xid64ECCRowremapperFailure", happy, story{cure: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved"},
		{"Xid64ECCRowremapperFailure", failing, story{fails: "ResetGPU"}, isolate + "draingpu, reset failed, drain, shutdown, handover", "handed over to gpu, powered off"},
		{"Xid64ECCRowremapperFailure", escalation, story{}, isolate + "draingpu, reset, verify failed, drain, shutdown, handover", "handed over to gpu, powered off"},
		{"GpuXidRebootRequired", happy, story{xid: 167, cure: "reboot"}, isolate + "drain, reboot, " + fit, "resolved"},
		{"GpuXidRebootRequired", failing, story{xid: 167, fails: "reboot"}, isolate + "drain, reboot failed, handover", "handed over to gpu"},
		{"GpuXidRebootRequired", escalation, story{xid: 167}, isolate + "drain, reboot, verify failed, shutdown, handover", "handed over to gpu, powered off"},
		{"GpuXidRecoveryAction", happy, story{asks: "GPU Reset Required", cure: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved"},
		{"GpuXidRecoveryAction", failing, story{asks: "GPU Reset Required", fails: "ResetGPU", cure: "reboot"}, isolate + "draingpu, reset failed, drain, reboot, " + fit, "resolved"},
		{"GpuXidRecoveryAction", escalation, story{}, isolate + "draingpu, handover", "handed over to gpu"},
		{"Xid92HighSingleBitECCErrorRate", happy, story{after: soon}, "", "noted"},
		{"Xid92HighSingleBitECCErrorRate", failing, story{}, "", "noted"},
		{"Xid92HighSingleBitECCErrorRate", escalation, story{again: 25 * time.Hour}, "", "noted, noted"},
		{"XIDUnclassifiedErr", happy, story{xid: 54, after: 30 * time.Minute}, "diagnose, healthcheck, handover", "withdrawn"},
		{"XIDUnclassifiedErr", failing, story{xid: 54}, "diagnose, healthcheck, handover", "handed over to gpu"},
		{"XIDUnclassifiedErr", escalation, story{xid: 54, broken: 23}, "diagnose, healthcheck failed, cordon, handover", "handed over to gpu"},
		// InfiniBand.
		{"IBLost", happy, story{after: soon}, isolate + "drain canceled, " + fit, "resolved"},
		{"IBLost", failing, story{busy: true, held: true}, isolate + "drain failed, handover", "handed over to k8s"},
		{"IBLost", escalation, story{}, isolate + "drain, handover", "handed over to network"},
		{"IBModuleLost", happy, story{after: soon}, isolate + "drain canceled, " + fit, "resolved"},
		{"IBModuleLost", failing, story{busy: true, held: true}, isolate + "drain failed, handover", "handed over to k8s"},
		{"IBModuleLost", escalation, story{}, isolate + "drain, handover", "handed over to network"},
		{"IBDown", happy, story{after: soon}, isolate + "drain canceled, " + fit, "resolved"},
		{"IBDown", failing, story{busy: true, held: true}, isolate + "drain failed, handover", "handed over to k8s"},
		{"IBDown", escalation, story{}, isolate + "drain, handover", "handed over to network"},
		{"IBLinkAbnormal", happy, story{after: soon}, isolate + "drain canceled, " + fit, "resolved"},
		{"IBLinkAbnormal", failing, story{busy: true, held: true}, isolate + "drain failed, handover", "handed over to k8s"},
		{"IBLinkAbnormal", escalation, story{}, isolate + "drain, handover", "handed over to network"},
		{"IBNetDriverFailedLoad", happy, story{cure: "ReloadIBDriver"}, isolate + "drain, remedy, " + fit, "resolved"},
		{"IBNetDriverFailedLoad", failing, story{fails: "ReloadIBDriver"}, isolate + "drain, remedy failed, handover", "handed over to network"},
		{"IBNetDriverFailedLoad", escalation, story{}, isolate + "drain, remedy, verify failed, handover", "handed over to network"},
		{"IBPCIeMRRNotAlign", happy, story{after: soon}, isolate + fit, "resolved"},
		{"IBPCIeMRRNotAlign", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"},
		{"IBPCIeMRRNotAlign", escalation, story{}, isolate + "handover", "handed over to network"},
		{"IBProtocolAbnormal", happy, story{after: soon}, isolate + fit, "resolved"},
		{"IBProtocolAbnormal", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"},
		{"IBProtocolAbnormal", escalation, story{}, isolate + "handover", "handed over to network"},
		{"IBPortSpeedAbnormal", happy, story{after: soon}, isolate + "waitidle, " + fit, "resolved"},
		{"IBPortSpeedAbnormal", failing, story{busy: true}, isolate + "waitidle failed, handover", "handed over to network"},
		{"IBPortSpeedAbnormal", escalation, story{}, isolate + "waitidle, handover", "handed over to network"},
		{"IBLinkFrequentDown", happy, story{after: soon}, isolate + "waitidle, " + fit, "resolved"},
		{"IBLinkFrequentDown", failing, story{busy: true}, isolate + "waitidle failed, handover", "handed over to network"},
		{"IBLinkFrequentDown", escalation, story{}, isolate + "waitidle, handover", "handed over to network"},
		{"IBPCIeSpeedAbnormal", happy, story{cure: "reboot"}, isolate + "waitidle, reboot, " + fit, "resolved"},
		{"IBPCIeSpeedAbnormal", failing, story{busy: true}, isolate + "waitidle failed, handover", "handed over to network"},
		{"IBPCIeSpeedAbnormal", escalation, story{}, isolate + "waitidle, reboot, verify failed, handover", "handed over to network"},
		{"IBPCIeWidthAbnormal", happy, story{cure: "reboot"}, isolate + "waitidle, reboot, " + fit, "resolved"},
		{"IBPCIeWidthAbnormal", failing, story{busy: true}, isolate + "waitidle failed, handover", "handed over to network"},
		{"IBPCIeWidthAbnormal", escalation, story{}, isolate + "waitidle, reboot, verify failed, handover", "handed over to network"},
		{"IBRegisterFailed", happy, story{cure: "restartpod"}, "restartpod, verify", "resolved"},
		{"IBRegisterFailed", failing, story{cure: "restartpod", at: 2}, "restartpod, verify failed, restartpod, verify", "resolved"},
		{"IBRegisterFailed", escalation, story{}, "restartpod, verify failed, restartpod, verify failed, " + isolate + "drain, reboot, verify failed, handover", "handed over to network"},
		{"IBReceivedError", happy, story{after: soon}, "", "noted"},
		{"IBReceivedError", failing, story{}, "", "noted"},
		{"IBReceivedError", escalation, story{again: 25 * time.Hour}, "", "noted, noted"},
		{"IBTransmittedError", happy, story{after: soon}, "", "noted"},
		{"IBTransmittedError", failing, story{}, "", "noted"},
		{"IBTransmittedError", escalation, story{again: 25 * time.Hour}, "", "noted, noted"},
		{"IBSymbolError", happy, story{after: soon}, "", "noted"},
		{"IBSymbolError", failing, story{}, "", "noted"},
		{"IBSymbolError", escalation, story{again: 25 * time.Hour}, "", "noted, noted"},
		// RoCE.
		{"RoceDeviceBroken", happy, story{after: soon}, isolate + "drain canceled, " + fit, "resolved"},
		{"RoceDeviceBroken", failing, story{busy: true, held: true}, isolate + "drain failed, handover", "handed over to k8s"},
		{"RoceDeviceBroken", escalation, story{}, isolate + "drain, handover", "handed over to network"},
		{"RoceHostOffline", happy, story{after: 30 * time.Minute}, isolate + fit, "resolved"},
		{"RoceHostOffline", failing, story{busy: true, held: true}, isolate + "verify failed, drain failed, handover", "handed over to k8s"},
		{"RoceHostOffline", escalation, story{}, isolate + "verify failed, drain, handover", "handed over to network"},
		{"RoceHostGatewayNotMatch", happy, story{after: soon}, isolate + fit, "resolved"},
		{"RoceHostGatewayNotMatch", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"},
		{"RoceHostGatewayNotMatch", escalation, story{}, isolate + "handover", "handed over to network"},
		{"RoceHostRouteMiss", happy, story{after: soon}, isolate + fit, "resolved"},
		{"RoceHostRouteMiss", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"},
		{"RoceHostRouteMiss", escalation, story{}, isolate + "handover", "handed over to network"},
		{"RocePodOffline", happy, story{after: soon}, isolate + fit, "resolved"},
		{"RocePodOffline", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"},
		{"RocePodOffline", escalation, story{}, isolate + "handover", "handed over to network"},
		{"RocePodGatewayNotMatch", happy, story{after: soon}, isolate + fit, "resolved"},
		{"RocePodGatewayNotMatch", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"},
		{"RocePodGatewayNotMatch", escalation, story{}, isolate + "handover", "handed over to network"},
		{"RoceVfDeviceMiss", happy, story{after: soon}, isolate + fit, "resolved"},
		{"RoceVfDeviceMiss", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"},
		{"RoceVfDeviceMiss", escalation, story{}, isolate + "handover", "handed over to network"},
		{"RoceSriovInitError", happy, story{after: soon}, isolate + fit, "resolved"},
		{"RoceSriovInitError", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"},
		{"RoceSriovInitError", escalation, story{}, isolate + "handover", "handed over to network"},
		{"RoceNodeLabelMiss", happy, story{after: 30 * time.Minute}, "verify", "resolved"},
		{"RoceNodeLabelMiss", failing, story{}, "verify failed, handover", "handed over to k8s"},
		{"RoceNodeLabelMiss", escalation, story{again: time.Hour}, "verify failed, handover", "withdrawn, handed over to k8s"},
		{"RoceNodeUnitLabelMiss", happy, story{after: 30 * time.Minute}, "verify", "resolved"},
		{"RoceNodeUnitLabelMiss", failing, story{}, "verify failed, handover", "handed over to k8s"},
		{"RoceNodeUnitLabelMiss", escalation, story{again: time.Hour}, "verify failed, handover", "withdrawn, handed over to k8s"},
		{"RoceNodePfNamesLabelMiss", happy, story{after: 30 * time.Minute}, "verify", "resolved"},
		{"RoceNodePfNamesLabelMiss", failing, story{}, "verify failed, handover", "handed over to k8s"},
		{"RoceNodePfNamesLabelMiss", escalation, story{again: time.Hour}, "verify failed, handover", "withdrawn, handed over to k8s"},
		{"RoceNodeResourceLabelMiss", happy, story{after: 30 * time.Minute}, "verify", "resolved"},
		{"RoceNodeResourceLabelMiss", failing, story{}, "verify failed, handover", "handed over to k8s"},
		{"RoceNodeResourceLabelMiss", escalation, story{again: time.Hour}, "verify failed, handover", "withdrawn, handed over to k8s"},
		{"RoceNodeNetworkLabelMiss", happy, story{after: 30 * time.Minute}, "verify", "resolved"},
		{"RoceNodeNetworkLabelMiss", failing, story{}, "verify failed, handover", "handed over to k8s"},
		{"RoceNodeNetworkLabelMiss", escalation, story{again: time.Hour}, "verify failed, handover", "withdrawn, handed over to k8s"},
		{"RoceNodeResourceMiss", happy, story{cure: "restartpod"}, "restartpod, verify", "resolved"},
		{"RoceNodeResourceMiss", failing, story{cure: "restartpod", at: 2}, "restartpod, verify failed, restartpod, verify", "resolved"},
		{"RoceNodeResourceMiss", escalation, story{}, "restartpod, verify failed, restartpod, verify failed, " + isolate + "drain, reboot, verify failed, handover", "handed over to network"},
		{"RoceRegisterFailed", happy, story{cure: "restartpod"}, "restartpod, verify", "resolved"},
		{"RoceRegisterFailed", failing, story{cure: "restartpod", at: 2}, "restartpod, verify failed, restartpod, verify", "resolved"},
		{"RoceRegisterFailed", escalation, story{}, "restartpod, verify failed, restartpod, verify failed, " + isolate + "drain, reboot, verify failed, handover", "handed over to network"},
		// Ethernet.
		{"NetworkLinkDown", happy, story{after: 30 * time.Minute}, "handover", "withdrawn"},
		{"NetworkLinkDown", failing, story{}, "handover", "handed over to network"},
		{"NetworkLinkDown", escalation, story{again: time.Hour}, "handover", "withdrawn, handed over to network"},
		{"NetworkLinkFrequentDown", happy, story{after: soon}, isolate + fit, "resolved"},
		{"NetworkLinkFrequentDown", failing, story{fails: "diagnose"}, "cordon, diagnose failed, handover", "handed over to network"},
		{"NetworkLinkFrequentDown", escalation, story{}, isolate + "handover", "handed over to network"},
		{"ICETxTimeout", happy, story{cure: "reboot"}, isolate + "drain, reboot, " + fit, "resolved"},
		{"ICETxTimeout", failing, story{fails: "reboot"}, isolate + "drain, reboot failed, handover", "handed over to network"},
		{"ICETxTimeout", escalation, story{}, isolate + "drain, reboot, verify failed, handover", "handed over to network"},
		{"GatewayUnreachable", happy, story{after: soon}, "", "noted"},
		{"GatewayUnreachable", failing, story{}, "", "noted"},
		{"GatewayUnreachable", escalation, story{again: 25 * time.Hour}, "", "noted, noted"},
		// Processes, nvidia-peermem, the baseboard and the kernel.
		{"HighDProcessesCount", happy, story{cure: "reboot"}, isolate + "waitidle, reboot, " + fit, "resolved"},
		{"HighDProcessesCount", failing, story{busy: true}, isolate + "waitidle failed, handover", "handed over to host"},
		{"HighDProcessesCount", escalation, story{}, isolate + "waitidle, reboot, verify failed, handover", "handed over to host"},
		{"HighZombieProcessesCount", happy, story{cure: "reboot"}, isolate + "waitidle, reboot, " + fit, "resolved"},
		{"HighZombieProcessesCount", failing, story{busy: true}, isolate + "waitidle failed, handover", "handed over to host"},
		{"HighZombieProcessesCount", escalation, story{}, isolate + "waitidle, reboot, verify failed, handover", "handed over to host"},
		{"PeerMemModuleNotReady", happy, story{cure: "ConfigPeerMem"}, "remedy, verify", "resolved"},
		{"PeerMemModuleNotReady", failing, story{fails: "ConfigPeerMem", cure: "ConfigPeerMem", at: 2}, "remedy failed, remedy, verify", "resolved"},
		{"PeerMemModuleNotReady", escalation, story{}, "remedy, verify failed, remedy, verify failed, " + isolate + "handover", "handed over to gpu"},
		{"PeerMemModuleNotConfig", happy, story{cure: "ConfigPeerMem"}, "remedy, verify", "resolved"},
		{"PeerMemModuleNotConfig", failing, story{fails: "ConfigPeerMem", cure: "ConfigPeerMem", at: 2}, "remedy failed, remedy, verify", "resolved"},
		{"PeerMemModuleNotConfig", escalation, story{}, "remedy, verify failed, remedy, verify failed, " + isolate + "handover", "handed over to gpu"},
		{"BaseBoardCriticalIssue", happy, story{device: "fan", after: soon}, isolate + "drain canceled, " + fit, "resolved"},
		{"BaseBoardCriticalIssue", failing, story{device: "fan", busy: true, held: true}, isolate + "drain failed, handover", "handed over to k8s"},
		{"BaseBoardCriticalIssue", escalation, story{device: "fan"}, isolate + "drain, shutdown, handover", "handed over to host, powered off"},
		{"KernelPanic", happy, story{after: time.Hour}, isolate + "healthcheck, uncordon", "resolved"},
		{"KernelPanic", failing, story{broken: 2, cure: "reboot"}, isolate + "healthcheck failed, diagnose, drain, reboot, " + fit, "resolved"},
		{"KernelPanic", escalation, story{broken: 5}, isolate + "healthcheck failed, diagnose, drain, shutdown, handover", "handed over to host, powered off"},
		{"HighLoad", happy, story{after: soon}, "", "noted"},
		{"HighLoad", failing, story{}, "", "noted"},
		{"HighLoad", escalation, story{again: 25 * time.Hour}, "", "noted, noted"},
	}
}

func TestProceduresOfAllConditions(t *testing.T) {
	t.Parallel()
	catalogue := autoCatalogue(t, "")
	for _, i := range incidents() {
		t.Run(i.condition+"/"+i.way, func(t *testing.T) { i.check(t, catalogue) })
	}
}

func (i incident) check(t *testing.T, catalogue *rules.Catalogue) {
	t.Helper()
	atSite(t, func(t *testing.T) {
		steps, end := newSite(t, catalogue, i.condition, i.story).play(i.condition)
		require.Equal(t, i.steps, steps)
		require.Equal(t, i.end, end)
	})
}

// A condition that is new in the catalogue needs its rows.
func TestProceduresHaveTheirRows(t *testing.T) {
	t.Parallel()
	ways := make(map[string][]string)
	for _, i := range incidents() {
		ways[i.condition] = append(ways[i.condition], i.way)
	}
	catalogue, err := loadCatalogue(rules.Options{})
	require.NoError(t, err)
	for _, c := range catalogue.Conditions() {
		require.Equal(t, []string{happy, failing, escalation}, ways[c.Name], c.Name)
		delete(ways, c.Name)
	}
	require.Empty(t, ways, "conditions that the catalogue does not know")
}

// What the driver asks for with XID 154 goes before the class of the code. Nothing is repaired on a text that nobody knows.
func TestProceduresFollowTheDriver(t *testing.T) {
	t.Parallel()
	const (
		nothing = "None"
		toReset = "GPU Reset Required"
		drained = "Drain and Reset"
		toBoot  = "Node Reboot Required"
		peers   = "Drain P2P"
		unknown = "Replace The Board"
	)
	const (
		gpuReset = isolate + "draingpu, reset, " + fit
		idle     = isolate + "waitidle, draingpu, reset, " + fit
		boot     = isolate + "drain, reboot, " + fit
		people   = isolate + "draingpu, handover"
	)
	tests := []struct {
		condition string
		xid       int
		asks      string
		cure      string
		steps     string
	}{
		{"Xid48GPUMemoryDBE", 48, "", "ResetGPU", gpuReset},
		{"Xid48GPUMemoryDBE", 48, nothing, "healthcheck", isolate + fit},
		{"Xid48GPUMemoryDBE", 48, toReset, "ResetGPU", gpuReset},
		{"Xid48GPUMemoryDBE", 48, drained, "ResetGPU", gpuReset},
		{"Xid48GPUMemoryDBE", 48, toBoot, "reboot", boot},
		{"Xid48GPUMemoryDBE", 48, peers, "", people},
		{"Xid48GPUMemoryDBE", 48, unknown, "", people},
		// The driver says what the GPU needs, not when: a reset that may wait until the node is idle still may.
		{"Xid94ContainedECCError", 94, "", "ResetGPU", idle},
		{"Xid94ContainedECCError", 94, nothing, "healthcheck", isolate + fit},
		{"Xid94ContainedECCError", 94, toReset, "ResetGPU", idle},
		{"Xid94ContainedECCError", 94, drained, "ResetGPU", idle},
		{"Xid94ContainedECCError", 94, toBoot, "reboot", boot},
		{"Xid94ContainedECCError", 94, peers, "", people},
		{"Xid94ContainedECCError", 94, unknown, "", people},
		{"Xid74NVLinkError", 74, nothing, "healthcheck", isolate + fit},
		{"Xid74NVLinkError", 74, toBoot, "reboot", boot},
		{"Xid74NVLinkError", 74, peers, "", people},
		{"GpuXidRebootRequired", 151, "", "reboot", boot},
		{"GpuXidRebootRequired", 151, nothing, "healthcheck", isolate + fit},
		{"GpuXidRebootRequired", 151, toReset, "ResetGPU", gpuReset},
		{"GpuXidRecoveryAction", 154, nothing, "healthcheck", isolate + fit},
		{"GpuXidRecoveryAction", 154, drained, "ResetGPU", gpuReset},
		{"GpuXidRecoveryAction", 154, toBoot, "reboot", boot},
		{"GpuXidRecoveryAction", 154, peers, "", people},
		{"GpuXidRecoveryAction", 154, unknown, "", people},
	}
	catalogue := autoCatalogue(t, "")
	for _, tt := range tests {
		end := map[bool]string{true: "handed over to gpu", false: "resolved"}[tt.cure == ""]
		s := story{xid: tt.xid, asks: tt.asks, cure: tt.cure}
		if tt.cure == "healthcheck" {
			// Nothing is repaired. The alert of an event ends by itself.
			s.cure, s.after = "", alertTime
		}
		i := incident{tt.condition, "", s, tt.steps, end}
		t.Run(tt.condition+"/"+tt.asks, func(t *testing.T) { i.check(t, catalogue) })
	}
}

// What a healthcheck finds on a node that is to return is repaired as the condition that its exit code stands for.
func TestProceduresFollowTheHealthcheck(t *testing.T) {
	t.Parallel()
	const found = "healthcheck failed, " + isolate
	tests := []struct {
		code       int
		cure       string
		steps, end string
	}{
		{1, "", found + "drain, handover", "handed over to network"},
		{2, "reboot", found + "drain, reboot, " + fit, "resolved"},
		{3, "StartGpfs", found + "repair, " + fit, "resolved"},
		{4, "", found + "drain, shutdown, handover", "handed over to host, powered off"},
		{5, "", found + "drain, shutdown, handover", "handed over to host, powered off"},
		{6, "", found + "drain, handover", "handed over to storage"},
		{7, "", "healthcheck failed, handover", "handed over to network"},
		{21, "", found + "drain, shutdown, handover", "handed over to gpu, powered off"},
		{22, "", found + "drain, shutdown, handover", "handed over to gpu, powered off"},
		{23, "ResetGPU", found + "draingpu, reset, " + fit, "resolved"},
		{24, "ResetGPU", found + "draingpu, reset, " + fit, "resolved"},
		{99, "", "healthcheck failed, handover", "handed over to gpu"},
	}
	catalogue := autoCatalogue(t, "")
	for _, tt := range tests {
		i := incident{"NodeCordon", "", story{broken: tt.code, cure: tt.cure}, tt.steps, tt.end}
		t.Run(strconv.Itoa(tt.code), func(t *testing.T) { i.check(t, catalogue) })
	}
}

// Turns that an incident may take besides the three ways.
func TestProceduresInSpecialCases(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		incident
	}{
		{"hardware is suspected after two repairs", incident{
			"Xid48GPUMemoryDBE", "", story{xid: 48, history: past("Xid48GPUMemoryDBE", "3", 48, 2)}, isolate + "handover", "handed over to gpu",
		}},
		{"two repairs of another GPU suspect nothing", incident{
			"Xid48GPUMemoryDBE", "",
			story{xid: 48, cure: "ResetGPU", history: past("Xid48GPUMemoryDBE", "4", 48, 2)},
			isolate + "draingpu, reset, " + fit, "resolved",
		}},
		{"a second panic within a day", incident{
			"KernelPanic", "", story{history: past("KernelPanic", "", 0, 1)}, isolate + "handover", "handed over to host",
		}},
		{"a code that nobody knows", incident{
			"XIDUnclassifiedErr", "", story{xid: 999}, "diagnose, healthcheck, handover", "handed over to gpu",
		}},
		{"a code that is only watched", incident{"XIDUnclassifiedErr", "", story{xid: 93}, "", "noted"}},
		{"no code at all", incident{
			"GpuXidResetRequired", "", story{asks: "GPU Reset Required", cure: "ResetGPU"}, isolate + "draingpu, reset, " + fit, "resolved",
		}},
		{"jobs that outlive the alert of an XID", incident{
			"Xid94ContainedECCError", "", story{cure: "ResetGPU", silent: alertTime}, isolate + "waitidle, draingpu, reset, " + fit, "resolved",
		}},
		{"a reset that fails after the alert of an XID has ended", incident{
			"Xid94ContainedECCError", "",
			story{silent: alertTime, cure: "reboot", fails: "ResetGPU"},
			isolate + "waitidle, draingpu, reset failed, drain, reboot, " + fit, "resolved",
		}},
		{"jobs that never end before a reset", incident{
			"Xid63ECCRowremapperPending", "", story{cure: "ResetGPU", busy: true}, isolate + "waitidle failed, draingpu, reset, " + fit, "resolved",
		}},
		{"an alert that ends during the drain proves nothing", incident{
			"GpuHung", "", story{silent: soon, cure: "reboot"}, isolate + "drain canceled, verify, healthcheck failed, drain, reboot, " + fit, "resolved",
		}},
		{"one power supply of two", incident{"BaseBoardCriticalIssue", "", story{device: "power"}, "handover", "handed over to host"}},
		{"the current of a power supply", incident{
			"BaseBoardCriticalIssue", "", story{device: "current", after: time.Hour}, "handover", "withdrawn",
		}},
		{"a sensor without a name", incident{
			"BaseBoardCriticalIssue", "", story{device: "sysHealth"}, isolate + "drain, shutdown, handover", "handed over to host, powered off",
		}},
		{"a machine that does not power off", incident{
			"MemoryUnhealthy", "", story{lost: "shutdown"}, isolate + "drain, shutdown failed, handover", "handed over to host, power state unknown",
		}},
		{"a machine that does not boot", incident{
			"GpuHung", "", story{lost: "reboot"}, isolate + "drain, reboot failed, handover", "handed over to gpu",
		}},
		{"a healthcheck that cannot be made", incident{
			"GpuHung", "",
			story{cure: "reboot", lost: "healthcheck"},
			isolate + "drain, reboot, verify, healthcheck canceled, healthcheck canceled, handover", "handed over to host",
		}},
		{"no pod of the device plugin", incident{
			"GpuRegisterFailed", "", story{bare: true}, "restartpod failed, handover", "handed over to k8s",
		}},
		{"no healthcheck for a node that was cordoned", incident{
			"NodeCordon", "", story{lost: "healthcheck"}, "healthcheck canceled, healthcheck canceled, handover", "handed over to host",
		}},
		{"a machine whose power is off", incident{
			"NodeNotReady", "",
			story{poweredOff: 5 * time.Minute},
			"wait failed, cordon, wait canceled, taint, wait failed, handover", "handed over to host",
		}},
		{"a machine whose power comes back", incident{
			"NodeNotReady", "",
			story{poweredOff: 5 * time.Minute, after: 40 * time.Minute},
			"wait failed, cordon, wait canceled, taint, wait, untaint, diagnose, healthcheck, uncordon", "resolved",
		}},
	}
	catalogue := autoCatalogue(t, "")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.check(t, catalogue) })
	}
}

// past are repairs of a fault that went well, the last of them half a day before the test.
func past(condition, device string, xid, n int) []ticket.Incident {
	var all []ticket.Incident
	for i := range n {
		// The bubble begins with the year 2000.
		opened := time.Date(1999, 12, 31, 12-6*i, 0, 0, 0, time.UTC)
		all = append([]ticket.Incident{{
			ID: "past-" + strconv.Itoa(i), Condition: condition, Device: device, XID: xid, Opened: opened, Closed: opened.Add(time.Hour),
			Outcome: "resolved", Isolated: true,
		}}, all...)
	}
	return all
}

// An operator may have a code noted until it has come so often.
func TestProcedureOfACodeWithAThreshold(t *testing.T) {
	catalogue := autoCatalogue(t, "xids:\n- {code: 48, threshold: {count: 3, within: 24h}}\n")
	atSite(t, func(t *testing.T) {
		const condition = "Xid48GPUMemoryDBE"
		w := newSite(t, catalogue, condition, story{cure: "ResetGPU"})
		defer w.start()()
		for n := range 3 {
			w.cured = w.raise(condition, "", 48)
			w.await("dealt with", func(r ticket.Record) bool { return len(r.History.Incidents) > n && r.Ticket == nil })
			w.end(w.cured)
			time.Sleep(2 * time.Hour)
		}
		require.Equal(t, "noted, noted, resolved", w.outcome())
		require.Equal(t, isolate+"draingpu, reset, "+fit, w.steps())
	})
}

// An alert that tells of an event goes on firing after the event was dealt with.
func TestProceduresThatRunOncePerAlert(t *testing.T) {
	t.Parallel()
	catalogue := autoCatalogue(t, "")
	for _, condition := range []string{"KernelPanic", "NodeInhibitAll"} {
		t.Run(condition, func(t *testing.T) {
			atSite(t, func(t *testing.T) {
				w := newSite(t, catalogue, condition, story{})
				defer w.start()()
				key := w.raise(condition, "", 0)
				w.await("resolved", w.over)
				time.Sleep(2 * time.Hour)
				require.Equal(t, "resolved", w.outcome())
				require.Equal(t, policy.VerdictTolerated, w.verdict(condition).Name)

				w.end(key)
				time.Sleep(time.Hour)
				w.raise(condition, "", 0)
				w.await("dealt with again", func(r ticket.Record) bool { return len(r.History.Incidents) == 2 && w.over(r) })
				// A second panic within a day is one too many.
				require.Equal(t, map[string]string{"KernelPanic": "resolved, handed over to host", "NodeInhibitAll": "resolved, resolved"}[condition], w.outcome())
			})
		})
	}
}

// What another condition explains waits, and nothing is written about it.
func TestProcedureOfAHiddenConditionWaits(t *testing.T) {
	catalogue := autoCatalogue(t, "conditions:\n- {name: GpuDown, policy: {mode: observe}}\n")
	atSite(t, func(t *testing.T) {
		w := newSite(t, catalogue, "GpuCheckFailed", story{cure: "ResetGPU"})
		defer w.start()()
		lost := w.raise("GpuDown", "", 0)
		w.cured = w.raise("GpuCheckFailed", "", 0)
		time.Sleep(2 * time.Hour)
		require.Equal(t, policy.Verdict{Name: policy.VerdictTolerated, Reason: "GpuDown explains it"}, w.verdict("GpuCheckFailed"))
		require.Equal(t, policy.VerdictObserve, w.verdict("GpuDown").Name)
		require.True(t, w.untouched())

		w.end(lost)
		w.await("resolved", w.over)
		require.Equal(t, isolate+"draingpu, reset, "+fit, w.steps())
		require.Equal(t, "resolved", w.outcome())
	})
}

// A boot of Aegis explains that the node has just started.
func TestProcedureOfANodeThatAegisBooted(t *testing.T) {
	catalogue := autoCatalogue(t, "")
	atSite(t, func(t *testing.T) {
		booted := past("GpuHung", "", 0, 1)
		booted[0].Opened, booted[0].Closed = time.Now().Add(-time.Hour), time.Now().Add(-10*time.Minute)
		booted[0].Destructive = []ticket.Destructive{{Action: ticket.Reboot, At: time.Now().Add(-20 * time.Minute)}}
		w := newSite(t, catalogue, "NodeHasRestarted", story{history: booted})
		defer w.start()()
		w.raise("NodeHasRestarted", "", 0)
		time.Sleep(30 * time.Minute)
		verdict := w.verdict("NodeHasRestarted")
		require.Equal(t, policy.VerdictTolerated, verdict.Name)
		require.Contains(t, verdict.Reason, "Aegis booted the node at ")
		require.True(t, w.untouched())
	})
}

// A cable that somebody is to look at keeps no GPU from being repaired.
func TestProcedureTakesThePlaceOfANote(t *testing.T) {
	catalogue := autoCatalogue(t, "")
	atSite(t, func(t *testing.T) {
		w := newSite(t, catalogue, "GpuHung", story{cure: "reboot"})
		defer w.start()()
		w.raise("NetworkLinkDown", "eth0", 0)
		w.await("told", w.over)
		require.Equal(t, "handed over to network", w.outcome())
		w.cured = w.raise("GpuHung", "", 0)
		// The cable is still there after the repair, and people are told of it again.
		w.await("told again", func(r ticket.Record) bool { return len(r.History.Incidents) > 2 && w.over(r) })
		require.Equal(t, "superseded, resolved, handed over to network", w.outcome())
		require.Equal(t, []string{jobs.ActionDiagnose, jobs.ActionReboot, jobs.ActionHealthcheck}, w.ordered())
		require.False(t, w.record().Node.Spec.Unschedulable)
	})
}

// A node that people look at because of its healthcheck is theirs, although the incident itself has not cordoned it.
func TestProcedureLeavesADoubtfulNodeToPeople(t *testing.T) {
	catalogue := autoCatalogue(t, "")
	atSite(t, func(t *testing.T) {
		w := newSite(t, catalogue, "NodeCordon", story{lost: "healthcheck"})
		defer w.start()()
		w.raise("NodeCordon", "", 0)
		w.await("handed over", w.over)
		w.raise("GpuHung", "", 0)
		time.Sleep(2 * time.Hour)
		require.Equal(t, policy.VerdictHumanOwned, w.verdict("GpuHung").Name)
		require.Equal(t, "handed over to host", w.outcome())
	})
}

// A node is powered off only when nothing runs on it, whatever an operator wants to be powered off.
func TestProcedureEmptiesWhatItPowersOff(t *testing.T) {
	catalogue := autoCatalogue(t, "conditions:\n- {name: GpuHWSlowdown, policy: {shutdown: true}}\n")
	atSite(t, func(t *testing.T) {
		steps, end := newSite(t, catalogue, "GpuHWSlowdown", story{}).play("GpuHWSlowdown")
		require.Equal(t, isolate+"drain, shutdown, handover", steps)
		require.Equal(t, "handed over to gpu, powered off", end)
	})
}

// A node that people give back is returned by the procedure of cordoned nodes, once it has proven that it is fit.
func TestProcedureOfANodeThatPeopleGiveBack(t *testing.T) {
	catalogue := autoCatalogue(t, "")
	atSite(t, func(t *testing.T) {
		w := newSite(t, catalogue, "IBDown", story{})
		defer w.start()()
		key := w.raise("IBDown", "", 0)
		w.await("handed over", w.over)
		w.end(key)
		text := strings.Replace(w.record().Node.Annotations[ticket.Annotation], "supervisor: network", "supervisor: aegis", 1)
		w.edit("kubectl", map[string]any{"metadata": map[string]any{"annotations": map[string]string{ticket.Annotation: text}}})
		w.await("released", func(r ticket.Record) bool { return r.Ticket == nil })
		w.raise("NodeCordon", "", 0)
		w.await("returned", func(r ticket.Record) bool { return len(r.History.Incidents) == 2 && r.Ticket == nil })
		require.Equal(t, "healthcheck, uncordon", w.steps())
		require.Equal(t, "released, resolved", w.outcome())
		require.False(t, w.record().Node.Spec.Unschedulable)
	})
}

// A cordon of a person is theirs.
func TestProcedureLeavesANodeThatAPersonCordoned(t *testing.T) {
	t.Parallel()
	catalogue := autoCatalogue(t, "")
	for _, condition := range []string{"NodeCordon", "GpuHung"} {
		t.Run(condition, func(t *testing.T) {
			atSite(t, func(t *testing.T) {
				w := newSite(t, catalogue, "GpuHung", story{})
				w.edit("kubectl", map[string]any{"spec": map[string]any{"unschedulable": true}})
				defer w.start()()
				w.raise(condition, "", 0)
				time.Sleep(time.Hour)
				require.Equal(t, policy.VerdictHumanCordoned, w.verdict(condition).Name)
				require.True(t, w.untouched())
			})
		})
	}
}
