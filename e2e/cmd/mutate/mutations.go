package main

// mutation is one guard of the product, and what it looks like when it is broken.
type mutation struct {
	name string
	// invariant is what the guard is there for, by the name that the simulation has for it.
	invariant string
	// file is relative to the module. old occurs in it exactly once, and is replaced by new.
	file, old, new string
}

// The invariants of the simulation, as sop/sim_invariants_test.go names them.
const (
	permitted = "nothing disruptive without permission"
	once      = "no destructive step twice"
	bounded   = "no limit is exceeded"
	theirs    = "what is people's stays people's"
	honest    = "nothing is taken for repaired that is not proven"
	ended     = "every incident ends, and nothing is lost"
	obeyed    = "what people order is done"
	single    = "one procedure per node, by the one who leads"
	inOrder   = "the most urgent gets the freed place"
	timely    = "a step has its time, and no Job has more"
	attended  = "who leads looks at what is due"
	counted   = "the counts are those of a recount"
	authored  = "what others write begins nothing"
)

// invariants returns the names of all invariants.
func invariants() []string {
	return []string{permitted, once, bounded, theirs, honest, ended, obeyed, single, inOrder, timely, attended, counted, authored}
}

// mutations lists the guards by what they protect.
func mutations() []mutation {
	var all []mutation
	for _, list := range [][]mutation{
		permissions(), repetitions(), limits(), waiting(), people(), proofs(), endings(), orders(), leadership(), times(), authority(), attention(),
	} {
		all = append(all, list...)
	}
	return all
}

func permissions() []mutation {
	return []mutation{
		{"sources not asked", permitted, "sop/gate.go", "	s.Finding = &finding\n", ""},
		{"configured and ordered pause ignored", permitted, "sop/policy/table.go", "Isolate: anyone, Step: anyone, Needs: OrdersFact, Judge: paused", "Isolate: anyone, Needs: OrdersFact, Judge: paused"},
		{"exclusion ignored", permitted, "sop/policy/table.go", "Isolate: anyone, Step: anyone, Needs: NodeFact, Judge: excluded", "Isolate: anyone, Needs: NodeFact, Judge: excluded"},
		{"silence ignored", permitted, "sop/policy/finding.go", "	case f.Permission == prom.PermissionSilenced:", "	case false:"},
		{"silent Prometheus taken for firing", permitted, "sop/policy/finding.go", "	case f.Evidence == prom.EvidenceUnknown:", "	case false:"},
		{"silent Alertmanager taken for consent", permitted, "sop/policy/finding.go", "	case f.Permission == prom.PermissionUnknown:", "	case false:"},
		{"absence of Alertmanager taken for consent", permitted, "sop/policy/finding.go", "	case f.Permission == prom.PermissionIsolate:", "	case false:"},
		{"Alertmanager taken for away at once", permitted, "queue/permission.go", "p.began.Sub(r.heardAt) >= p.terms.awayAfter", "p.began.Sub(r.heardAt) >= 0"},
		{"silence of Aegis ignored", permitted, "sop/silences.go", "if silence.Active(now) && ", "if !silence.Active(now) && "},
		{"absent alert taken for firing", permitted, "sop/policy/finding.go", "	case f.Evidence == prom.EvidenceAbsent:", "	case false:"},
		{"contested alert taken for certain", permitted, "sop/policy/guards.go", "	if s.Status.Contested {", "	if false {"},
		{"alert that has just begun taken for confirmed", permitted, "sop/policy/finding.go", `s.Suspicion != "" || !s.Now.Before(confirmed) {`, `s.Suspicion != "" || true {`},
		{"old webhook taken for fresh", permitted, "sop/policy/finding.go", "s.Now.Sub(s.Status.LastSeen) < freshAlert", "s.Now.Sub(s.Status.LastSeen) < 100*freshAlert"},
		{"isolation not confirmed", permitted, "sop/gate.go", "	return g.refusal.Name == \"\"", "	return true"},
		{"permission not renewed for a repeated order", permitted, "sop/operations.go", "	w.permitted = w.gated == \"\"\n", "	w.permitted = true\n"},
		{"permission not renewed for a resumed order", permitted, "sop/operations.go", "permitted: c.permitted(gated), dated", "permitted: true, dated"},
		{"control plane disturbed", permitted, "sop/policy/guards.go", "if IsControlPlane(s.Node) && !s.Settings.ManageControlPlane {", "if false {"},
		{"permission not renewed during a drain", permitted, "sop/drain.go", "	if d.services.Clock.Since(c.admitted) <= age {", "	if true {"},
		{"node of another boot rebooted", permitted, "sop/gate.go", "g.journal.opened() && boot != s.Record.Ticket.BootID {", "boot == \"never\" {"},
		{"alert older than its node taken for certain", permitted, "sop/policy/guards.go", "	if !s.Status.FirstSeen.Before(registered) || ", "	if true || "},
		{"another machine of the name taken for the same", permitted, "ticket/store.go", "		if n.UID != u.uid {", "		if false {"},
		{"old proof of power-off believed", permitted, "sop/machine.go", "stale && !off.After(alive)", "stale && off.IsZero()"},
		{"proof of power-off that is to come believed", permitted, "sop/machine.go", "	case at.After(m.services.Clock.Now().Add(mostAhead)):\n", "	case at.IsZero():\n"},
		{"node with power taken for down", permitted, "sop/machine.go", "if state != powerOff {", "if state == \"never\" {"},
	}
}

func repetitions() []mutation {
	return []mutation{
		{
			"finished steps not replayed", once, "sop/executor.go", "	prior, known := e.journal.outcome(s.action, c.n)\n",
			"	if t := e.journal.ticket(); t != nil {\n		c.n = t.Count(s.action) + 1\n	}\n	prior, known := e.journal.outcome(s.action, c.n)\n",
		},
		{
			"name of a Job not deterministic", once, "jobs/request.go", "	attempt := strconv.Itoa(r.Attempt)\n",
			"	attempt := strconv.Itoa(r.Attempt) + strconv.FormatInt(time.Now().UnixNano(), 36)\n",
		},
		{"name of a Job without its attempt", once, "jobs/request.go", "	attempt := strconv.Itoa(r.Attempt)\n", "	attempt := strconv.Itoa(min(r.Attempt, 1))\n"},
		{
			"step not journaled before the act", once, "sop/executor.go", "	if err := e.journal.begin(ctx, s, *c); err != nil {",
			"	if err := ctx.Err(); err != nil {",
		},
		{"successor of a restarted pod deleted too", once, "sop/step_pod.go", "		return string(pod.UID) == r.chosen.uid\n", "		return true\n"},
		{"stale cache decided on", once, "sop/dispatcher.go", "	node = d.latest(node)\n", ""},
	}
}

func limits() []mutation {
	return []mutation{
		{"no room needed to cordon", bounded, "sop/limits.go", "	if reason := l.room(c, how, settings); reason != \"\" {", "	if reason := l.room(c, how, settings); false {"},
		{"cordons of others not counted", bounded, "sop/census.go", "return e.node.Spec.Unschedulable || !policy.IsReady(e.node)", "return !policy.IsReady(e.node)"},
		{"nodes that are not ready not counted", bounded, "sop/census.go", "return e.node.Spec.Unschedulable || !policy.IsReady(e.node)", "return e.node.Spec.Unschedulable"},
		{"own reservations not counted", bounded, "sop/places.go", "e.in(pool) && l.holds(name, e) {", "false {"},
		{"no slot needed to destroy", bounded, "sop/limits.go", "own, settings); reason != \"\" {\n		return func() {}, reason", "own, settings); false {\n		return func() {}, reason"},
		{"slot of a ticket taken over given away", bounded, "sop/census.go", "		h.step, h.destroys = runningDestructive(t)\n", "		if t.Owned() {\n			h.step, h.destroys = runningDestructive(t)\n		}\n"},
		{"reboots not counted", bounded, "sop/ask.go", "	return used < e.status.Policy.MaxReboots\n", "	return true\n"},
		{"cooldown ignored", bounded, "sop/policy/guards.go", "!s.Now.Before(until) {", "true {"},
		{"repeat offender repaired again", bounded, "sop/policy/table.go", "Visit: Alert, Needs: NodeFact, Judge: unlessSeldom(repeatOffender)", "Needs: NodeFact, Judge: unlessSeldom(repeatOffender)"},
		{"storm ignored", bounded, "sop/storm.go", "			case s.Released == nil:\n				return s.Why()", "			case s.Released == nil:\n				return \"\""},
		{
			"budget of the cluster dropped", bounded, "sop/places.go", "	if limit == policy.LimitBudget {\n		p.size, p.taken",
			"	if limit == policy.LimitBudget {\n		if pool.Name == policy.ClusterName {\n			p.allowed = math.MaxInt\n			return p\n		}\n		p.size, p.taken",
		},
		{
			"slots of the cluster dropped", bounded, "sop/places.go", "	p.allowed = pool.Slots(p.size)\n",
			"	if p.allowed = pool.Slots(p.size); pool.Name == policy.ClusterName {\n		p.allowed = math.MaxInt\n	}\n",
		},
		{"storm of the cluster not found", bounded, "sop/storm.go", "if pools[condition] > 1 && settings.Cluster.Name", "if pools[condition] > 100 && settings.Cluster.Name"},
		{"own writes counted once the cache shows them", bounded, "sop/journal.go", "	j.written(record.Node)\n", ""},
		{"storm looked for from time to time", bounded, "sop/storm.go", "} else if len(w.grown) > 0 {", "} else if false {"},
		{"storm not found", bounded, "sop/storm.go", "nodes <= limit ||", "nodes <= 100*limit ||"},
	}
}

func waiting() []mutation {
	return []mutation{
		{
			"place in the budget given to the first to ask", inOrder, "sop/limits.go", "	return l.turn(limitOf{policy.LimitBudget, e.pool}, c, how,",
			"	return l.turn(limitOf{policy.LimitBudget, e.pool}, c, stays,",
		},
		{"slot given to the first to ask", inOrder, "sop/limits.go", "	if _, has := l.inFlight[node.Name]; has {", "	if true {"},
		{"place of the cluster given to the first to ask", inOrder, "sop/places.go", "		if l.give(w) && lacking() != nil {", "		if w.pool == in.pool.Name && l.give(w) && lacking() != nil {"},
		{"uncordon not counted", counted, "sop/census.go", "		t.out = without(t.out, name)\n", ""},
		{"own write not counted", counted, "sop/census.go", "		node = w\n", ""},
	}
}

func people() []mutation {
	return []mutation{
		{"ticket written without a look at what it was", theirs, "ticket/patch.go", "	for _, key := range slices.Sorted(maps.Keys(tested)) {\n", "	for _, key := range slices.Sorted(maps.Keys(tested)) {\n		if key == Annotation {\n			continue\n		}\n"},
		{"note that people took in hand gives way", theirs, "sop/dispatcher.go", "	return noted(t, d.catalogue.Status(\"\", t.Condition, \"\", 0).Policy.Team)\n", "	return onlyTold(t)\n"},
		{"ticket of people taken for an own one", theirs, "sop/journal.go", "	case !t.Owned():", "	case false:"},
		{"cordon set after the request undone", theirs, "sop/policy/cordon.go", "return lent != \"\" && CordonOf(node) == lent", "return lent != \"\""},
		{"cordon that came while the request waited undone", theirs, "sop/check.go", "policy.RequesterOf(node), policy.LentByNote", "policy.RequesterOf(node), policy.LentNow"},
		{"cordon of a person undone", theirs, "sop/step_cordon.go", "	case policy.OwnCordon(node), lent && !policy.Excluded(node):", "	case node.Spec.Unschedulable:"},
		{"cordon of a person taken for an own one", theirs, "sop/policy/table.go", "Isolate: anyone, Step: reported | Requested, Needs: NodeFact, Judge: cordonedByPeople", "Needs: NodeFact, Judge: cordonedByPeople"},
		{"cordon that a person has replaced taken for an own one", theirs, "ticket/cordon.go", "		return isOther(e) && writesOf(e).cordon", "		return false && writesOf(e).cordon"},
		{"edits by people not watched for", theirs, "sop/watch.go", "		if err := b.edited(ctx, record); err != nil {", "		if err := b.edited(ctx, record); false {"},
		{"stale owner note kept", theirs, "sop/cleanup.go", "!node.Spec.Unschedulable && node.Annotations[ticket.OwnerAnnotation] != \"\":", "false:"},
	}
}

func proofs() []mutation {
	return []mutation{
		{"absence not waited for", honest, "sop/step_wait.go", "	return f.Seen.Sub(v.clearSince) >= v.clearFor", "	return true"},
		{"silent source taken for absence", honest, "sop/step_wait.go", "	if f.Evidence != prom.EvidenceAbsent {", "	if f.Evidence == prom.EvidenceFiring {"},
		{"absence of what nobody sees", honest, "queue/pass.go", "	if why != \"\" {\n		return prom.EvidenceUnknown,", "	if why != \"\" {\n		return prom.EvidenceAbsent, \"\", p.began\n	}\n	if why != \"\" {\n		return prom.EvidenceUnknown,"},
		{"absence of what an Alertmanager lists", honest, "queue/pass.go", "	case l != nil: // By its own clock", "	case l != nil && false: // By its own clock"},
		{"alert that only grew old taken for gone", honest, "queue/evaluated.go", "	p.aged = e.settle(p, ended)\n", "	p.aged = make(map[prom.Key]string)\n	e.settle(p, ended)\n"},
		{"absence not verified", honest, "sop/playbook/end.go", "	err = b.Verify(ctx)\n	if err == nil {\n		err = CheckHealth", "	if err == nil {\n		err = CheckHealth"},
		{"fault that is back returned", honest, "sop/recurrence.go", "	if r == nil {", "	if r != nil && r.verified {"},
		{"failed healthcheck taken for a passed one", honest, "sop/operations.go", "	return outcome{}, foundBadly(r)\n", "	return outcome{message: r.Message, findings: findings(r)}, nil\n"},
		{"other faults do not keep a node cordoned", honest, "sop/step_cordon.go", " && blocks(s) {", " && blocks(s) && false {"},
	}
}

func endings() []mutation {
	return []mutation{
		{"history forgotten", ended, "sop/step_close.go", "		c.History = entered(r.History, t, ticket.Resolved, e.services.Clock.Now())\n", ""},
		{"reservation not given back", ended, "sop/dispatcher.go", "		d.services.limits.release(r.status.Node, last.Spec.Unschedulable)\n", ""},
		{"slot not given back", ended, "sop/limits.go", "	l.inFlight[node.Name] = action\n	return func() { l.end(node.Name) }, \"\"", "	l.inFlight[node.Name] = action\n	return func() {}, \"\""},
		{"node not looked at again", ended, "sop/dispatcher.go", "			return d.services.Timing.Hold\n		}\n	}\n	return 0", "			return 0\n		}\n	}\n	return 0"},
		{"ticket that was given back not closed", ended, "sop/cleanup.go", "	case released(t):", "	case false:"},
		{"node left cordoned without a ticket", ended, "sop/dispatcher.go", "	statuses = d.withLeft(record, statuses)\n", ""},
		{"hand-over forgotten", ended, "sop/step_close.go", "		t.Supervisor = team\n", ""},
	}
}

func orders() []mutation {
	return []mutation{
		{"rule that was removed acted on", obeyed, "sop/policy/guards.go", "	if s.Status.Policy.Mode == \"\" {\n", "	if false {\n"},
		{"change of the mode ignored", obeyed, "sop/gate.go", "	return orders.Apply(current)", "	return current"},
		{"approval not waited for", obeyed, "sop/policy/table.go", "Visit: Alert | Intake, Isolate: Alert | Begun, Step: Alert | Begun, Needs: OrdersFact, Judge: approvalMissing", "Needs: OrdersFact, Judge: approvalMissing"},
		{"mode observe not obeyed", obeyed, "sop/policy/table.go", "Visit: Alert | Intake, Isolate: reported, Step: reported, Needs: OrdersFact, Judge: observe", "Needs: OrdersFact, Judge: observe"},
		{"maintenance windows ignored", obeyed, "sop/policy/table.go", "Step: reported, Needs: OrdersFact, Judge: outsideWindows", "Needs: OrdersFact, Judge: outsideWindows"},
		{"mode not known to a cordon", obeyed, "sop/policy/table.go", "Visit: Alert | Intake, Isolate: reported, Step: reported, Needs: OrdersFact, Judge: modeOff", "Visit: Alert | Intake, Step: reported, Needs: OrdersFact, Judge: modeOff"},
		{"pause not known to a cordon", obeyed, "sop/policy/table.go", "Isolate: anyone, Step: anyone, Needs: OrdersFact, Judge: paused", "Step: anyone, Needs: OrdersFact, Judge: paused"},
	}
}

func leadership() []mutation {
	return []mutation{
		{"lost Lease not noticed", single, "sop/orders.go", "identity != \"\" && (holder == nil || *holder != identity) {", "false && holder == nil {"},
		{"node handed out twice", single, "queue/node.go", "	if n.inFlight {\n		n.changed = true\n		return\n	}\n", ""},
		{"reboot left in the middle", single, "sop/watch.go", "	case ticket.Wait, ticket.WaitIdle,", "	case ticket.Reboot, ticket.Wait, ticket.WaitIdle,"},
		{"preempted by what is less urgent", single, "sop/watch.go", "if urgencyOf(s) >= urgency || ", "if urgencyOf(s) == urgency || "},
	}
}

func attention() []mutation {
	return []mutation{
		{"who lost the Lease never stands again", attended, "election/election.go", "		if err != nil || ctx.Err() != nil {\n			return err", "		if true {\n			return err"},
		{"node that was looked at not given back", attended, "sop/dispatcher.go", "		d.queue.Done(name, d.requeueAfter(verdicts))\n", ""},
	}
}

func times() []mutation {
	return []mutation{
		{
			"time of an adopted step counted from its beginning", timely, "sop/executor.go", "		c.time.spent, c.time.kept = prior.Spent, prior.Spent\n",
			"		c.time.spent, c.time.kept = e.services.Clock.Since(prior.At), prior.Spent\n",
		},
		{"suspended Job followed for ever", timely, "sop/following.go", "	case late:\n		return f.giveUp(ctx, r)\n", "	case late && f.end < 0:\n		return f.giveUp(ctx, r)\n"},
	}
}

func authority() []mutation {
	return []mutation{
		{"ticket taken for proven without a record", authored, "ticket/proof.go", "	if !found || t == nil || t.ID == \"\" || s.Ticket != t.ID || recordedByOthers(n) {\n		return Proof{}\n", "	if !found || t == nil || t.ID == \"\" || s.Ticket != t.ID || recordedByOthers(n) {\n		return Proof{true, true}\n"},
		{"edited steps taken for proven", authored, "ticket/proof.go", "Outcomes: s.Outcomes == outcomes}", "Outcomes: outcomes != \"\"}"},
		{"edited origin and approval taken for proven", authored, "ticket/proof.go", "Proof{Identity: s.Identity == identity,", "Proof{Identity: identity != \"\","},
		{"approval kept through a preemption", authored, "sop/watch.go", "		t.ApprovedBy = \"\"\n", ""},
		{"unfinished drain left beside an order", single, "sop/occupied.go", "	return m.journal.endDrains(ctx)\n", "	return nil\n"},
		{"old list of pods believed", authored, "sop/occupied.go", "		good := max(permissionAge, listed.Sub(began))\n", "		good := max(time.Hour, listed.Sub(began))\n"},
		{"drain believed", authored, "sop/occupied.go", "	case len(pods) > 0:\n", "	case len(pods) > 0 && err != nil:\n"},
		{"boots of a removed ticket forgotten", bounded, "ticket/patch.go", "	settle(r, c, now)\n", ""},
	}
}
