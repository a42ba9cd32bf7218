// Package policy says what may be done to a node now, and why not. It is pure: it knows no client and no clock, so that the same
// facts always give the same verdict.
package policy

import (
	"slices"
	"time"
)

// VerdictName is the named reason why a procedure runs now, or does not. It is the value in logs, metrics, the API
// and the console.
type VerdictName string

// The verdicts.
const (
	VerdictExecute           VerdictName = "execute"            // The procedure runs.
	VerdictObserve           VerdictName = "observe"            // It would have run, in mode auto.
	VerdictAwaitingApproval  VerdictName = "awaiting_approval"  // It waits until a person approves.
	VerdictDuplicate         VerdictName = "duplicate"          // The same request is already being worked on.
	VerdictInProgress        VerdictName = "in_progress"        // Another condition of the node is being worked on.
	VerdictCooldown          VerdictName = "cooldown"           // The last destructive step on the node is too recent.
	VerdictAttemptsExhausted VerdictName = "attempts_exhausted" // The node has used up its destructive steps.
	VerdictBudget            VerdictName = "budget"             // Too many nodes of the pool are out of service.
	VerdictStorm             VerdictName = "storm"              // The condition holds on too many nodes at once.
	VerdictPaused            VerdictName = "paused"             // Everything is paused.
	VerdictExcluded          VerdictName = "excluded"           // The node has the label aegis.io/disable=true.
	VerdictControlPlane      VerdictName = "control_plane"      // The node runs the control plane.
	VerdictHumanOwned        VerdictName = "human_owned"        // People own the ticket, or it cannot be read.
	VerdictHumanCordoned     VerdictName = "human_cordoned"     // A person cordoned the node.
	VerdictSilenced          VerdictName = "silenced"           // The alert is silenced, inhibited or muted.
	VerdictContested         VerdictName = "contested"          // The alert came back with an old start; not confirmed yet.
	VerdictUnconfirmed       VerdictName = "unconfirmed"        // The source does not report the condition.
	VerdictAmbiguous         VerdictName = "ambiguous"          // The alerts are of several clusters, and nobody has said which one this is.
	VerdictUnverifiable      VerdictName = "unverifiable"       // The source gives no reliable answer, or nothing can check the node.
	VerdictTolerated         VerdictName = "tolerated"          // Another condition explains it or comes first, or it is known already.
	VerdictIgnored           VerdictName = "ignored"            // Its mode is off, or its band is MustIgnore.
	VerdictUnknownCondition  VerdictName = "unknown_condition"  // No catalogue names the condition.
	VerdictNoSOP             VerdictName = "no_sop"             // The condition has no procedure.
	VerdictNodeGone          VerdictName = "node_gone"          // The Node object does not exist.
	VerdictError             VerdictName = "error"              // The procedure stopped with an error and is tried again.
)

// VerdictNames returns the closed set of verdicts.
func VerdictNames() []VerdictName {
	return []VerdictName{
		VerdictExecute, VerdictObserve, VerdictAwaitingApproval, VerdictDuplicate, VerdictInProgress, VerdictCooldown,
		VerdictAttemptsExhausted, VerdictBudget, VerdictStorm, VerdictPaused, VerdictExcluded, VerdictControlPlane,
		VerdictHumanOwned, VerdictHumanCordoned, VerdictSilenced, VerdictContested, VerdictUnconfirmed,
		VerdictAmbiguous, VerdictUnverifiable, VerdictTolerated, VerdictIgnored, VerdictUnknownCondition, VerdictNoSOP, VerdictNodeGone,
		VerdictError,
	}
}

// Holds reports whether the verdict keeps a repair waiting for a person, for a place, for the sources or for the end of an error, and so may do so for ever. What has
// an end of its own, such as a silence or a cooldown, is none of these, nor what people work on.
func (n VerdictName) Holds() bool {
	return slices.Contains([]VerdictName{
		VerdictAwaitingApproval, VerdictBudget, VerdictStorm, VerdictPaused, VerdictExcluded, VerdictHumanCordoned, VerdictAmbiguous, VerdictUnverifiable,
		VerdictError,
	}, n)
}

// Verdict is a decision and its reason in words.
type Verdict struct {
	Name   VerdictName
	Reason string
}

// Decision is the last verdict on one condition of a node.
type Decision struct {
	Condition string
	ID        string
	Verdict   Verdict
	// Since is when the verdict became this one. A changed reason alone does not reset it.
	Since time.Time
}

// Change says what would change the verdict, as a clause that follows "when".
func (n VerdictName) Change() string {
	return map[VerdictName]string{
		VerdictObserve:           "its mode becomes approve or auto, or a person asks for the repair",
		VerdictAwaitingApproval:  "a person approves the repair",
		VerdictDuplicate:         "that ticket is closed",
		VerdictInProgress:        "that ticket is closed",
		VerdictCooldown:          "the cooldown ends, or a person asks for the repair",
		VerdictAttemptsExhausted: "people have looked at the node and given it back",
		VerdictBudget:            "a place is free and it is the node's turn",
		VerdictStorm:             "it holds on at most half as many nodes, or a person releases the storm",
		VerdictPaused:            "a person ends the pause, or the window opens",
		VerdictExcluded:          "a person removes the label",
		VerdictControlPlane:      "manageControlPlane is set",
		VerdictHumanOwned:        "they give the ticket back by setting its supervisor to aegis, or remove it",
		VerdictHumanCordoned:     "a person uncordons the node, or has it checked",
		VerdictSilenced:          "the silence, inhibition or mute time ends",
		VerdictContested:         "a later pass over Prometheus and Alertmanager confirms it",
		VerdictUnconfirmed:       "the sources report it, or it goes away",
		VerdictAmbiguous:         "cluster in aegis.yaml names this cluster, or the alerts are of one cluster only",
		VerdictUnverifiable:      "Prometheus, Alertmanager and the API server answer again, or the node is ready",
		VerdictTolerated:         "what explains it is gone, it occurs again, or the node is idle",
		VerdictIgnored:           "its mode or its priority changes",
		VerdictUnknownCondition:  "a file names it",
		VerdictNoSOP:             "a procedure is configured for it",
		VerdictNodeGone:          "a Node of that name is registered",
		VerdictError:             "the API server takes what Aegis writes on the node, or what the reason names is put right",
	}[n]
}

// Meaning says in sentences what the verdict means.
func (n VerdictName) Meaning() string {
	return map[VerdictName]string{
		VerdictExecute:           "The procedure runs.",
		VerdictObserve:           "The procedure would run.",
		VerdictAwaitingApproval:  "The procedure waits for a person.",
		VerdictDuplicate:         "The open ticket is for another device of the condition, or the same repair was requested before.",
		VerdictInProgress:        "The open ticket is for another condition.",
		VerdictCooldown:          "The last destructive step on the node is too recent, or an intake taint is back on a node that has just passed its check.",
		VerdictAttemptsExhausted: "The node has used up its reboots, is a [repeat offender](#repeat-offenders), or Aegis suspects its hardware. Aegis isolates it and hands it over.",
		VerdictBudget:            "Too many nodes of the pool are out of service, or too many destructive steps run in it, or [more urgent nodes](#who-goes-first) wait for the place.",
		VerdictStorm:             "The condition began on too many nodes of the pool at once.",
		VerdictPaused:            "Everything is paused, or no maintenance window is open.",
		VerdictExcluded:          "The node has the label `aegis.io/disable=true`.",
		VerdictControlPlane:      "The node runs the control plane.",
		VerdictHumanOwned:        "People own the ticket, or it cannot be read.",
		VerdictHumanCordoned:     "A person has cordoned the node.",
		VerdictSilenced:          "Alertmanager suppresses the alert, or a silence of Alertmanager or of Aegis matches it.",
		VerdictContested:         "The alert came back with an old start time, as a late message does, or began before its node was registered.",
		VerdictUnconfirmed:       "Prometheus does not report the condition, or no Alertmanager lists its alert; or the annotation that asks for a check has a value that Aegis does not know.",
		VerdictAmbiguous:         "The alerts are of several clusters, and [`cluster`](configuration.md#several-clusters) does not say which one this is.",
		VerdictUnverifiable:      "Prometheus, Alertmanager or the API server gives no reliable answer, or a node that is to be checked is not ready.",
		VerdictTolerated:         "Another condition of the node explains it or comes first; or Aegis has noted or repaired it, and its alert has not begun anew; or it can wait until the node is idle, because its priority is 100 or more and its `workload` is `drain` or `drainGPU` (set it to `waitIdle`).",
		VerdictIgnored:           "Its mode is `off`, or its priority is above 999.",
		VerdictUnknownCondition:  "No file names the condition.",
		VerdictNoSOP:             "The condition has no procedure.",
		VerdictNodeGone:          "There is no such Node, or another Node has its name now.",
		VerdictError:             "The API server takes no write to the node, as when its annotations are full or an admission webhook refuses, or the procedure stopped with another error. Aegis tries again.",
	}[n]
}
