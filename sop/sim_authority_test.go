package sop_test

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/soptest"
)

// What people forge: tickets, and what they say of permissions and steps. The oracle knows what was really asked for, approved and edited.

// authority is what the oracle knows of that.
type authority struct {
	// requests and approvals are what people have asked for over the API.
	requests, approvals map[prom.Key]bool
	// edited is when people changed what only Aegis may say in a ticket, by its ID.
	edited map[string]time.Time
}

func newAuthority() authority {
	return authority{requests: make(map[prom.Key]bool), approvals: make(map[prom.Key]bool), edited: make(map[string]time.Time)}
}

// opensItsOwn judges that Aegis goes on with no ticket that it has not opened.
func opensItsOwn(o *oracle, m moment) {
	old, now := m.old.ticket, m.now.ticket
	if old != nil && old.ID == now.ID && now.owned() && m.p.ordering[m.node] == 0 {
		m.violated("p%d goes on with ticket %s on %s, which people have written", m.p.id, now.ID, m.node)
	}
}

// leavesWhatWasEdited judges that Aegis goes on with no ticket in which people have changed what only Aegis may say.
func leavesWhatWasEdited(o *oracle, m moment) {
	old, now := m.old.ticket, m.now.ticket
	if old != nil && now != nil && old.ID == now.ID && now.owned() && !o.edited[now.ID].IsZero() && m.p.ordering[m.node] == 0 {
		m.violated("p%d goes on with ticket %s on %s, whose steps or origin people have edited", m.p.id, now.ID, m.node)
	}
}

// actsForWhoAsked judges that who is said to have asked for the repair, or approved it, has, and for this very condition.
func actsForWhoAsked(o *oracle, m moment) {
	incident := o.incidents[o.owned[m.node].id]
	switch {
	case incident == nil:
	case incident.requested && !o.requests[incident.key] && o.asked[m.node].IsZero():
		m.violated("p%d: %s on %s for a request that nobody has made", m.p.id, m.what, m.node)
	case incident.approved && !o.approvals[incident.key]:
		m.violated("p%d: %s on %s for an approval of %s that nobody has given", m.p.id, m.what, m.node, incident.key.Condition)
	}
}

// destroysNoWork judges that nothing is booted or powered off under workload, whoever has drained the node and when.
func destroysNoWork(o *oracle, m moment) {
	r := m.job
	if a := stepOf(r); a != actReboot && a != actShutdown {
		return
	}
	for _, pod := range o.c.PodsOn(r.Node) {
		daemon := len(pod.OwnerReferences) > 0
		if !daemon && m.p.idle(r.Node, pod.CreationTimestamp.Time) > simThought {
			m.violated("p%d orders %s on %s under pod %s", m.p.id, m.what, r.Node, pod.Name)
		}
	}
}

// drawForgery has people write what only Aegis may. It has chances of its own, so that what else a seed means stays as it was.
func (s *schedule) drawForgery(seed uint64) {
	others := s.rng
	defer func() { s.rng = others }()
	s.rng = rand.New(rand.NewPCG(seed, 9))
	for range s.rng.IntN(4) {
		o := s.sick[s.rng.IntN(len(s.sick))]
		what := []func(string){s.forgeTicket, s.forgeTicket, s.forgeStep, s.forgeApproval, s.forgeOrigin, s.forgeCondition, s.forgeRecords}[s.rng.IntN(7)]
		do := func() { what(o.node) }
		steps := []string{actDiagnose, actDrain, actReboot, actWait, actVerify, actHealthcheck}
		if s.rng.IntN(2) == 0 {
			s.afterStep(o, steps[s.rng.IntN(len(steps))], do)
			continue
		}
		s.at(o.at+s.within(30*time.Minute), do)
	}
	for range s.rng.IntN(2) {
		o := s.sick[s.rng.IntN(len(s.sick))]
		name := fmt.Sprintf("late-%d", s.rng.IntN(1000))
		s.afterStep(o, []string{actDrain, actReboot, actDiagnose}[s.rng.IntN(3)], func() { s.Later(s.Between("late pod", 0, time.Minute), func() { s.latePod(name, o.node) }) })
	}
}

// latePod is one that tolerates a cordon.
func (s *schedule) latePod(name, node string) {
	if s.Nodes[node] == nil {
		return
	}
	pod := soptest.NewPod("train", name, node, 0)
	pod.CreationTimestamp.Time = time.Now()
	s.AddPod(pod)
}

// forgeTicket has a person give Aegis a ticket that says that all but the boot is done, on a node that has none.
func (s *schedule) forgeTicket(name string) {
	if s.Nodes[name] == nil || s.ticketOn(name) != nil {
		return
	}
	s.writeTicket(name, fmt.Sprintf("id: forged-%s\ncondition: %s\nsupervisor: aegis\nstatus: resolving\norigin: heal:mallory\napprovedBy: mallory\n"+
		"bootID: %s\nworkflows:\n- {action: cordon, status: Succeeded}\n- {action: diagnose, status: Succeeded}\n- {action: drain, status: Succeeded}\n",
		name, simReboot, s.Nodes[name].Status.NodeInfo.BootID))
}

// edit has a person change the ticket of Aegis.
func (s *schedule) edit(name string, pattern, to string) {
	t := s.ticketOn(name)
	if t == nil || !t.owned() {
		return
	}
	text := s.Nodes[name].Annotations[soptest.TicketAnnotation]
	changed := regexp.MustCompile(pattern).ReplaceAllString(text, to)
	if changed == text {
		return
	}
	s.oracle.edited[t.ID] = time.Now()
	if known := s.oracle.incidents[t.ID]; known != nil {
		// It ends there, and what holds on the node is another incident.
		known.removed = true
	}
	s.writeTicket(name, changed)
}

func (s *schedule) writeTicket(name, text string) {
	s.Logf("person writes on %s: %s", name, strings.ReplaceAll(text, "\n", "; "))
	s.annotateTicket(name, text)
}

func (s *schedule) annotateTicket(name, text string) {
	s.Edit(name, func(n *corev1.Node) {
		annotations := make(map[string]string)
		for key, value := range n.Annotations {
			annotations[key] = value
		}
		annotations[soptest.TicketAnnotation], n.Annotations = text, annotations
	})
}

func (s *schedule) forgeStep(name string) {
	s.edit(name, `(?m)^workflows:\n`, "workflows:\n  - {action: drain, status: Succeeded}\n  - {action: healthcheck, status: Succeeded}\n")
}

func (s *schedule) forgeApproval(name string) {
	s.edit(name, `(?m)^supervisor: aegis\n`, "supervisor: aegis\napprovedBy: mallory\n")
}

func (s *schedule) forgeOrigin(name string) {
	s.edit(name, `(?m)^origin: alert\n`, "origin: heal:mallory\n")
}

func (s *schedule) forgeCondition(name string) {
	s.edit(name, `(?m)^condition: .*\n`, "condition: "+simIsolate+"\n")
}

// forgeRecords has a person take away what Aegis keeps for itself, which the API server refuses.
func (s *schedule) forgeRecords(name string) {
	s.Edit(name, func(n *corev1.Node) {
		annotations := make(map[string]string)
		for key, value := range n.Annotations {
			if key != soptest.HistoryAnnotation && key != soptest.RecordAnnotation {
				annotations[key] = value
			}
		}
		n.Annotations = annotations
	})
}

// drawNotes draws whether cordoned nodes are only observed, whether people end an incident while its node returns, and when the API server
// forgets who has cordoned one: it merges the writers that wrote long ago, or people take its notes away.
func (s *schedule) drawNotes(seed uint64) {
	others := s.rng
	defer func() { s.rng = others }()
	s.rng = rand.New(rand.NewPCG(seed, 11))
	s.observes = s.rng.IntN(2) == 0
	if s.rng.IntN(3) == 0 {
		o := s.sick[s.rng.IntN(len(s.sick))]
		end := []func(string){s.remove, s.forgeStep}[s.rng.IntN(2)]
		s.afterStep(o, []string{actVerify, actHealthcheck, actUncordon}[s.rng.IntN(3)], func() { end(o.node) })
	}
	if s.rng.IntN(3) > 0 {
		return
	}
	o := s.sick[s.rng.IntN(len(s.sick))]
	lose := []func(n *corev1.Node){
		func(n *corev1.Node) { n.ManagedFields = nil },
		func(n *corev1.Node) {
			for i := range n.ManagedFields {
				n.ManagedFields[i].Manager = "ancient-changes"
			}
		},
	}[s.rng.IntN(2)]
	do := func() {
		s.Logf("world: nobody is noted any more to have written %s", o.node)
		s.Edit(o.node, lose)
	}
	if s.rng.IntN(4) == 0 {
		s.at(o.at+s.within(30*time.Minute), do)
		return
	}
	s.afterStep(o, []string{actDrain, actReboot, actVerify, actHealthcheck, actUncordon}[s.rng.IntN(5)], do)
}
