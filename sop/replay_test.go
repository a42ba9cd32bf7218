package sop

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/ticket"
)

// branch is a procedure at whose fork one step decides where it goes on.
type branch struct {
	name      string
	condition string
	policy    func(p *prom.Policy)
	// prepare makes the world one in which the step takes the branch.
	prepare func(w *world)
	ended   func(r ticket.Record) bool
	// want is what the procedure did, in words that no step's message says.
	want string
}

// Whoever resumes a procedure after a crash decides by the finished steps of its ticket. It takes the same way as a process that
// never died, whatever was left out of the ticket for its size.
func TestReplayOfAShortTicketTakesTheSameBranch(t *testing.T) {
	t.Parallel()
	shortenings := map[string]func(*testing.T, string) string{
		"no crash": nil, "no messages": withoutMessages, "no details": withoutDetails, "older ticket": withoutFields,
	}
	for _, b := range branches() {
		for name, shorten := range shortenings {
			t.Run(b.name+"/"+name, func(t *testing.T) { inBubble(t, func(t *testing.T) { b.run(t, shorten) }) })
		}
	}
}

func (b branch) run(t *testing.T, shorten func(*testing.T, string) string) {
	policy := testPolicy()
	if b.policy != nil {
		b.policy(&policy)
	}
	w := newWorld(t, policy)
	b.prepare(w)
	w.raise(b.condition)
	if shorten == nil {
		w.run("the end", b.ended)
	} else {
		w.dieAtEveryWrite(b.ended, shorten)
	}
	require.Equal(t, b.want, w.done())
}

// dieAtEveryWrite runs one process after the other, each of which dies right after its first write to the node. What the ticket then
// says is shortened.
func (w *world) dieAtEveryWrite(ended func(ticket.Record) bool, shorten func(*testing.T, string) string) {
	var seen []string
	const mostProcesses = 200
	began := time.Now()
	for processes := 0; !ended(w.record()); processes++ {
		require.Less(w.t, processes, mostProcesses, "%s", w.node().Annotations[ticket.Annotation])
		ctx, die := context.WithCancelCause(w.t.Context())
		w.onWrite = func(int) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			die(ErrLeaseLost)
			return nil
		}
		gone := w.process(ctx)
		for ctx.Err() == nil && !ended(w.record()) {
			require.Less(w.t, time.Since(began), testTimeout, "%s", w.node().Annotations[ticket.Annotation])
			time.Sleep(time.Second)
		}
		die(ErrLeaseLost)
		require.ErrorIs(w.t, <-gone, ErrLeaseLost)
		w.onWrite = nil
		// A ticket without a new step was only written in the way of today.
		if r := w.record(); r.Ticket != nil && !ended(r) && !slices.Equal(steps(r), seen) {
			seen = steps(r)
			w.edit(func(n *corev1.Node) {
				annotateAsAegis(w.t, n, shorten(w.t, n.Annotations[ticket.Annotation]))
			})
		}
		w.queue.Enqueue(nodeA)
	}
}

// withoutMessages leaves the messages of finished steps out of a ticket.
func withoutMessages(t *testing.T, text string) string {
	parsed, err := ticket.Parse(text)
	require.NoError(t, err)
	for i := range parsed.Workflows {
		if s := &parsed.Workflows[i]; s.Status != ticket.Running {
			s.Message = ""
		}
	}
	text, err = parsed.Encode()
	require.NoError(t, err)
	return text
}

// withoutFields makes the ticket one of an Aegis that told in messages what a step had found.
func withoutFields(t *testing.T, text string) string {
	parsed, err := ticket.Parse(text)
	require.NoError(t, err)
	for i := range parsed.Workflows {
		s := &parsed.Workflows[i]
		if s.Pod != "" {
			s.Message = s.Pod + " uid " + s.UID
		}
		s.Findings, s.Pod, s.UID = ticket.Findings{}, "", ""
	}
	text, err = parsed.Encode()
	require.NoError(t, err)
	return text
}

// withoutDetails leaves out of a ticket all that one goes without that has grown too long.
func withoutDetails(t *testing.T, text string) string {
	for size := 100; size < ticket.MaxBytes; size += 20 {
		padding := "padding: " + strings.Repeat("x", size) + "\n"
		parsed, err := ticket.Parse(text + padding)
		require.NoError(t, err)
		short, err := parsed.Encode()
		require.NoError(t, err)
		parsed, err = ticket.Parse(short)
		require.NoError(t, err)
		if len(parsed.Workflows) == len(parsed.Running()) {
			require.Contains(t, short, padding)
			return strings.Replace(short, padding, "", 1)
		}
	}
	t.Fatalf("ticket %s keeps its details", text)
	return ""
}

// done says what was done to the node, and how it ended.
func (w *world) done() string {
	var did []string
	w.jobs.mu.Lock()
	for _, r := range w.jobs.order {
		did = append(did, strings.TrimSpace(r.Action+" "+strings.Join(named(r), " ")))
	}
	w.jobs.mu.Unlock()
	r := w.record()
	for _, i := range r.History.Incidents {
		did = append(did, i.Condition+" "+i.Outcome)
	}
	if r.Ticket != nil {
		did = append(did, "team "+r.Ticket.Supervisor)
	}
	if r.Node.Spec.Unschedulable {
		did = append(did, "cordoned")
	}
	return strings.Join(did, ", ")
}

// named returns the name of a remedy.
func named(r jobs.Request) []string {
	if r.Action != protocol.ActionRemedy {
		return nil
	}
	return r.Args[:1]
}

// goneAfter lets the sources say that the alert is over once the action has run.
func goneAfter(action string) func(w *world) {
	return func(w *world) {
		w.jobs.effect = func(r jobs.Request) {
			if r.Action == action {
				w.source.gone()
			}
		}
	}
}

// reports makes the n-th operation of the action end with the result, every one if n is 0.
func (w *world) reports(action string, n int, result func(r jobs.Request) jobs.Result) {
	earlier := w.jobs.result
	w.jobs.result = func(r jobs.Request, call int) (jobs.Result, bool) {
		if r.Action == action && (n == 0 || n == call) {
			return result(r), true
		}
		if earlier != nil {
			return earlier(r, call)
		}
		return jobs.Result{}, false
	}
}

func fails(code int32, hardware string) func(r jobs.Request) jobs.Result {
	return func(r jobs.Request) jobs.Result { return failedJob(r, code, hardware) }
}

// asks is a diagnosis in which the driver asks for the recovery.
func asks(recovery string) func(w *world) {
	return func(w *world) {
		w.reports(protocol.ActionDiagnose, 0, func(r jobs.Request) jobs.Result {
			return jobs.Result{
				Job: r.Name(), Phase: jobs.PhaseSucceeded, Message: "9 of 9 sections collected",
				Report: &protocol.Report{Result: protocol.ResultPassed, Recovery: recovery},
			}
		})
	}
}

func all(prepare ...func(w *world)) func(w *world) {
	return func(w *world) {
		for _, p := range prepare {
			p(w)
		}
	}
}

// silent keeps the kubelet of the node silent for a time, for good if it is 0.
func silent(after time.Duration) func(w *world) {
	return func(w *world) {
		w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionFalse) })
		if after > 0 {
			time.AfterFunc(after, func() {
				w.edit(func(n *corev1.Node) { setReady(n, corev1.ConditionTrue) })
				w.source.gone()
			})
		}
	}
}

// busy puts a pod on the node that no eviction ends.
func busy(w *world) {
	held := testPod("worker", func(p *corev1.Pod) { p.Labels["held"] = "keep-one" })
	w.cluster.Do(func() { w.cluster.AddPod(held) })
}

// plugin puts a device plugin on the node, which its controller replaces.
func plugin(w *world) {
	pod := func(uid types.UID) *corev1.Pod {
		return testPod("plugin", func(p *corev1.Pod) {
			p.UID = uid
			p.CreationTimestamp = metav1.Now()
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "DaemonSet", Name: "plugin", UID: "d", Controller: new(true)}}
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		})
	}
	w.edit(func(n *corev1.Node) {
		n.Status.Capacity = corev1.ResourceList{"nvidia.com/gpu": *gpus(8)}
		n.Status.Allocatable = n.Status.Capacity
	})
	w.cluster.Do(func() { w.cluster.AddPod(pod("uid-0")) })
	go func() {
		for n := 1; sleep(w.t.Context(), clock.RealClock{}, time.Second) == nil; {
			if len(w.pods()) > 0 {
				continue
			}
			w.cluster.Do(func() { w.cluster.AddPod(pod(types.UID(fmt.Sprintf("uid-%d", n)))) })
			n++
		}
	}()
}

// opens is a healthcheck that finds another condition, whose alert is over by then.
func opens(w *world) {
	w.table["test/gpunvlinkerror"] = func() SOP { return NewProcedure(Playbook.ResetLadder) }
	w.reports(protocol.ActionHealthcheck, 1, fails(protocol.ExitNVLink, protocol.HardwareGPU))
	w.cordonedByUs()
	w.jobs.effect = func(r jobs.Request) {
		if r.Action == protocol.ActionHealthcheck {
			w.source.gone()
			w.withdraw(prom.Key{Node: nodeA, Condition: "Cordon"})
		}
	}
}

func branches() []branch {
	const boots = "diagnose, reboot, healthcheck, Reboot resolved"
	gave := func(team string) func(ticket.Record) bool { return handedTo(team) }
	return []branch{
		{name: "healthcheck passed", condition: "Reboot", prepare: goneAfter(protocol.ActionReboot), ended: resolved, want: boots},
		{
			name: "healthcheck opens a condition", condition: "Cordon", prepare: opens, ended: resolved,
			want: "healthcheck, diagnose, remedy ResetGPU, healthcheck, GpuNvlinkError resolved",
		},
		{
			name: "healthcheck names the team", condition: "Cordon", ended: gave("storage"),
			prepare: all((*world).cordonedByUs, func(w *world) {
				w.reports(protocol.ActionHealthcheck, 0, fails(protocol.ExitGPFS, protocol.HardwareGPFS))
			}),
			want: "healthcheck, Cordon handed_over, team storage, cordoned",
		},
		{
			name: "healthcheck finds the node sick", condition: "Reboot", ended: resolved,
			prepare: all(goneAfter(protocol.ActionReboot), func(w *world) {
				w.reports(protocol.ActionHealthcheck, 1, fails(protocol.ExitGPU, protocol.HardwareGPU))
			}),
			want: "diagnose, reboot, healthcheck, reboot, healthcheck, Reboot resolved",
		},
		{
			name: "healthcheck not made", condition: "Reboot", ended: gave("host"),
			prepare: all(goneAfter(protocol.ActionReboot), func(w *world) { w.reports(protocol.ActionHealthcheck, 0, fails(protocol.ExitUnknown, "")) }),
			want:    "diagnose, reboot, healthcheck, healthcheck, Reboot handed_over, team host, cordoned",
		},
		{
			name: "driver asks for a reset", condition: "XID", prepare: all(goneAfter(protocol.ActionRemedy), asks(protocol.RecoveryReset)), ended: resolved,
			want: "diagnose, remedy ResetGPU, healthcheck, XID resolved",
		},
		{
			name: "driver asks for a reboot", condition: "XID", prepare: all(goneAfter(protocol.ActionReboot), asks(protocol.RecoveryReboot)), ended: resolved,
			want: "diagnose, reboot, healthcheck, XID resolved",
		},
		{
			name: "driver asks for nothing", condition: "XID", prepare: all(goneAfter(protocol.ActionDiagnose), asks(protocol.RecoveryNone)), ended: resolved,
			want: "diagnose, healthcheck, XID resolved",
		},
		{
			name: "driver asks for what nobody knows", condition: "XID", prepare: asks("Sacrifice A Goat"), ended: gave("gpu"),
			want: "diagnose, XID handed_over, team gpu, cordoned",
		},
		{
			name: "reset refused", condition: "Reset", ended: resolved,
			prepare: all(goneAfter(protocol.ActionReboot), func(w *world) {
				w.reports(protocol.ActionRemedy, 0, func(r jobs.Request) jobs.Result {
					result := failedJob(r, protocol.ExitGPU, protocol.HardwareGPU)
					result.Report.Refusals = []string{"process 42 holds /dev/nvidia0"}
					return result
				})
			}),
			want: "diagnose, remedy ResetGPU, reboot, healthcheck, Reset resolved",
		},
		{
			name: "reset done", condition: "Reset", prepare: goneAfter(protocol.ActionRemedy), ended: resolved,
			want: "diagnose, remedy ResetGPU, healthcheck, Reset resolved",
		},
		{
			name: "remedy without effect", condition: "Remedy", prepare: goneAfter(protocol.ActionReboot), ended: resolved,
			want: "diagnose, remedy RestartKubelet, remedy RestartKubelet, reboot, healthcheck, Remedy resolved",
		},
		{
			name: "remedy failed", condition: "Remedy", ended: resolved,
			prepare: all(goneAfter(protocol.ActionReboot), func(w *world) { w.reports(protocol.ActionRemedy, 0, fails(protocol.ExitUnknown, "")) }),
			want:    "diagnose, remedy RestartKubelet, remedy RestartKubelet, reboot, healthcheck, Remedy resolved",
		},
		{
			name: "workload does not end", condition: "Isolate", prepare: busy, ended: gave("gpu"),
			policy: func(p *prom.Policy) { p.Workload, p.Shutdown = prom.WorkloadWaitIdle, true },
			want:   "diagnose, Isolate handed_over, team gpu, cordoned",
		},
		{
			name: "workload has ended", condition: "Isolate", prepare: func(*world) {}, ended: gave("gpu"),
			policy: func(p *prom.Policy) { p.Workload, p.Shutdown = prom.WorkloadWaitIdle, true },
			want:   "diagnose, shutdown, Isolate handed_over, team gpu, cordoned",
		},
		{
			name: "no pod to restart", condition: "Plugin", prepare: func(*world) {}, ended: gave("k8s"),
			policy: func(p *prom.Policy) { p.Selector = "app=plugin" },
			want:   "Plugin handed_over, team k8s",
		},
		{
			name: "pod restarted in vain", condition: "Plugin", prepare: all(plugin, goneAfter(protocol.ActionReboot)), ended: resolved,
			policy: func(p *prom.Policy) { p.Selector, p.Workload = "app=plugin", prom.WorkloadKeep },
			want:   "diagnose, reboot, healthcheck, Plugin resolved",
		},
		{
			name: "condition stays", condition: "Reboot", prepare: func(*world) {}, ended: gave("gpu"),
			want: "diagnose, reboot, reboot, Reboot handed_over, team gpu, cordoned",
		},
		{
			name: "condition goes before the drain", condition: "Reboot", prepare: goneAfter(protocol.ActionDiagnose), ended: resolved,
			want: "diagnose, healthcheck, Reboot resolved",
		},
		{
			name: "reboot does not happen", condition: "Reboot", prepare: func(w *world) { w.jobs.stuck = true }, ended: gave("gpu"),
			want: "diagnose, reboot, Reboot handed_over, team gpu, cordoned",
		},
		{
			name: "pods do not go", condition: "Reboot", prepare: busy, ended: gave("k8s"),
			want: "diagnose, Reboot handed_over, team k8s, cordoned",
		},
		{
			name: "kubelet comes back soon", condition: "Ready", prepare: silent(time.Minute), ended: resolved,
			want: "Ready resolved",
		},
		{
			name: "kubelet comes back late", condition: "Ready", prepare: silent(40 * time.Minute), ended: resolved,
			want: "diagnose, healthcheck, Ready resolved",
		},
		{
			name: "kubelet stays silent", condition: "Ready", prepare: silent(0), ended: gave("gpu"),
			want: "Ready handed_over, team gpu, cordoned",
		},
	}
}
