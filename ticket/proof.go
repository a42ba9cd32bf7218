package ticket

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash"
	"maps"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// RecordAnnotation holds the proof that the ticket is as Aegis has written it. Nobody else may set, change or remove it.
const RecordAnnotation = "aegis.io/record"

const (
	// Removed is the outcome of an incident whose ticket somebody took away, or closed by hand.
	Removed = "removed"
	// Unproven is the outcome of what tickets tell that are not proven to be as Aegis has written them.
	Unproven = "unproven"
)

// Proof says what of a ticket is as Aegis has written it.
type Proof struct {
	// Identity is what the incident is about and what was permitted: all that has no other place here.
	Identity bool
	// Outcomes are the steps: actions, statuses, times and what they found.
	Outcomes bool
}

// Whole reports whether all that Aegis acts on is proven.
func (p Proof) Whole() bool { return p.Identity && p.Outcomes }

const (
	sealVersion = 1
	// maxSealed bounds the destructive steps that a record names, and the others what it keeps of a name.
	maxSealed       = 6
	sealedCondition = 32
	sealedBoot      = 64
)

// seal is what the record of a ticket says.
type seal struct {
	Version   int       `json:"v"`
	Node      types.UID `json:"node"`
	Ticket    string    `json:"ticket"`
	Identity  string    `json:"identity"`
	Outcomes  string    `json:"outcomes"`
	Condition string    `json:"condition,omitempty"`
	Isolated  bool      `json:"isolated,omitempty"`
	// Did are the times of the last destructive steps that may have happened, in seconds, so that they are not forgotten with the ticket.
	Did map[Action][]int64 `json:"did,omitempty"`
	// Tried says that something was done that may have mended the node, or harmed it.
	Tried bool `json:"tried,omitempty"`
	// Runs are the steps that run, so that nothing is begun beside them should the ticket be edited or removed.
	Runs map[Action]sealedRun `json:"runs,omitempty"`
}

// sealedRun is a step that runs: its number among those of its action, when it began or was ordered, in seconds, and the boot that a reboot is to end.
type sealedRun struct {
	N    int    `json:"n"`
	At   int64  `json:"at"`
	Boot string `json:"boot,omitempty"`
}

// Run is a step that runs, or may do so.
type Run struct {
	Ticket string
	Action Action
	N      int
	At     time.Time
	// Boot is the boot that a reboot is to end. Empty where that is not known.
	Boot string
}

// Runs lists the steps that may run on the node: those of its ticket and those of its record, whatever has become of the ticket since.
func (r Record) Runs() []Run {
	var runs []Run
	if t := r.Ticket; t != nil {
		for _, s := range t.Running() {
			runs = append(runs, Run{t.ID, s.Action, t.Count(s.Action), s.Effective(), t.BootID})
		}
	}
	s, _ := readSeal(r.Node)
	for _, action := range slices.Sorted(maps.Keys(s.Runs)) {
		run := s.Runs[action]
		runs = append(runs, Run{s.Ticket, action, run.N, time.Unix(run.At, 0), run.Boot})
	}
	return runs
}

// RecordOf returns the record that belongs to a ticket on the node which has the text.
func RecordOf(n *corev1.Node, text string, now time.Time) (string, error) {
	t := &Ticket{}
	if err := t.parse(text); err != nil {
		return "", err
	}
	s := seal{
		Version: sealVersion, Node: n.UID, Ticket: t.ID, Condition: Clip(t.Condition, sealedCondition), Isolated: t.Count(Cordon) > 0,
		Tried: t.tried(),
	}
	s.Identity, s.Outcomes = t.digests()
	before, found := readSeal(n)
	if !found || before.Ticket != t.ID {
		before = seal{}
	}
	did := t.destructive(now, before.Did)
	for _, d := range did[max(0, len(did)-maxSealed):] {
		if s.Did == nil {
			s.Did = make(map[Action][]int64)
		}
		s.Did[d.Action] = append(s.Did[d.Action], d.At.Unix())
	}
	for _, step := range t.Running() {
		if s.Runs == nil {
			s.Runs = make(map[Action]sealedRun)
		}
		run := sealedRun{N: t.Count(step.Action), At: step.Effective().Unix()}
		if step.Action == Reboot {
			run.Boot = Clip(t.BootID, sealedBoot)
		}
		s.Runs[step.Action] = run
	}
	record, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("encode the record of ticket %q: %w", t.ID, err)
	}
	return string(record), nil
}

// Tried reports whether something was done for the incident that may have mended the node, or harmed it, by its ticket or by its record.
func (r Record) Tried() bool {
	s, _ := readSeal(r.Node)
	return s.Tried || r.Ticket != nil && r.Ticket.tried()
}

func (t *Ticket) tried() bool {
	return slices.ContainsFunc([]Action{Remedy, Repair, RestartPod, Reset, Reboot, Shutdown, Taint}, func(a Action) bool { return t.Count(a) > 0 })
}

// readSeal returns what the record of the node says, false if there is none that is of this node.
func readSeal(n *corev1.Node) (seal, bool) {
	text, found := n.Annotations[RecordAnnotation]
	var s seal
	if !found || len(text) > MaxBytes || json.Unmarshal([]byte(text), &s) != nil {
		return seal{}, false
	}
	return s, s.Version == sealVersion && s.Node == n.UID
}

// prove says what of the ticket on the node is proven.
func prove(n *corev1.Node, t *Ticket) Proof {
	s, found := readSeal(n)
	if !found || t == nil || t.ID == "" || s.Ticket != t.ID || recordedByOthers(n) {
		return Proof{}
	}
	identity, outcomes := t.digests()
	return Proof{Identity: s.Identity == identity, Outcomes: s.Outcomes == outcomes}
}

// mergedManager is what the API server names the oldest of more writers than it keeps apart.
const mergedManager = "ancient-changes"

// recordedByOthers reports whether somebody else than Aegis is noted to have written the record. It tells nothing of one who uses the name
// of Aegis, which the admission policy refuses.
func recordedByOthers(n *corev1.Node) bool {
	return slices.ContainsFunc(n.ManagedFields, func(e metav1.ManagedFieldsEntry) bool {
		return isOther(e) && writesOf(e).record
	})
}

// Destructive lists the destructive steps of the ticket that may have happened, oldest first. One whose time was dropped for size counts
// as having happened now, because forgetting it too early would allow one more.
func (t *Ticket) Destructive(now time.Time) []Destructive { return t.destructive(now, nil) }

// destructive does so with the times that the record had before, in seconds and in the order of the calls.
func (t *Ticket) destructive(now time.Time, known map[Action][]int64) []Destructive {
	var steps []Destructive
	for _, action := range []Action{Reset, Reboot, Shutdown, Taint} {
		times := known[action]
		for n := 1; n <= t.Count(action); n++ {
			s, _ := t.Outcome(action, n)
			if s.Status == Canceled {
				continue
			}
			at := s.Effective()
			if at.IsZero() {
				at = now
				if len(times) > 0 {
					at = time.Unix(times[0], 0)
				}
			}
			times = times[min(1, len(times)):]
			steps = append(steps, Destructive{Action: action, At: at})
		}
	}
	slices.SortStableFunc(steps, func(a, b Destructive) int { return a.At.Compare(b.At) })
	return steps
}

// freeFields are those of a ticket that people may edit: none of them begins anything. outcomeFields say what was done.
func freeFields() []string    { return []string{"supervisor", "status", "reason", "hold", "attended"} }
func outcomeFields() []string { return []string{"workflows", "done", "found", "recovery"} }

// proseField is the one of a step that is for people alone.
const proseField = "message"

// digests returns the digests of the two parts of the ticket. Every field is in one of them unless people may edit it, so that one which
// is added later is not left out.
func (t *Ticket) digests() (identity, outcomes string) {
	known := t.Clone()
	known.extra = nil
	for i := range known.Workflows {
		known.Workflows[i].extra = nil
	}
	who, what := sha256.New(), sha256.New()
	for key, value := range fields(known.node()) {
		switch {
		case slices.Contains(freeFields(), key.Value):
		case slices.Contains(outcomeFields(), key.Value):
			digest(what, key)
			digest(what, value)
		default:
			digest(who, key)
			digest(who, value)
		}
	}
	return sum(who), sum(what)
}

// digest adds what a node says, in whatever style it is written. The lengths go in, so that no two nodes run together to the same text.
func digest(h hash.Hash, n *yaml.Node) {
	if n.Kind == yaml.ScalarNode {
		fmt.Fprintf(h, "%d:%s", len(n.Value), n.Value)
		return
	}
	fmt.Fprintf(h, "(%d", n.Kind)
	if n.Kind == yaml.MappingNode {
		for key, value := range fields(n) {
			if key.Value != proseField {
				digest(h, key)
				digest(h, value)
			}
		}
	} else {
		for _, child := range n.Content {
			digest(h, child)
		}
	}
	fmt.Fprint(h, ")")
}

// sum returns 16 bytes of the digest: nobody but Aegis can write a record, so that it has to tell texts apart and no more.
func sum(h hash.Hash) string { return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16]) }

// settle keeps what the record says was done, should its ticket leave the node without a word of it in the history: somebody has removed
// it, closed it by hand, or shortened it. A record of others counts as well: whoever applies it as it is owns it besides Aegis, and more
// that was done makes Aegis do less.
func settle(r Record, c *Change, now time.Time) {
	s, found := readSeal(r.Node)
	stays := !c.RemoveTicket && (c.Ticket == nil || c.Ticket.ID == s.Ticket)
	if !found || stays || len(s.Did) == 0 && !s.Isolated {
		return
	}
	history := r.History.Clone()
	if c.History != nil {
		history = c.History.Clone()
	}
	i := slices.IndexFunc(history.Incidents, func(i Incident) bool { return i.ID == s.Ticket })
	if i < 0 {
		history.Add(Incident{ID: s.Ticket, Condition: s.Condition, Closed: now, Outcome: Removed, Isolated: s.Isolated})
		i = len(history.Incidents) - 1
	}
	if in := &history.Incidents[i]; s.complete(in) || c.History != nil || in.Outcome == Removed {
		c.History = history
	}
}

// complete adds to the incident the destructive steps that the record has and it has not, and reports whether there were any.
func (s seal) complete(in *Incident) bool {
	missed := false
	for _, action := range []Action{Reset, Reboot, Shutdown, Taint} {
		known := 0
		for _, d := range in.Destructive {
			if d.Action == action {
				known++
			}
		}
		times := s.Did[action]
		for _, at := range times[:max(0, len(times)-known)] {
			in.Destructive = append(in.Destructive, Destructive{Action: action, At: time.Unix(at, 0).UTC()})
			missed = true
		}
	}
	return missed
}
