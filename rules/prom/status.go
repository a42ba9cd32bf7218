// Package prom holds what Aegis observes: alerts, and the condition of a node that they are about.
package prom

import (
	"slices"
	"time"
)

// AegisNodeStatus is one observed condition of one node and, where the condition has devices, of one device.
type AegisNodeStatus struct {
	// Node is the name of a Node object that exists.
	Node string
	// Condition is the catalogue's name of the fault, never an alias.
	Condition string
	// Type is the domain of the condition: node, cpu, memory, disk, gpfs, gpu, ib, roce, network, process, peermem,
	// baseboard, system, or one of the site.
	Type string
	// ID names the device, in the form that DeviceMode says. Empty when the condition is of the whole node.
	ID string
	// PciBdf is the PCI address of the device when the alert carries one.
	PciBdf string
	// Msg is a sentence for people, from the alert's annotations.
	Msg string
	// Value is the value that the alert reports, as text. Empty when it reports none.
	Value string

	// Priority orders conditions: the lower, the more urgent. BandOf maps it to a band.
	Priority int
	// AffectsLoad says that workload on the device suffers while the condition holds.
	AffectsLoad bool
	// DeviceMode says what ID means.
	DeviceMode DeviceMode
	// SOP names the procedure, such as "gpu/hung". Empty when the condition has none.
	SOP string
	// Policy says what the procedure may do.
	Policy Policy
	// XID is the error of the NVIDIA driver that the condition is about. Zero when it is about none.
	XID XID

	// FirstSeen is when the fault began: the earliest startsAt of the alerts that feed it.
	FirstSeen time.Time
	// LastSeen is when it was last reported.
	LastSeen time.Time
	// Origin says who reported it first.
	Origin Origin
	// Source is the name of the source that found it. Empty when an alert reported it.
	Source string
	// Contested is true when an alert fired again after it had resolved, with an unchanged startsAt. Nothing
	// destructive may start until a resync confirms it.
	Contested bool
	// Alerts are the fingerprints of the firing alerts that feed the condition, sorted.
	Alerts []string
}

// Key identifies a status: one condition on one device of one node.
type Key struct {
	Node, Condition, ID string
}

// Key returns the identity of the status.
func (s AegisNodeStatus) Key() Key { return Key{Node: s.Node, Condition: s.Condition, ID: s.ID} }

// Clone returns a copy that shares no memory with s.
func (s AegisNodeStatus) Clone() AegisNodeStatus {
	s.Alerts = slices.Clone(s.Alerts)
	return s
}

// Origin says where a status comes from.
type Origin string

// The origins of a status.
const (
	OriginAlert  Origin = "alert"  // An Alertmanager webhook.
	OriginResync Origin = "resync" // The periodic query of Prometheus and Alertmanager.
	OriginHeal   Origin = "heal"   // A person or a script, over the API.
	OriginTicket Origin = "ticket" // An open ticket found on a node.
	OriginCheck  Origin = "check"  // A person who asks for a check of the node, over the API or by an annotation.
	OriginIntake Origin = "intake" // A taint of a node that is to be checked before it goes into service.
	OriginCordon Origin = "cordon" // A cordon of Aegis that no ticket is about any more.
)

// DeviceMode says what the ID of a status names.
type DeviceMode string

// The device modes.
const (
	DeviceNone  DeviceMode = "none"  // The whole node, no device.
	DeviceAll   DeviceMode = "all"   // Every device of the type.
	DeviceIndex DeviceMode = "index" // The device's number, such as a GPU index.
	DeviceID    DeviceMode = "id"    // The device's own name, such as mlx5_0.
	DeviceMask  DeviceMode = "mask"  // Ones and zeros, of which the k-th, from 0, stands for device k.
)

// Band is the class of urgency of a priority.
type Band string

// The bands, from the most to the least urgent by number. A cordoned node is looked at only when no emergency is
// open on it, so the dispatcher serves BandEmergency before BandCordon.
const (
	BandNotReady   Band = "NotReady"   // Priority 0.
	BandCordon     Band = "Cordon"     // Priority 1.
	BandEmergency  Band = "Emergency"  // Priorities 2 to 99.
	BandCanIgnore  Band = "CanIgnore"  // Priorities 100 to 999.
	BandMustIgnore Band = "MustIgnore" // Above 999: counted, never run.
)

// DefaultPriority is the priority of a condition that nobody configured.
const DefaultPriority = 999

// BandOf returns the band of a priority. Negative priorities are refused when the catalogue is loaded.
func BandOf(priority int) Band {
	switch {
	case priority <= 0:
		return BandNotReady
	case priority == 1:
		return BandCordon
	case priority <= 99:
		return BandEmergency
	case priority <= 999:
		return BandCanIgnore
	default:
		return BandMustIgnore
	}
}

// Urgency orders bands as the dispatcher serves them: NotReady, Emergency, Cordon, CanIgnore, MustIgnore. Lower is
// served first.
func (b Band) Urgency() int {
	switch b {
	case BandNotReady:
		return 0
	case BandEmergency:
		return 1
	case BandCordon:
		return 2
	case BandCanIgnore:
		return 3
	default:
		return 4
	}
}

// Mode says how far Aegis may go with a condition.
type Mode string

// The modes.
const (
	ModeOff     Mode = "off"     // The condition is counted and nothing else.
	ModeObserve Mode = "observe" // Aegis says what it would have done.
	ModeApprove Mode = "approve" // Aegis waits until a person approves.
	ModeAuto    Mode = "auto"    // Aegis acts.
)

// Workload says what happens to the pods of a node before it is repaired.
type Workload string

// The workload policies.
const (
	WorkloadKeep     Workload = "keep"     // Pods stay.
	WorkloadDrainGPU Workload = "drainGPU" // Pods that hold a GPU are evicted.
	WorkloadDrain    Workload = "drain"    // All pods are evicted.
	WorkloadWaitIdle Workload = "waitIdle" // Aegis waits until no workload pod runs.
)

// Policy says what a procedure may do, for how long, and who takes over. The catalogue sets every field.
type Policy struct {
	// Mode says how far Aegis may go.
	Mode Mode
	// Workload says what happens to the pods.
	Workload Workload
	// Team is who takes over when the procedure gives up: gpu, network, storage, host or k8s.
	Team string
	// MaxReboots is how many reboots one incident, and one attempt window, may use.
	MaxReboots int
	// Shutdown allows Aegis to power the node off before it hands it over.
	Shutdown bool
	// Selector is the label selector of the pods that the procedure restarts. Empty when it restarts none.
	Selector string
	// Remedy or Repair names the operation on the host that the procedure carries out. At most one of them is set.
	Remedy, Repair string
	// Cooldown is the least time between the end of one incident with a destructive step and the next on the node.
	Cooldown time.Duration
	// AttemptWindow is the time within which destructive steps count against MaxReboots.
	AttemptWindow time.Duration
	// MaxRepairs is how many repairs of the same condition on the same device within RepairWindow may succeed before the next one
	// goes to people, who suspect the hardware. Zero sets no bound.
	MaxRepairs   int
	RepairWindow time.Duration
	// OwnBoot is how long a boot that Aegis ordered explains the condition. Zero: it never does.
	OwnBoot time.Duration
	// Once says that an alert which goes on firing after the repair says nothing new: it tells of an event.
	Once bool
	// Threshold is how often the condition must come before it is repaired. Before that it is noted.
	Threshold Threshold
	// ConfirmFor is how long the condition must have held without a break, the `for` of its rule included, before a step that disturbs
	// workload. The node is isolated before.
	ConfirmFor time.Duration
	// Grace is how long a node may be not ready before it is cordoned.
	Grace time.Duration
	// PowerOffAfter is how long a node that is proven down stays so before its volumes are released.
	PowerOffAfter time.Duration
	// HandOverAfter is how long a procedure waits for recovery before people take over.
	HandOverAfter time.Duration
	// ClearFor is how long the fault must be absent at its source before it counts as repaired.
	ClearFor time.Duration
	// VerifyWithin is how long verification may take, not counting the time in which the source gave no answer.
	VerifyWithin time.Duration
	// DrainDeadline, HealthcheckDeadline, RebootDeadline and RemedyDeadline bound the steps.
	DrainDeadline       time.Duration
	HealthcheckDeadline time.Duration
	RebootDeadline      time.Duration
	RemedyDeadline      time.Duration
}

// Threshold is a number of events within a time.
type Threshold struct {
	// Count is the event that is acted on, from 1. Zero stands for 1.
	Count int
	// Within is how far back events count.
	Within time.Duration
}

// Observation is one alert, translated: what it says of which status.
type Observation struct {
	// Fingerprint identifies the alert.
	Fingerprint string
	// Status is what the alert reports. Its Alerts field is not set.
	Status AegisNodeStatus
	// Firing is false when the alert says that it resolved.
	Firing bool
	// StartsAt is when the alert began to fire.
	StartsAt time.Time
	// Labels are all labels of the alert. They are shared, and must not be changed.
	Labels map[string]string
}

// Evidence is what Prometheus says of a status.
type Evidence string

// The kinds of evidence. Unknown is not healthy.
const (
	EvidenceUnknown Evidence = "unknown" // No answer that can be relied on.
	EvidenceAbsent  Evidence = "absent"  // The alert neither fires nor is pending, nobody lists it, and its exporter sees the node.
	EvidencePending Evidence = "pending" // The alert's expression holds, its `for` has not passed yet.
	EvidenceFiring  Evidence = "firing"  // The alert fires.
)

// Permission is what Alertmanager says about acting on a status.
type Permission string

// The permissions. Only PermissionGranted allows a disruptive step.
const (
	PermissionUnknown  Permission = "unknown"  // No replica answered.
	PermissionGranted  Permission = "granted"  // Active and not suppressed on every replica that answered.
	PermissionSilenced Permission = "silenced" // Silenced, inhibited or muted on a replica.
	PermissionUnlisted Permission = "unlisted" // No replica lists the alert, as after its restart.
	// PermissionAmbiguous says that the alert may be of another cluster, whose nodes have the same names.
	PermissionAmbiguous Permission = "ambiguous"
	// PermissionIsolate allows Aegis to take the node out of service, and nothing more, because no replica has answered for a long time.
	PermissionIsolate Permission = "isolate"
)

// Finding is the answer to "does the condition still hold, and may it be acted on".
type Finding struct {
	Evidence   Evidence
	Permission Permission
	// Unlisted is true when no replica lists the alert as active or suppressed, whatever the permission: a silence may be meant
	// for an alert that is not there at present.
	Unlisted bool
	// Reason says in words why the evidence or the permission is not what one would wish.
	Reason string
	// Since is since when Prometheus sees the condition hold without a break. Zero when it does not tell.
	Since time.Time
	// Seen is when the exporters that would show the condition had a sample of the node last. It is set where the evidence is absent.
	Seen time.Time
	// At is when the sources were asked.
	At time.Time
}
