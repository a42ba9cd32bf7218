package policy

import "sync"

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
	// node and against disturbing its workload stands against everything.
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
	// Differs says where stages or origins disagree about the guard. Empty when they agree.
	Differs string
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
	return []Guard{
		{
			Name: "no such node", Verdict: VerdictNodeGone, Visit: anyone, Judge: nodeGone,
		},
		{
			Name: "ticket of people", Verdict: VerdictHumanOwned, Visit: anyone, Entry: Begun | Requested | Approved | Check, Judge: OwnedByPeople,
		},
		{
			Name: "requested before", Verdict: VerdictDuplicate, Visit: requests, Entry: Requested | Check, Judge: askedBefore,
			Differs: "A request is told of the open ticket before it is told that the node is excluded, an alert the other way round.",
		},
		{
			Name: "busy for a request", Verdict: VerdictInProgress, Visit: requests, Entry: Requested | Check, Judge: otherCondition,
			Differs: "A request is told of the open ticket before it is told that the node is excluded, an alert the other way round.",
		},
		{
			Name: "busy for an approval", Verdict: VerdictInProgress, Entry: Approved, Judge: otherTicket,
			Differs: "A ticket for another device of the condition is a duplicate for an alert and in progress for an approval.",
		},
		{
			Name: "excluded", Verdict: VerdictExcluded, Visit: anyone, Isolate: anyone, Step: anyone, Needs: NodeFact, Judge: excluded,
			Differs: "It is not asked when the ticket of a request or of an approval is written.",
		},
		{
			Name: "busy with another condition", Verdict: VerdictInProgress, Visit: takenUp, Judge: otherCondition,
		},
		{
			Name: "busy with another device", Verdict: VerdictDuplicate, Visit: takenUp, Judge: otherDevice,
			Differs: "A ticket for another device of the condition is a duplicate for an alert and in progress for an approval.",
		},
	}
}

// configuration asks whether there is a repair at all.
func configuration() []Guard {
	const onlyBefore = "It is asked before the ticket is opened only: a reload of the configuration does not reach a repair that has begun."
	return []Guard{
		{
			Name: "unknown condition", Verdict: VerdictUnknownCondition, Visit: anew, Judge: unknownCondition, Differs: onlyBefore,
		},
		{
			Name: "band MustIgnore", Verdict: VerdictIgnored, Visit: anew, Judge: mustIgnore, Differs: onlyBefore,
		},
		{
			Name: "mode off", Verdict: VerdictIgnored, Visit: Alert | Intake, Judge: modeOff,
			Differs: "It comes before pauses at a visit and after them at a step, and no cordon asks it.",
		},
		{
			Name: "harmless XID", Verdict: VerdictIgnored, Visit: Alert, Judge: harmlessXID, Differs: onlyBefore,
		},
		{
			Name: "no procedure", Verdict: VerdictNoSOP, Visit: anyone, Judge: noProcedure,
		},
		{
			Name: "control plane", Verdict: VerdictControlPlane, Visit: anew, Needs: NodeFact, Judge: controlPlane,
			Differs: "It is asked before the ticket is opened only: neither a cordon nor a step asks it.",
		},
	}
}

// orders asks what people have ordered for the whole cluster.
func orders() []Guard {
	return []Guard{
		{
			Name: "node not read", Verdict: VerdictUnverifiable, Step: anyone, Judge: unread,
			Differs: "Only a step reads the node anew; a visit goes by the cache, and a cordon waits until its write is taken.",
		},
		{
			Name: "orders not read", Verdict: VerdictUnverifiable, Step: anyone, Judge: ordersLost,
			Differs: "Only a step reads the orders anew; a visit and a cordon go by those that were read last.",
		},
		{
			Name: "paused", Verdict: VerdictPaused, Visit: anew, Isolate: anyone, Step: anyone, Needs: OrdersFact, Judge: paused,
			Differs: "A visit does not ask it for an incident that has begun, and a cordon goes by the orders that were read last.",
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
			Name: "not ready for a check", Verdict: VerdictUnverifiable, Visit: Check | Intake, Needs: NodeFact, Judge: notReady,
		},
		{
			Name: "checked a moment ago", Verdict: VerdictCooldown, Visit: Intake, Judge: justChecked,
			Differs: "Only a taint waits: it asks again as long as it is there, and a person does not.",
		},
	}
}

// doubts asks whether an alert is about a fault that the node has now.
func doubts() []Guard {
	const onlyBefore = "It is asked before the ticket is opened only; a cordon and a step go by what the sources say."
	return []Guard{
		{
			Name: "contested", Verdict: VerdictContested, Visit: Alert, Judge: contested, Differs: onlyBefore,
		},
		{
			Name: "older than its node", Verdict: VerdictContested, Visit: Alert, Needs: NodeFact, Judge: olderThanNode, Differs: onlyBefore,
		},
		{
			Name: "dealt with", Verdict: VerdictTolerated, Visit: Alert, Judge: settled, Differs: onlyBefore,
		},
	}
}

// before asks the sources before anything is done for the condition.
func before() []Guard {
	const webhook = "A webhook that has just come in stands for sources that cannot be asked, at a cordon but at no step."
	return []Guard{
		{
			Name: "confirmed long ago", Verdict: VerdictUnverifiable, Isolate: Alert, Needs: NodeFact, Judge: confirmedLongAgo,
			Differs: "A cordon goes by a confirmation of two minutes, a step by one of five seconds.",
		},
		{
			Name: "silenced at first", Verdict: VerdictSilenced, Isolate: Alert, Needs: FindingFact, Judge: silenced,
			Differs: "A cordon of an incident that has begun asks no source, a step does.",
		},
		{
			Name: "sources silent at first", Verdict: VerdictUnverifiable, Isolate: Alert, Needs: FindingFact, Judge: silentBefore, Differs: webhook,
		},
		{
			Name: "not reported at first", Verdict: VerdictUnconfirmed, Isolate: Alert, Needs: FindingFact, Judge: unconfirmedBefore, Differs: webhook,
		},
	}
}

// pools asks what goes on in the pool of the node.
func pools() []Guard {
	return []Guard{
		{
			Name: "maintenance window", Verdict: VerdictPaused, Step: reported, Needs: OrdersFact, Judge: outsideWindows,
			Differs: "Only a step asks it: outside the windows a repair begins, and isolates the node, all the same.",
		},
		{
			Name: "storm", Verdict: VerdictStorm, Visit: Alert, Isolate: Alert, Step: Alert | Begun, Needs: OrdersFact, Judge: storm,
			Differs: "It holds each step of a repair that has begun, but no cordon of one.",
		},
	}
}

// cordons asks whether a person has taken the node out of service.
func cordons() []Guard {
	return []Guard{
		{
			Name: "cordon of a person", Verdict: VerdictHumanCordoned, Visit: Alert | Requested, Isolate: anyone, Needs: NodeFact, Judge: cordonedByPeople,
			Differs: "No step asks it: a step only asks whether the cordon of the incident is still there. A check begins on a node that a person has cordoned.",
		},
		{
			Name: "no cordon", Verdict: VerdictUnconfirmed, Visit: Alert | Requested, Needs: NodeFact, Judge: notCordoned,
			Differs: "A node that is in service may be checked as well, but is not repaired for a cordon that it does not have.",
		},
	}
}

// priorities asks whether the condition is one to be repaired by itself, and now.
func priorities() []Guard {
	return []Guard{
		{
			Name: "more urgent condition", Verdict: VerdictTolerated, Visit: Alert, Judge: moreUrgent,
			Differs: "A request is accepted whatever else holds on the node, and no step asks it: the more urgent condition takes the ticket over.",
		},
		{
			Name: "explained", Verdict: VerdictTolerated, Visit: Alert, Judge: explained,
		},
		{
			Name: "own boot", Verdict: VerdictTolerated, Visit: Alert, Judge: ownBoot,
		},
		{
			Name: "node in use", Verdict: VerdictTolerated, Visit: anew, Judge: inUse,
		},
	}
}

// pauses keep repairs apart, on one node and in one pool.
func pauses() []Guard {
	return []Guard{
		{
			Name: "cooldown", Verdict: VerdictCooldown, Visit: Alert, Judge: cooldown,
			Differs: "It is asked before the ticket is opened only: neither a request nor a further boot of the same incident waits.",
		},
		{
			Name: "budget at a visit", Verdict: VerdictBudget, Visit: Alert, Needs: RoomFact, Judge: noRoomToBegin,
			Differs: "A request is accepted without room and waits for it at the cordon, while an alert does not begin.",
		},
	}
}

// modes ask how far Aegis goes with the condition. At a visit they come last, so that what mode observe tells is what mode auto would do.
func modes() []Guard {
	return []Guard{
		{
			Name: "approve became the mode", Verdict: VerdictAwaitingApproval, Step: Alert | Begun, Needs: OrdersFact, Judge: approvalMissing,
			Differs: "No cordon asks it: a repair whose mode changes after the visit isolates the node all the same.",
		},
		{
			Name: "observe became the mode", Verdict: VerdictObserve, Step: reported, Needs: OrdersFact, Judge: observeNow,
			Differs: "No cordon asks it: a repair whose mode changes after the visit isolates the node all the same.",
		},
		{
			Name: "off became the mode", Verdict: VerdictIgnored, Step: reported, Needs: OrdersFact, Judge: offNow,
			Differs: "It comes before pauses at a visit and after them at a step, and no cordon asks it.",
		},
		{
			Name: "mode observe", Verdict: VerdictObserve, Visit: Alert | Intake, Judge: observe,
			Differs: "A visit asks it last but for exhausted attempts, a step right after storms, and no cordon asks it.",
		},
		{
			Name: "mode approve", Verdict: VerdictAwaitingApproval, Visit: Alert | Intake, Judge: unlessSeldom(approvalMissing),
			Differs: "A visit does not ask it for an event that is only noted, and no cordon asks it.",
		},
	}
}

// attempts give the node to people instead of repairing it once more.
func attempts() []Guard {
	const onlyBefore = "It is asked before the ticket is opened only; a procedure counts its reboots by itself."
	return []Guard{
		{
			Name: "reboots used up", Verdict: VerdictAttemptsExhausted, Visit: Alert, Judge: unlessSeldom(rebootsUsedUp), Differs: onlyBefore,
		},
		{
			Name: "suspected hardware", Verdict: VerdictAttemptsExhausted, Visit: Alert, Judge: unlessSeldom(suspect), Differs: onlyBefore,
		},
		{
			Name: "repeat offender", Verdict: VerdictAttemptsExhausted, Visit: Alert, Needs: NodeFact, Judge: unlessSeldom(repeatOffender), Differs: onlyBefore,
		},
	}
}

// now asks the sources, and for room, right before the act.
func now() []Guard {
	return []Guard{
		{
			Name: "silenced", Verdict: VerdictSilenced, Step: reported, Needs: FindingFact, Judge: silenced,
		},
		{
			Name: "sources silent", Verdict: VerdictUnverifiable, Step: reported, Needs: FindingFact, Judge: silentNow,
		},
		{
			Name: "not reported", Verdict: VerdictUnconfirmed, Step: reported, Needs: FindingFact, Judge: unconfirmedNow,
			Differs: "What a check of Aegis found outweighs an alert that is gone at a step; a cordon does not know of it.",
		},
		{
			Name: "reported too briefly", Verdict: VerdictUnconfirmed, Step: Alert | Begun, Needs: FindingFact, Judge: tooBrief,
			Differs: "A cordon does not ask it: it is cheap and comes first, and the fault is confirmed while the node is isolated.",
		},
		{
			Name: "budget", Verdict: VerdictBudget, Isolate: anyone, Step: anyone, Needs: RoomFact, Judge: noRoom,
			Differs: "At a cordon it is the pool's budget of nodes, at a step that of destructive steps in flight.",
		},
	}
}
