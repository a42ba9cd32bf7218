package sitetest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// Tickets outlive the binary that wrote them. testdata/tickets holds, per version of Aegis, what its process left in the cluster when it
// died in the middle of each action; the present binary takes up each of them, and what it leaves behind itself, to the same end.

// recorded is the version whose tickets are written to testdata/tickets, as before a release.
var recorded = flag.String("record", "", "write the tickets of this binary to testdata/tickets/`VERSION`")

// inAJob is while a Job runs.
const inAJob = JobTime / 3

const ticketsDir = "../../testdata/tickets"

// recordedAt is when the incidents of the recorded tickets begin.
var recordedAt = time.Date(2026, 11, 29, 8, 0, 0, 0, time.UTC)

// death is a point at which a process dies, and what the next one does from there.
type death struct {
	name      string
	condition string
	story     Story
	// policy is what the site says about the condition besides that Aegis may act.
	policy string
	// quiet sites have no alert in the first place: the condition is not reported.
	quiet bool
	// people do something while the process runs.
	people func(w *Site, d *sop.Dispatcher) error
	// at finds the write with which the process dies, or after which it lives on for so long.
	at    func(t *ticket.Ticket) bool
	after time.Duration
	// gone is true where the alert has ended by then.
	gone bool
	// folded tickets do not say in which order their first steps were taken.
	folded bool
	// released tickets are given back by the person who has them.
	released bool
	// orders are the operations that the next process asks for, steps those of the whole incident, end is how it ends.
	orders     []string
	steps, end string
}

// running finds the write that begins the n-th call of an action.
func running(a ticket.Action, n int) func(*ticket.Ticket) bool { return called(a, n, ticket.Running) }

func called(a ticket.Action, n int, s ticket.StepStatus) func(*ticket.Ticket) bool {
	return func(t *ticket.Ticket) bool {
		call, known := t.Outcome(a, n)
		return known && call.Status == s
	}
}

func created(t *ticket.Ticket) bool { return t.Status == ticket.StatusCreated }

func held(t *ticket.Ticket) bool { return t.Hold != "" }

func deaths() []death {
	const (
		boots    = Isolate + "drain, reboot, " + Fit
		resets   = Isolate + "draingpu, reset, " + Fit
		rest     = protocol.ActionHealthcheck
		silent   = "wait failed, cordon, "
		poweroff = 5 * time.Minute
	)
	hung := Story{FixedBy: protocol.ActionReboot}
	return []death{
		{
			name: "cordon", condition: "GpuHung", story: hung, at: called(ticket.Cordon, 1, ticket.Succeeded),
			orders: []string{protocol.ActionDiagnose, protocol.ActionReboot, rest}, steps: boots, end: "resolved",
		},
		{
			name: "diagnose", condition: "GpuHung", story: hung, at: running(ticket.Diagnose, 1), after: inAJob,
			orders: []string{protocol.ActionReboot, rest}, steps: boots, end: "resolved",
		},
		{
			name: "drain", condition: "GpuHung", story: hung, at: running(ticket.Drain, 1),
			orders: []string{protocol.ActionReboot, rest}, steps: boots, end: "resolved",
		},
		{
			name: "reboot", condition: "GpuHung", story: hung, at: running(ticket.Reboot, 1), after: inAJob,
			orders: []string{rest}, steps: boots, end: "resolved",
		},
		{
			name: "reboot-second", condition: "GpuHung", story: Story{FixedBy: protocol.ActionReboot, At: 2}, at: running(ticket.Reboot, 2), after: inAJob,
			orders: []string{rest}, steps: Isolate + "drain, reboot, verify failed, reboot, " + Fit, end: "resolved",
		},
		{
			name: "verify", gone: true, condition: "GpuHung", story: hung, at: running(ticket.Verify, 1),
			orders: []string{rest}, steps: boots, end: "resolved",
		},
		{
			name: "verify-in-vain", condition: "GpuHung", story: Story{}, at: running(ticket.Verify, 2),
			orders: []string{protocol.ActionShutdown},
			steps:  Isolate + "drain, reboot, verify failed, reboot, verify failed, shutdown, handover", end: "handed over to gpu, powered off",
		},
		{
			name: "healthcheck", gone: true, condition: "GpuHung", story: hung, at: running(ticket.Healthcheck, 1), after: inAJob,
			steps: boots, end: "resolved",
		},
		{name: "uncordon", gone: true, condition: "GpuHung", story: hung, at: running(ticket.Uncordon, 1), steps: boots, end: "resolved"},
		{
			name: "draingpu", condition: "GpuCheckFailed", story: Story{FixedBy: "ResetGPU"}, at: running(ticket.DrainGPU, 1),
			orders: []string{"ResetGPU", rest}, steps: resets, end: "resolved",
		},
		{
			name: "reset", condition: "GpuCheckFailed", story: Story{FixedBy: "ResetGPU"}, at: running(ticket.Reset, 1), after: inAJob,
			orders: []string{rest}, steps: resets, end: "resolved",
		},
		{
			name: "reset-failed", condition: "GpuCheckFailed", story: Story{Fails: "ResetGPU", FixedBy: protocol.ActionReboot}, at: running(ticket.Drain, 1),
			orders: []string{protocol.ActionReboot, rest}, steps: Isolate + "draingpu, reset failed, drain, reboot, " + Fit, end: "resolved",
		},
		{
			name: "recovery", condition: "GpuXidRecoveryAction", story: Story{XID: 154, Asks: "GPU Reset Required", FixedBy: "ResetGPU"},
			at: running(ticket.DrainGPU, 1), orders: []string{"ResetGPU", rest}, steps: resets, end: "resolved",
		},
		{
			name: "waitidle", condition: "GpuRowRemappingPending", story: Story{FixedBy: "ResetGPU"}, at: running(ticket.WaitIdle, 1),
			after: 5 * time.Minute, orders: []string{"ResetGPU", rest}, steps: Isolate + "waitidle, draingpu, reset, " + Fit, end: "resolved",
		},
		{
			name: "shutdown", condition: "MemoryUnhealthy", at: running(ticket.Shutdown, 1), after: inAJob,
			steps: Isolate + "drain, shutdown, handover", end: "handed over to host, powered off",
		},
		{
			name: "handover", condition: "MemoryUnhealthy", at: called(ticket.HandOver, 1, ticket.Succeeded),
			steps: Isolate + "drain, shutdown, handover", end: "handed over to host, powered off",
		},
		{
			name: "remedy", condition: "KubeletFailedCreatePodContainer", story: Story{FixedBy: "RestartKubelet"}, at: running(ticket.Remedy, 1),
			after: inAJob, orders: []string{rest}, steps: Isolate + "remedy, " + Fit, end: "resolved",
		},
		{
			name: "repair", condition: "GpfsDown", story: Story{FixedBy: "StartGpfs"}, at: running(ticket.Repair, 1),
			after: inAJob, orders: []string{rest}, steps: Isolate + "repair, " + Fit, end: "resolved",
		},
		{
			name: "repair-second", condition: "GpfsDown", story: Story{FixedBy: "StartGpfs", Fails: "StartGpfs", At: 2}, at: running(ticket.Repair, 2),
			after: inAJob, orders: []string{rest}, steps: Isolate + "repair failed, repair, " + Fit, end: "resolved",
		},
		{
			name: "restartpod", condition: "GpuRegisterFailed", story: Story{FixedBy: "restartpod"}, at: running(ticket.RestartPod, 1),
			orders: []string{"restartpod"}, steps: "restartpod, verify", end: "resolved",
		},
		{
			name: "restartpod-deleted", condition: "GpuRegisterFailed", story: Story{FixedBy: "restartpod"}, at: running(ticket.RestartPod, 1),
			after: podTime / 2, steps: "restartpod, verify", end: "resolved",
		},
		{
			name: "wait", condition: "NodeNotReady", story: Story{After: 40 * time.Minute}, at: running(ticket.Wait, 1), after: time.Minute,
			orders: []string{protocol.ActionDiagnose, rest}, steps: silent + "wait, diagnose, healthcheck, uncordon", end: "resolved",
		},
		{
			name: "wait-isolated", condition: "NodeNotReady", story: Story{}, at: running(ticket.Wait, 2), after: 20 * time.Minute,
			steps: silent + "wait failed, handover", end: "handed over to host",
		},
		{
			name: "taint", condition: "NodeNotReady", story: Story{PoweredOff: poweroff, After: 40 * time.Minute}, at: running(ticket.Taint, 1),
			orders: []string{protocol.ActionDiagnose, rest}, steps: silent + "wait canceled, taint, wait, untaint, diagnose, healthcheck, uncordon",
			end: "resolved",
		},
		{
			name: "untaint", gone: true, condition: "NodeNotReady", story: Story{PoweredOff: poweroff, After: 40 * time.Minute}, at: running(ticket.Untaint, 1),
			orders: []string{protocol.ActionDiagnose, rest}, steps: silent + "wait canceled, taint, wait, untaint, diagnose, healthcheck, uncordon",
			end: "resolved",
		},
		{
			name: "reopened", condition: "NodeCordon", story: Story{Broken: 23, FixedBy: "ResetGPU"}, at: running(ticket.Reset, 1), after: inAJob,
			orders: []string{rest}, steps: "healthcheck failed, " + resets, end: "resolved",
		},
		{
			name: "found", condition: "NodeCordon", story: Story{Broken: 23, FixedBy: "ResetGPU"}, at: called(ticket.Healthcheck, 1, ticket.Failed),
			orders: []string{protocol.ActionDiagnose, "ResetGPU", rest}, steps: "healthcheck failed, " + resets, end: "resolved",
		},
		{
			name: "found-elsewhere", condition: "NodeCordon", story: Story{Broken: 7}, at: called(ticket.Healthcheck, 1, ticket.Failed),
			steps: "healthcheck failed, handover", end: "handed over to network",
		},
		{
			name: "folded", folded: true, condition: "GpuHung", story: Story{FixedBy: protocol.ActionReboot, At: 10}, policy: "maxReboots: 10, attemptWindow: 168h",
			people: paste, at: running(ticket.Reboot, 10), after: inAJob, orders: []string{rest},
			steps: Isolate + "drain, " + strings.Repeat("reboot, verify failed, ", 9) + "reboot, " + Fit, end: "resolved",
		},
		{
			name: "noted", condition: "NetworkLinkDown", story: Story{After: time.Hour}, at: called(ticket.HandOver, 1, ticket.Succeeded),
			steps: "handover", end: "withdrawn",
		},
		{
			name: "approved", condition: "GpuHung", story: hung, policy: "mode: approve", people: approve, at: running(ticket.Drain, 1),
			orders: []string{protocol.ActionReboot, rest}, steps: boots, end: "resolved",
		},
		{
			name: "approved-at-first", condition: "GpuHung", story: hung, policy: "mode: approve", people: approve, at: created,
			orders: []string{protocol.ActionDiagnose, protocol.ActionReboot, rest}, steps: boots, end: "resolved",
		},
		{
			name: "requested", condition: "GpuHung", story: hung, quiet: true, people: request, at: created,
			orders: []string{protocol.ActionDiagnose, protocol.ActionReboot, rest}, steps: boots, end: "resolved",
		},
		{
			name: "requested-reboot", condition: "GpuHung", story: hung, quiet: true, people: request, at: running(ticket.Reboot, 1), after: inAJob,
			orders: []string{rest}, steps: boots, end: "resolved",
		},
		{
			name: "held", condition: "GpuHung", story: hung, people: pause, at: held,
			orders: []string{protocol.ActionReboot, rest}, steps: boots, end: "resolved",
		},
		{
			name: "taken-over", condition: "GpuHung", story: hung, people: takeOver, released: true,
			at: func(t *ticket.Ticket) bool { return t.Supervisor == "alice" }, orders: []string{protocol.ActionReboot, rest}, steps: boots, end: "resolved",
		},
	}
}

func approve(w *Site, d *sop.Dispatcher) error {
	w.Await("waits for approval", func(ticket.Record) bool { return w.Verdict(w.Fault.Condition).Name == policy.VerdictAwaitingApproval })
	_, err := d.Approve(w.t.Context(), policy.NodeOrder{Node: Node, Condition: w.Fault.Condition, Device: w.Fault.ID, By: "alice"})
	return err
}

func request(w *Site, d *sop.Dispatcher) error {
	status := w.store.Status(Node, w.Fault.Condition, w.Fault.ID, 0)
	_, err := d.Heal(w.t.Context(), policy.HealRequest{Status: status, By: "alice", Reason: "NCCL times out on it"})
	return err
}

func pause(w *Site, d *sop.Dispatcher) error {
	w.watch(func(t *ticket.Ticket) bool { return t.Count(ticket.Diagnose) > 0 })
	return d.Pause(w.t.Context(), policy.Order{By: "alice", Reason: "maintenance of the power supply"})
}

// watch waits until the ticket is as wanted, as somebody does who looks at it all the time.
func (w *Site) watch(until func(*ticket.Ticket) bool) {
	for t := w.Record().Ticket; t == nil || !until(t); t = w.Record().Ticket {
		time.Sleep(5 * time.Second)
	}
}

// paste writes so much into the ticket that its first steps have to become counts.
func paste(w *Site, _ *sop.Dispatcher) error {
	w.watch(func(t *ticket.Ticket) bool { return t.Count(ticket.Drain) > 0 })
	text := w.Record().Node.Annotations[ticket.Annotation]
	text += "seenOnTheConsole: " + strings.Repeat("watchdog reports a soft lockup of CPU 12 for 23s; ", 66) + "\n"
	w.annotate(text)
	return nil
}

func takeOver(w *Site, d *sop.Dispatcher) error {
	w.watch(func(t *ticket.Ticket) bool { return t.Count(ticket.Diagnose) > 0 })
	return d.TakeOver(w.t.Context(), policy.NodeOrder{Node: Node, By: "alice", Reason: "looking at it"})
}

// remains are what a process that died has left in the cluster.
type remains struct {
	node *corev1.Node
	pods []corev1.Pod
	jobs []batchv1.Job
}

// TestTicketsAreResumed kills a process in the middle of each action, and lets the next one end the incident.
func TestTicketsAreResumed(t *testing.T) {
	t.Parallel()
	catalogues := newCatalogues(t)
	for _, d := range deaths() {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			var left remains
			synctest.Test(t, func(t *testing.T) { left = d.reach(t, catalogues[d.policy]) })
			if *recorded != "" {
				require.NoError(t, d.write(filepath.Join(ticketsDir, *recorded), left))
			}
			d.check(t, catalogues[d.policy], left)
		})
	}
}

// TestRecordedTicketsAreResumed lets the present binary end the incidents that the processes of earlier versions have left. Versions that
// wrote no record beside a ticket are given one here: what this is about is that every binary understands the tickets of those before it.
func TestRecordedTicketsAreResumed(t *testing.T) {
	t.Parallel()
	catalogues := newCatalogues(t)
	known := make(map[string]death)
	for _, d := range deaths() {
		known[d.name] = d
	}
	files, err := filepath.Glob(filepath.Join(ticketsDir, "*", "*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		version, name := filepath.Base(filepath.Dir(file)), strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(version+"/"+name, func(t *testing.T) {
			t.Parallel()
			d, found := known[name]
			require.True(t, found, "nobody says what becomes of this ticket")
			left, err := readRemains(file)
			require.NoError(t, err)
			left.prove(t)
			d.check(t, catalogues[d.policy], left)
		})
	}
}

// TestTicketsWithoutARecordAreDecidedAnew lets the present binary take up the same tickets as they are. Nothing proves them, so none of their
// steps is believed, other than that what may have been destroyed was: each is closed once the Job that it may have running has ended,
// and what still holds is decided anew. A request or an approval in one is none.
func TestTicketsWithoutARecordAreDecidedAnew(t *testing.T) {
	t.Parallel()
	catalogues := newCatalogues(t)
	for _, d := range deaths() {
		file := filepath.Join(ticketsDir, "8c2638d", d.name+".yaml")
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			left, err := readRemains(file)
			require.NoError(t, err)
			require.NotContains(t, left.node.Annotations, ticket.RecordAnnotation)
			synctest.Test(t, func(t *testing.T) { d.decideAnew(t, catalogues[d.policy], left) })
		})
	}
}

// decideAnew lets a new process find what was left, without what would prove the ticket.
func (d death) decideAnew(t *testing.T, catalogue *rules.Catalogue, left remains) {
	t.Helper()
	old := ticket.ReadNode(left.node).Ticket
	time.Sleep(time.Until(left.until().Add(time.Minute)))
	w := New(t, catalogue, d.condition, d.story)
	d.restore(w, left)
	before := len(w.Ordered())
	defer w.Start()()
	w.Queue.Enqueue(Node)
	w.unfold()
	if !old.Owned() && !d.released {
		// It is a ticket of a team, which is left alone.
		time.Sleep(d.story.After + 24*time.Hour)
		require.Empty(t, w.Ordered()[before:])
		return
	}
	w.Await("it is closed", func(r ticket.Record) bool { return r.Ticket == nil || r.Ticket.ID != old.ID })
	did := old.Destructive(time.Now())
	past := w.Record().History.Incidents
	require.Equal(t, len(did) > 0, slices.ContainsFunc(past, func(i ticket.Incident) bool { return i.Outcome == ticket.Unproven }), "what was destroyed is not forgotten")
	if d.quiet || strings.HasPrefix(d.policy, "mode: approve") {
		time.Sleep(d.story.After + 24*time.Hour)
		checks := func(operation string) bool { return operation == protocol.ActionHealthcheck }
		require.Empty(t, slices.DeleteFunc(slices.Clone(w.Ordered()[before:]), checks), "nobody has asked for anything")
		return
	}
	w.Await("the fault is gone and the node is back, or it is with a team", func(r ticket.Record) bool {
		return r.Ticket == nil && len(w.firing) == 0 && !policy.LeftBehind(r.Node) || r.Ticket != nil && !r.Ticket.Owned()
	})
	if running := len(left.jobs) - 1; d.after == inAJob && running >= 0 && soptest.Operation(requestOf(t, left.jobs[running])) == d.story.FixedBy {
		require.NotContains(t, w.Ordered()[before:], d.story.FixedBy, "the Job that was running is waited for, and did it")
	}
}

// prove puts the record on the node that a version wrote beside its ticket, unless that wrote one.
func (r remains) prove(t *testing.T) {
	t.Helper()
	if r.node.Annotations[ticket.RecordAnnotation] != "" {
		return
	}
	text, err := ticket.RecordOf(r.node, r.node.Annotations[ticket.Annotation], r.until())
	require.NoError(t, err)
	r.node.Annotations[ticket.RecordAnnotation] = text
}

// The actions of which no ticket can be in the middle: the ticket is removed by the very write.
func TestEachActionHasItsTicket(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(ticketsDir, "*", "*.yaml"))
	require.NoError(t, err)
	seen := map[ticket.Action]bool{ticket.Resolve: true}
	for _, file := range files {
		left, err := readRemains(file)
		require.NoError(t, err)
		steps := ticket.ReadNode(left.node).Ticket.Workflows
		if len(steps) > 0 {
			seen[steps[len(steps)-1].Action] = true
		}
	}
	for _, a := range ticket.Actions() {
		require.True(t, seen[a], "no recorded ticket ends with %s", a)
	}
}

// newCatalogues returns one catalogue per policy that a death asks for.
func newCatalogues(t *testing.T) map[string]*rules.Catalogue {
	t.Helper()
	all := make(map[string]*rules.Catalogue)
	for _, d := range deaths() {
		if all[d.policy] != nil {
			continue
		}
		text := ""
		if d.policy != "" {
			text = fmt.Sprintf("conditions:\n- {name: %s, policy: {%s}}\n", d.condition, d.policy)
		}
		all[d.policy] = Catalogue(t, text)
	}
	return all
}

// reach lets a process run until it dies, and returns what it leaves.
func (d death) reach(t *testing.T, catalogue *rules.Catalogue) remains {
	t.Helper()
	time.Sleep(time.Until(recordedAt))
	w := New(t, catalogue, d.condition, d.story)
	ctx, die := context.WithCancelCause(t.Context())
	// One that lives on for so long has not come to where it was to die.
	time.AfterFunc(timeout, func() { die(errors.New("it lives on")) })
	var once sync.Once
	w.written = func(open *ticket.Ticket) {
		if d.at(open) {
			once.Do(func() { d.kill(die) })
		}
	}
	process := w.process()
	ended := make(chan error, 1)
	go func() { ended <- process.Run(ctx) }()
	fault := d.begin(w)
	w.Cluster.Do(func() { w.Fault = fault })
	w.unfold()
	if d.people != nil {
		require.NoError(t, d.people(w, process))
	}
	require.ErrorIs(t, <-ended, sop.ErrLeaseLost, w.Record().Node.Annotations)
	require.Equal(t, d.gone || d.quiet, len(w.firing) == 0)
	return w.remains()
}

func (d death) kill(die context.CancelCauseFunc) {
	if d.after == 0 {
		die(sop.ErrLeaseLost)
		return
	}
	time.AfterFunc(d.after, func() { die(sop.ErrLeaseLost) })
}

// begin raises the alert, unless there is none, and returns the key of the condition.
func (d death) begin(w *Site) prom.Key {
	if d.quiet {
		return w.store.Status(Node, d.condition, "", 0).Key()
	}
	return w.Raise(d.condition, d.story.Device, d.story.XID)
}

// remains reads what is in the cluster.
func (w *Site) remains() remains {
	w.t.Helper()
	left := remains{node: w.Record().Node.DeepCopy()}
	w.Cluster.Do(func() {
		for _, p := range w.Cluster.PodsOn(Node) {
			left.pods = append(left.pods, *p)
		}
	})
	templates, err := jobs.LoadTemplates("")
	require.NoError(w.t, err)
	for _, r := range w.made {
		job, err := templates.Render(r, jobs.RenderOptions{Namespace: "monitoring"})
		require.NoError(w.t, err)
		left.jobs = append(left.jobs, excerpt(job))
	}
	return left
}

// excerpt keeps what says for which request a Job was made.
func excerpt(job *batchv1.Job) batchv1.Job {
	var short batchv1.Job
	short.ObjectMeta = job.ObjectMeta
	short.Spec.Template.Spec.NodeName = job.Spec.Template.Spec.NodeName
	short.Spec.Template.Spec.Containers = []corev1.Container{{Name: "op", Args: job.Spec.Template.Spec.Containers[0].Args}}
	return short
}

// check lets a new process take up what was left. Where a Job was running, a second one finds the Job not yet made, as a process leaves it
// that dies between the two; and a third one finds a node that has booted, whose Job is gone.
func (d death) check(t *testing.T, catalogue *rules.Catalogue, left remains) {
	t.Helper()
	t.Run("as left", func(t *testing.T) { d.resume(t, catalogue, left, d.orders) })
	if d.after != inAJob {
		return
	}
	last := len(left.jobs) - 1
	interrupted := requestOf(t, left.jobs[last])
	left.jobs = left.jobs[:last]
	t.Run("before its job", func(t *testing.T) {
		d.resume(t, catalogue, left, append([]string{soptest.Operation(interrupted)}, d.orders...))
	})
	if interrupted.Action == protocol.ActionReboot {
		left.node = left.node.DeepCopy()
		left.node.Status.NodeInfo.BootID += "+"
		soptest.SetReady(left.node, true)
		t.Run("after its boot", func(t *testing.T) { d.resume(t, catalogue, left, d.orders) })
	}
}

// resume lets a new process end the incident.
func (d death) resume(t *testing.T, catalogue *rules.Catalogue, left remains, orders []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(left.until().Add(time.Minute)))
		w := New(t, catalogue, d.condition, d.story)
		d.restore(w, left)
		before := len(w.Ordered())
		defer w.Start()()
		w.Queue.Enqueue(Node)
		w.unfold()
		w.Await("it has ended", w.Over)
		time.Sleep(d.story.After + 5*w.timing.Hold)
		w.Await("it has ended for good", w.Over)
		w.Inspect()
		if d.folded {
			require.ElementsMatch(t, strings.Split(d.steps, ", "), strings.Split(w.Steps(), ", "))
		} else {
			require.Equal(t, d.steps, w.Steps(), w.Record().Node.Annotations)
		}
		require.Equal(t, d.end, w.Outcome())
		require.Equal(t, strings.Join(orders, ", "), strings.Join(w.Ordered()[before:], ", "))
	})
}

// until is when the last of it was written.
func (r remains) until() time.Time {
	t := ticket.ReadNode(r.node).Ticket
	last := t.CreatedAt
	for _, s := range t.Workflows {
		if s.At.After(last) {
			last = s.At
		}
	}
	return last
}

// restore makes the site the one in which the process died.
func (d death) restore(w *Site, left remains) {
	w.t.Helper()
	open := ticket.ReadNode(left.node).Ticket
	w.Cluster.Do(func() {
		before := w.Cluster.PodsOn(Node)
		node := left.node.DeepCopy()
		cordoned := node.Spec.Unschedulable
		node.Spec.Unschedulable = false
		w.Cluster.AddNode(node)
		if cordoned {
			// The excerpt does not say who has cordoned it.
			w.Cluster.EditAs(Node, soptest.ManagerAegis, func(n *corev1.Node) { n.Spec.Unschedulable = true })
		}
		for _, p := range w.Cluster.PodsOn(Node) {
			w.Cluster.DeletePod(p.Namespace, p.Name)
		}
		for _, p := range left.pods {
			w.Cluster.AddPod(p.DeepCopy())
		}
		if len(left.pods) < len(before) && d.story.FixedBy == soptest.RestartPod {
			w.ask(soptest.RestartPod)
			w.Cluster.ReplacePod(Node)
		}
		w.journal = nil
		w.remember(open)
	})
	if d.released {
		text := strings.Replace(left.node.Annotations[ticket.Annotation], "supervisor: alice", "supervisor: aegis", 1)
		w.annotate(text)
	}
	if d.gone || d.quiet {
		w.Fault = prom.Key{Node: Node, Condition: d.condition, ID: open.Device}
		w.fixed = d.gone
	} else {
		fault := d.begin(w)
		w.Cluster.Do(func() { w.Fault = fault })
	}
	w.Cluster.Do(func() { d.restoreJobs(w, left, open) })
	if soptest.SeenOff(left.node) {
		// The excerpt has neither the Lease of the node nor who said when that its power is off. Whoever watches the power says so again.
		time.Sleep(time.Minute)
		w.Cluster.Do(func() { w.Cluster.SetPower(Node, "off") })
	}
}

// restoreJobs makes the Jobs of the process, of which the last may run.
func (d death) restoreJobs(w *Site, left remains, open *ticket.Ticket) {
	w.t.Helper()
	w.faults[w.Fault] = !d.gone
	for i, job := range left.jobs {
		r := requestOf(w.t, job)
		require.Equal(w.t, job.Name, r.Name(), "the Job of an earlier version is not found any more")
		w.order(r)
		last, power := i == len(left.jobs)-1, r.Action == protocol.ActionReboot || r.Action == protocol.ActionShutdown
		if last && (d.after == inAJob || !power) {
			w.Cluster.RunJob(r)
		}
	}
	if d.after == inAJob && left.node.Status.NodeInfo.BootID != open.BootID {
		w.ended(protocol.ActionReboot, open.Count(ticket.Reboot))
	}
}

// annotate writes the text of the ticket as a person does.
func (w *Site) annotate(text string) {
	w.Cluster.Do(func() {
		w.Cluster.Edit(Node, func(n *corev1.Node) { n.Annotations[ticket.Annotation] = text })
	})
}

// remember takes the steps of a ticket into the journal: those that were left out for size, then the others.
func (w *Site) remember(t *ticket.Ticket) {
	w.id = t.ID
	calls := make(map[ticket.Action]int)
	for _, a := range ticket.Actions() {
		calls[a] = t.Count(a)
	}
	for _, s := range t.Workflows {
		calls[s.Action]--
	}
	for _, a := range ticket.Actions() {
		for n := 1; n <= calls[a]; n++ {
			call, _ := t.Outcome(a, n)
			w.journal = append(w.journal, step{action: a, n: n, status: call.Status})
		}
	}
	for _, s := range t.Workflows {
		calls[s.Action]++
		w.journal = append(w.journal, step{action: s.Action, n: calls[s.Action], status: s.Status})
	}
}

// requestOf returns the request that a Job was made for.
func requestOf(t *testing.T, job batchv1.Job) jobs.Request {
	t.Helper()
	attempt, err := strconv.Atoi(job.Labels["aegis.io/attempt"])
	require.NoError(t, err)
	action := job.Labels["aegis.io/action"]
	// What comes before are the arguments of the template.
	args := job.Spec.Template.Spec.Containers[0].Args
	args = args[slices.Index(args, action)+1:]
	return jobs.Request{
		Action: action, Node: job.Annotations["aegis.io/node"], Incident: job.Labels["aegis.io/incident"],
		Attempt: attempt, Args: args,
	}
}

// write puts what was left into a file.
func (d death) write(dir string, left remains) error {
	var text bytes.Buffer
	fmt.Fprintf(&text, "# What Aegis %s left in its cluster when it died: the Node with the ticket, the pods on it, and the Jobs so far, of each what\n"+
		"# says which it is. The next process ends it with: %s.\n", filepath.Base(dir), d.end)
	node := left.node.DeepCopy()
	// The API server of the restored site notes anew who has written what.
	node.ManagedFields = nil
	objects := []runtime.Object{node}
	for i := range left.pods {
		objects = append(objects, &left.pods[i])
	}
	for i := range left.jobs {
		objects = append(objects, &left.jobs[i])
	}
	for _, o := range objects {
		kinds, _, err := scheme.Scheme.ObjectKinds(o)
		if err != nil {
			return err
		}
		o.GetObjectKind().SetGroupVersionKind(kinds[0])
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		if err != nil {
			return err
		}
		document, err := yaml.Marshal(pruned(fields))
		if err != nil {
			return err
		}
		text.WriteString("---\n")
		text.Write(document)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, d.name+".yaml"), text.Bytes(), 0o644)
}

// pruned leaves out what says nothing.
func pruned(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key, inner := range v {
			if v[key] = pruned(inner); v[key] == nil {
				delete(v, key)
			}
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		for i, inner := range v {
			v[i] = pruned(inner)
		}
	case string:
		if v == "" {
			return nil
		}
	case int64:
		if v == 0 {
			return nil
		}
	}
	return value
}

// readRemains reads what write has written.
func readRemains(file string) (remains, error) {
	var left remains
	raw, err := os.ReadFile(file)
	if err != nil {
		return left, err
	}
	for _, document := range strings.Split(string(raw), "---\n")[1:] {
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(document), nil, nil)
		if err != nil {
			return left, fmt.Errorf("%s: %w", file, err)
		}
		switch o := object.(type) {
		case *corev1.Node:
			left.node = o
		case *corev1.Pod:
			left.pods = append(left.pods, *o)
		case *batchv1.Job:
			left.jobs = append(left.jobs, *o)
		}
	}
	return left, nil
}
