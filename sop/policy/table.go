package policy

import (
	"slices"
	"sync"
)

// Stage is a point at which the guards are asked.
type Stage string

// The stages of a repair.
const (
	// Visit is a look at the node, at which it is decided whether the repair runs.
	Visit Stage = "visit"
	// Entry is the write of a ticket that a person asks for: a requested repair, or an approved one.
	Entry Stage = "entry"
	// Isolate is the write that takes the node out of service, and the question to the sources before it.
	Isolate Stage = "isolate"
	// Step is the beginning of a step that may disturb workload.
	Step Stage = "step"
	// Watch is a look of a step that only looks and waits. What it waits for may happen at any time, but the time that it may take stands
	// still while Aegis may do nothing at all on the node. No guard has a column of its own for it: what stands against isolating the
	// node and against disturbing its workload stands against everything, unless it lasts.
	Watch Stage = "watch"
)

// Stages returns the stages at which something is done, in their order.
func Stages() []Stage { return []Stage{Visit, Entry, Isolate, Step} }

// Guard is one thing that may stand against a repair.
type Guard struct {
	Name    string
	Verdict VerdictName
	// Visit, Entry, Isolate and Step are the reasons to act for which the guard is asked there.
	Visit, Entry, Isolate, Step Origins
	// Needs is what has to be known before the guard is asked.
	Needs Fact
	// Judge says what stands against the repair. Empty is nothing.
	Judge func(Situation) (reason string)
	// Lasts says that the guard may stand for ever. No step waits for its end that only looks at what it has done.
	Lasts bool
	// RequestsSkip says that a request to heal goes ahead in spite of the guard.
	RequestsSkip bool
	// Because says why not every stage and reason to act asks the guard, where that is not plain.
	Because string
}

// At returns the reasons to act for which the guard is asked at the stage.
func (g Guard) At(stage Stage) Origins {
	switch stage {
	case Visit:
		return g.Visit
	case Entry:
		return g.Entry
	case Isolate:
		return g.Isolate
	case Watch:
		if g.Lasts {
			return 0
		}
		return g.Isolate & g.Step
	default:
		return g.Step
	}
}

// Ask returns what the first guard has against the repair, the zero Verdict if none has anything.
func Ask(stage Stage, s Situation) Verdict {
	for _, g := range table() {
		if g.At(stage)&s.Origin == 0 || !s.knows(g.Needs) {
			continue
		}
		if reason := g.Judge(s); reason != "" {
			return Verdict{g.Verdict, reason}
		}
	}
	return Verdict{}
}

// Skipped says what would stand against the repair if it were that of an alert, and does not because somebody asks for it.
func Skipped(s Situation) []string {
	s.Origin = Alert
	var skipped []string
	for _, g := range table() {
		if !g.RequestsSkip || !s.knows(g.Needs) {
			continue
		}
		text := string(g.Verdict) + ": "
		if reason := g.Judge(s); reason != "" && !slices.Contains(skipped, text+reason) {
			skipped = append(skipped, text+reason)
		}
	}
	return skipped
}

// table is made once: the guards are asked for every condition at every look.
var table = sync.OnceValue(Guards)

// Guards returns all that may stand against a repair, in the order in which it is told.
func Guards() []Guard {
	var all []Guard
	for _, list := range [][]Guard{
		ownership(), configuration(), orders(), checks(), doubts(), before(), pools(), cordons(), priorities(), pauses(), modes(), attempts(), now(),
	} {
		all = append(all, list...)
	}
	return all
}

// ownership asks whose the node is, and what is being done on it already.
func ownership() []Guard {
	const first = "Who asks for a repair is told first that one is under way."
	return []Guard{
		{
			Name: "no such node", Verdict: VerdictNodeGone, Visit: anyone, Judge: nodeGone,
			Because: "Every write names the UID of the node, so no later stage can act on another one.",
		},
		{
			Name: "ticket of people", Verdict: VerdictHumanOwned, Visit: anyone, Entry: Begun | Requested | Approved | Check | Intake, Judge: OwnedByPeople,
			Because: "Every write is made on the condition that the ticket is still that of Aegis.",
		},
		{
			Name: "requested before", Verdict: VerdictDuplicate, Visit: requests, Entry: requests, Judge: askedBefore, Because: first,
		},
		{
			Name: "busy for a request", Verdict: VerdictInProgress, Visit: requests, Entry: requests, Judge: otherCondition, Because: first,
		},
		{
			Name: "excluded", Verdict: VerdictExcluded, Visit: anew, Entry: asks, Isolate: anyone, Step: anyone, Needs: NodeFact, Judge: excluded,
			Because: returns,
		},
		{
			Name: "busy with another condition", Verdict: VerdictInProgress, Visit: takenUp, Entry: Approved, Judge: otherCondition,
		},
		{
			Name: "busy with another device", Verdict: VerdictDuplicate, Visit: takenUp, Entry: Approved, Judge: otherDevice,
		},
	}
}

// returns is why a visit goes on with an incident that has begun, whatever forbids to disturb its node.
const returns = "What has begun goes on at a visit, so that a repaired node returns; each cordon and each step asks."

// configuration asks whether there is a repair at all.
func configuration() []Guard {
	return []Guard{
		{
			Name: "unknown condition", Verdict: VerdictUnknownCondition, Visit: anew, Isolate: anyone, Step: anyone, Needs: NodeFact, Judge: unknownCondition,
			Because: "What has begun is handed over to the team host.",
		},
		{
			Name: "band MustIgnore", Verdict: VerdictIgnored, Visit: anew, Isolate: reported, Step: reported, Judge: mustIgnore,
			Because: returns + " A request that was accepted stands.",
		},
		{
			Name: "mode off", Verdict: VerdictIgnored, Visit: Alert | Intake, Isolate: reported, Step: reported, Needs: OrdersFact, Judge: modeOff,
			RequestsSkip: true, Because: returns,
		},
		{
			Name: "harmless XID", Verdict: VerdictIgnored, Visit: Alert, Isolate: reported, Step: reported, Judge: harmlessXID,
			RequestsSkip: true, Because: returns,
		},
		{
			Name: "no procedure", Verdict: VerdictNoSOP, Visit: anew, Judge: noProcedure,
			Because: "What has begun is handed over, and a procedure that runs is at hand.",
		},
		{
			Name: "control plane", Verdict: VerdictControlPlane, Visit: anew, Entry: asks, Isolate: anyone, Step: anyone, Needs: NodeFact, Judge: controlPlane,
			Because: returns,
		},
	}
}

// orders asks what people have ordered for the whole cluster.
func orders() []Guard {
	return []Guard{
		{
			Name: "node not read", Verdict: VerdictUnverifiable, Step: anyone, Judge: unread,
			Because: "A visit disturbs nothing, and a cordon waits until the API server takes its write, which fails on a node that is not as it was read.",
		},
		{
			Name: "orders not read", Verdict: VerdictUnverifiable, Step: anyone, Judge: ordersLost,
			Because: "A cordon disturbs no workload and can be undone, so orders that were read a moment ago are good enough for it.",
		},
		{
			Name: "paused", Verdict: VerdictPaused, Visit: anew, Entry: asks, Isolate: anyone, Step: anyone, Needs: OrdersFact, Judge: paused,
			Because: returns,
		},
	}
}

// checks asks whether a node can be checked, and is to be.
func checks() []Guard {
	return []Guard{
		{
			Name: "request not understood", Verdict: VerdictUnconfirmed, Visit: Check, Judge: notUnderstood,
		},
		{
			Name: "not ready for a check", Verdict: VerdictUnverifiable, Visit: Check | Intake | Left, Needs: NodeFact, Judge: notReady,
		},
		{
			Name: "checked a moment ago", Verdict: VerdictCooldown, Visit: Intake, Judge: justChecked,
			Because: "A taint asks again as long as it is there, a person does not.",
		},
	}
}

// doubts asks whether an alert is about a fault that the node has now.
func doubts() []Guard {
	const onlyBefore = "Once the incident is open, a cordon and a step go by what the sources say now."
	return []Guard{
		{
			Name: "contested", Verdict: VerdictContested, Visit: Alert, Judge: contested, RequestsSkip: true, Because: onlyBefore,
		},
		{
			Name: "older than its node", Verdict: VerdictContested, Visit: Alert, Needs: NodeFact, Judge: olderThanNode, RequestsSkip: true, Because: onlyBefore,
		},
		{
			Name: "dealt with", Verdict: VerdictTolerated, Visit: Alert, Judge: settled, RequestsSkip: true, Because: onlyBefore,
		},
	}
}

// before asks the sources before anything is done for the condition.
func before() []Guard {
	const webhook = "A webhook that has just come in stands for sources that cannot be asked at the first cordon, which keeps new work off a sick node and can be undone."
	return []Guard{
		{
			Name: "confirmed long ago", Verdict: VerdictUnverifiable, Isolate: Alert, Needs: NodeFact, Judge: confirmedLongAgo, RequestsSkip: true,
			Because: "Every step asks the sources anew, so only the first cordon can rest on an answer that has become old.",
		},
		{
			Name: "several clusters", Verdict: VerdictAmbiguous, Isolate: reported, Step: reported, Needs: FindingFact, Judge: ambiguous, RequestsSkip: true,
			Because: "It is told by an answer of the sources, and a visit asks none. Who asks for a repair names the node.",
		},
		{
			Name: "silenced", Verdict: VerdictSilenced, Isolate: reported, Step: reported, Needs: FindingFact, Judge: silenced, RequestsSkip: true,
		},
		{
			Name: "sources silent at first", Verdict: VerdictUnverifiable, Isolate: Alert, Needs: FindingFact, Judge: silentBefore, RequestsSkip: true,
			Because: webhook,
		},
		{
			Name: "not reported at first", Verdict: VerdictUnconfirmed, Isolate: Alert, Needs: FindingFact, Judge: unconfirmedBefore, RequestsSkip: true,
			Because: webhook,
		},
	}
}

// pools asks what goes on in the pool of the node.
func pools() []Guard {
	return []Guard{
		{
			Name: "maintenance window", Verdict: VerdictPaused, Step: reported, Needs: OrdersFact, Judge: outsideWindows, RequestsSkip: true,
			Because: "Windows are about workload that is disturbed; a cordon disturbs none, and without it a sick node takes new work until the window opens.",
		},
		{
			Name: "storm", Verdict: VerdictStorm, Visit: Alert, Isolate: Alert | Begun, Step: Alert | Begun, Needs: OrdersFact, Judge: storm, RequestsSkip: true,
			Because: returns + " A person who approves a repair has seen the storm.",
		},
	}
}

// cordons asks whether a person has taken the node out of service.
func cordons() []Guard {
	return []Guard{
		{
			Name: "cordon of a person", Verdict: VerdictHumanCordoned, Visit: Alert | Requested, Isolate: anyone, Step: reported | Requested, Needs: NodeFact, Judge: cordonedByPeople,
			Lasts:   true,
			Because: returns + " A check is of a node that a person has cordoned.",
		},
		{
			Name: "no cordon", Verdict: VerdictUnconfirmed, Visit: Alert | Requested, Needs: NodeFact, Judge: notCordoned,
			Because: "A node in service may be checked, but is not repaired for a cordon that it does not have.",
		},
	}
}

// priorities asks whether the condition is one to be repaired by itself, and now.
func priorities() []Guard {
	return []Guard{
		{
			Name: "more urgent condition", Verdict: VerdictTolerated, Visit: Alert | Left, Judge: moreUrgent, RequestsSkip: true,
			Because: "A more urgent condition takes over the ticket of what has begun.",
		},
		{
			Name: "explained", Verdict: VerdictTolerated, Visit: Alert, Judge: explained, RequestsSkip: true,
			Because: "What has begun may be repairing the cause.",
		},
		{
			Name: "own boot", Verdict: VerdictTolerated, Visit: Alert, Judge: ownBoot, RequestsSkip: true,
			Because: "What has begun was not an echo of a boot.",
		},
		{
			Name: "node in use", Verdict: VerdictTolerated, Visit: anew, Judge: inUse,
			Because: "What has begun under another priority is brought to its end.",
		},
	}
}

// pauses keep repairs apart, on one node and in one pool.
func pauses() []Guard {
	return []Guard{
		{
			Name: "cooldown", Verdict: VerdictCooldown, Visit: Alert, Judge: cooldown, RequestsSkip: true,
			Because: "It keeps incidents apart; a further boot of the same incident is bounded by its own number.",
		},
		{
			Name: "budget at a visit", Verdict: VerdictBudget, Visit: Alert, Needs: RoomFact, Judge: noRoomToBegin,
			Because: "A request is accepted without room and waits for it at the cordon, while an alert does not begin.",
		},
	}
}

// modes ask how far Aegis goes with the condition. At a visit they come last, so that what mode observe tells is what mode auto would do.
func modes() []Guard {
	return []Guard{
		{
			Name: "mode observe", Verdict: VerdictObserve, Visit: Alert | Intake, Isolate: reported, Step: reported, Needs: OrdersFact, Judge: observe,
			RequestsSkip: true, Because: returns,
		},
		{
			Name: "mode approve", Verdict: VerdictAwaitingApproval, Visit: Alert | Intake, Isolate: Alert | Begun, Step: Alert | Begun, Needs: OrdersFact, Judge: approvalMissing,
			RequestsSkip: true, Because: returns + " Who asks for a repair approves it.",
		},
	}
}

// attempts give the node to people instead of repairing it once more.
func attempts() []Guard {
	const onlyBefore = "It is about incidents that have ended; a procedure counts its own reboots."
	return []Guard{
		{
			Name: "reboots used up", Verdict: VerdictAttemptsExhausted, Visit: Alert, Judge: unlessSeldom(rebootsUsedUp), RequestsSkip: true, Because: onlyBefore,
		},
		{
			Name: "suspected hardware", Verdict: VerdictAttemptsExhausted, Visit: Alert, Judge: unlessSeldom(suspect), RequestsSkip: true, Because: onlyBefore,
		},
		{
			Name: "repeat offender", Verdict: VerdictAttemptsExhausted, Visit: Alert, Needs: NodeFact, Judge: unlessSeldom(repeatOffender), RequestsSkip: true, Because: onlyBefore,
		},
	}
}

// now asks the sources, and for room, right before the act.
func now() []Guard {
	return []Guard{
		{
			Name: "sources silent", Verdict: VerdictUnverifiable, Step: reported, Needs: FindingFact, Judge: silentNow, RequestsSkip: true,
			Because: "A cordon of what has begun disturbs no workload, and keeps new work off a node about which nothing is known.",
		},
		{
			Name: "not reported", Verdict: VerdictUnconfirmed, Step: reported, Needs: FindingFact, Judge: unconfirmedNow, RequestsSkip: true,
			Because: "What a check of Aegis has found outweighs an alert that is gone, and a node that it found broken is cordoned whatever the sources say.",
		},
		{
			Name: "reported too briefly", Verdict: VerdictUnconfirmed, Step: Alert | Begun, Needs: FindingFact, Judge: tooBrief, RequestsSkip: true,
			Because: "A cordon comes first and can be undone, and the fault is confirmed while the node is isolated.",
		},
		{
			Name: "budget", Verdict: VerdictBudget, Isolate: anyone, Step: anyone, Needs: RoomFact, Judge: noRoom,
			Because: "At a cordon it is the pool's budget of nodes, at a step that of destructive steps in flight.",
		},
	}
}
