package procedures_test

import (
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/sitetest"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// checkpoint is what a test of a check looks at once nothing more happens.
type checkpoint struct {
	cordoned, annotated bool
	steps, end          string
	by                  string
}

// checkStory is a node that a person has cordoned, or not, and that is to be checked.
type checkStory struct {
	name   string
	story  story
	before func(w *sitetest.Site)
	during func(w *sitetest.Site)
	want   checkpoint
}

func cordon(w *sitetest.Site)  { w.Cluster.Do(func() { w.Cluster.Cordon(sitetest.Node) }) }
func request(w *sitetest.Site) { w.Cluster.Do(func() { w.Cluster.RequestCheck(sitetest.Node) }) }

func cordonAndRequest(w *sitetest.Site) {
	cordon(w)
	time.Sleep(time.Hour)
	request(w)
}

// A person says that they are done with a node: it is checked and returned, or its ticket says what is wrong with it.
func TestCheckOnRequest(t *testing.T) {
	t.Parallel()
	catalogue := sitetest.Catalogue(t, "")
	recordon := func(w *sitetest.Site) {
		time.Sleep(30 * time.Second)
		w.Cluster.Do(func() { w.Cluster.Uncordon(sitetest.Node); w.Cluster.Cordon(sitetest.Node) })
	}
	tests := []checkStory{
		{
			name: "a fit node returns", before: cordonAndRequest,
			want: checkpoint{steps: "healthcheck, uncordon", end: "passed", by: "kubectl-annotate"},
		},
		{
			name: "without a request nothing happens", before: cordon,
			want: checkpoint{cordoned: true},
		},
		{
			name: "a node in service is checked and stays there", before: request,
			want: checkpoint{steps: "healthcheck, uncordon", end: "passed", by: "kubectl-annotate"},
		},
		{
			name: "a person cordons the node again meanwhile", before: cordonAndRequest, during: recordon,
			want: checkpoint{cordoned: true, steps: "healthcheck, uncordon canceled", end: "passed", by: "kubectl-annotate"},
		},
		{
			name: "what is broken is repaired, and the node returns", before: cordonAndRequest, story: story{Broken: protocol.ExitGPU, FixedBy: "reboot"},
			want: checkpoint{steps: "healthcheck failed, " + isolate + "drain, reboot, " + fit, end: "resolved", by: "kubectl-annotate"},
		},
		{
			name: "what cannot be repaired goes to people", before: cordonAndRequest, story: story{Broken: protocol.ExitRowRemap},
			want: checkpoint{cordoned: true, steps: "healthcheck failed, " + isolate + "drain, shutdown, handover", end: "handed over to gpu, powered off", by: "kubectl-annotate"},
		},
		{
			name: "a check that cannot be made says nothing", before: cordonAndRequest, story: story{Lost: "healthcheck"},
			want: checkpoint{cordoned: true, steps: "healthcheck canceled, healthcheck canceled, handover", end: "handed over to host", by: "kubectl-annotate"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sitetest.At(t, func(t *testing.T) {
				w := sitetest.New(t, catalogue, "GpuDown", tt.story)
				defer w.Start()()
				tt.before(w)
				if tt.during != nil {
					tt.during(w)
				}
				time.Sleep(10 * time.Hour)
				require.Equal(t, tt.want, observed(w))
			})
		})
	}
}

// The programs that write to the node in the tests of what a request lends.
const (
	tool    = "fleet-tool"
	another = "another-tool"
)

func setReady(w *sitetest.Site, ready bool) {
	w.Cluster.Do(func() { w.Cluster.Edit(sitetest.Node, func(n *corev1.Node) { soptest.SetReady(n, ready) }) })
}

func cordonAs(w *sitetest.Site, manager string) {
	w.Cluster.Do(func() { w.Cluster.EditAs(sitetest.Node, manager, func(n *corev1.Node) { n.Spec.Unschedulable = true }) })
}

func annotateAs(w *sitetest.Site, manager, key, value string) {
	w.Cluster.Do(func() {
		w.Cluster.EditAs(sitetest.Node, manager, func(n *corev1.Node) {
			annotations := maps.Clone(n.Annotations)
			if annotations == nil {
				annotations = make(map[string]string)
			}
			annotations[key] = value
			n.Annotations = annotations
		})
	})
}

func requestAs(w *sitetest.Site, manager string) {
	annotateAs(w, manager, policy.CheckAnnotation, policy.CheckRequested)
}

// The API server notes one time for all that a program has set. A request lends only a cordon that is known to be older.
func TestCheckLendsOnlyTheCordonOfBefore(t *testing.T) {
	t.Parallel()
	lent := checkpoint{steps: "healthcheck, uncordon", end: "passed", by: tool}
	kept := checkpoint{cordoned: true, steps: "healthcheck, uncordon canceled", end: "passed", by: tool}
	tests := []struct {
		name string
		// away happens before Aegis starts.
		away, story func(w *sitetest.Site)
		want        checkpoint
	}{
		{"one program cordons, then requests", nil, func(w *sitetest.Site) {
			cordonAs(w, tool)
			time.Sleep(time.Hour)
			requestAs(w, tool)
		}, lent},
		{"one program requests, then cordons", nil, func(w *sitetest.Site) {
			setReady(w, false)
			requestAs(w, tool)
			time.Sleep(5 * time.Minute)
			cordonAs(w, tool)
			setReady(w, true)
		}, kept},
		{"one program does both, nobody saw in which order", func(w *sitetest.Site) {
			cordonAs(w, tool)
			time.Sleep(time.Minute)
			requestAs(w, tool)
		}, nil, kept},
		{"two programs, while Aegis is away", func(w *sitetest.Site) {
			cordonAs(w, another)
			time.Sleep(time.Minute)
			requestAs(w, tool)
		}, nil, lent},
		{"two programs, the cordon is later, while Aegis is away", func(w *sitetest.Site) {
			requestAs(w, tool)
			time.Sleep(time.Minute)
			cordonAs(w, another)
		}, nil, kept},
		{"who requested writes something else after the cordon", nil, func(w *sitetest.Site) {
			setReady(w, false)
			requestAs(w, tool)
			time.Sleep(5 * time.Minute)
			cordonAs(w, another)
			time.Sleep(5 * time.Minute)
			annotateAs(w, tool, "example.com/note", "x")
			setReady(w, true)
		}, kept},
		{"who cordoned writes something else during the check", nil, func(w *sitetest.Site) {
			cordonAs(w, another)
			time.Sleep(time.Minute)
			requestAs(w, tool)
			time.Sleep(30 * time.Second)
			annotateAs(w, another, "example.com/note", "x")
		}, kept},
	}
	catalogue := sitetest.Catalogue(t, "")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sitetest.At(t, func(t *testing.T) {
				w := sitetest.New(t, catalogue, "GpuDown", story{})
				if tt.away != nil {
					tt.away(w)
				}
				defer w.Start()()
				if tt.story != nil {
					tt.story(w)
				}
				time.Sleep(10 * time.Hour)
				require.Equal(t, tt.want, observed(w))
				require.NotContains(t, w.Record().Node.Annotations, policy.CheckCordonAnnotation)
			})
		})
	}
}

// What is left of a request that was withdrawn says nothing about the next one, and an empty one is none.
func TestCheckWithdrawn(t *testing.T) {
	catalogue := sitetest.Catalogue(t, "")
	sitetest.At(t, func(t *testing.T) {
		w := sitetest.New(t, catalogue, "GpuDown", story{})
		defer w.Start()()
		cordon(w)
		setReady(w, false)
		annotateAs(w, tool, policy.CheckByAnnotation, "alice")
		requestAs(w, tool)
		time.Sleep(time.Minute)
		require.Contains(t, w.Record().Node.Annotations, policy.CheckCordonAnnotation)
		annotateAs(w, tool, policy.CheckAnnotation, "")
		time.Sleep(time.Minute)
		require.NotContains(t, w.Record().Node.Annotations, policy.CheckCordonAnnotation)
		require.NotContains(t, w.Record().Node.Annotations, policy.CheckByAnnotation)
		setReady(w, true)
		time.Sleep(time.Hour)
		require.Equal(t, checkpoint{cordoned: true, annotated: true}, observed(w))
	})
}

// What is found broken has a ticket also where the cordon is not lent, so that the repair cannot begin.
func TestCheckFindsWhatIsBrokenUnderAForeignCordon(t *testing.T) {
	catalogue := sitetest.Catalogue(t, "")
	sitetest.At(t, func(t *testing.T) {
		w := sitetest.New(t, catalogue, "GpuDown", story{Broken: protocol.ExitGPU, FixedBy: "reboot"})
		cordonAs(w, tool)
		time.Sleep(time.Minute)
		requestAs(w, tool)
		defer w.Start()()
		time.Sleep(10 * time.Hour)
		require.Equal(t, checkpoint{cordoned: true, steps: "healthcheck failed, handover", end: "handed over to gpu", by: tool}, observed(w))
	})
}

func observed(w *sitetest.Site) checkpoint {
	r := w.Record()
	c := checkpoint{cordoned: r.Node.Spec.Unschedulable, steps: w.Steps()}
	_, c.annotated = r.Node.Annotations[policy.CheckAnnotation]
	if incidents := r.History.Incidents; len(incidents) > 0 {
		c.end, c.by = w.Outcome(), incidents[len(incidents)-1].By
	}
	return c
}

// A new node keeps the taint of its intake until it has passed a check, and every other taint after that.
func TestIntake(t *testing.T) {
	t.Parallel()
	intake := corev1.Taint{Key: "example.com/intake", Value: "pending", Effect: corev1.TaintEffectNoSchedule}
	other := corev1.Taint{Key: "example.com/rack", Effect: corev1.TaintEffectNoSchedule}
	tests := []struct {
		name  string
		story story
		want  []corev1.Taint
		end   string
	}{
		{"fit", story{}, []corev1.Taint{other}, "passed"},
		{"broken", story{Broken: 7}, []corev1.Taint{intake, other}, "handed over to network"},
	}
	catalogue := sitetest.Catalogue(t, "")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sitetest.At(t, func(t *testing.T) {
				w := sitetest.New(t, catalogue, "GpuDown", tt.story)
				w.Settings.IntakeTaints = []policy.IntakeTaint{{Key: intake.Key}}
				defer w.Start()()
				w.Cluster.Do(func() {
					w.Cluster.Edit(sitetest.Node, func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{intake, other} })
				})
				w.Await("checked", w.Over)
				r := w.Record()
				require.Equal(t, tt.want, r.Node.Spec.Taints)
				require.Equal(t, tt.end, w.Outcome())
				require.Equal(t, "taint "+intake.Key, r.History.Incidents[0].By)
				require.Equal(t, ticket.Passed == tt.end, r.Ticket == nil)
			})
		})
	}
}
