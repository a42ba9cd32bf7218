package procedures_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/sitetest"
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
			want: checkpoint{steps: "healthcheck, uncordon", end: "passed", by: "kubectl"},
		},
		{
			name: "without a request nothing happens", before: cordon,
			want: checkpoint{cordoned: true},
		},
		{
			name: "a node in service is checked and stays there", before: request,
			want: checkpoint{steps: "healthcheck, uncordon", end: "passed", by: "kubectl"},
		},
		{
			name: "a person cordons the node again meanwhile", before: cordonAndRequest, during: recordon,
			want: checkpoint{cordoned: true, steps: "healthcheck, uncordon canceled", end: "passed", by: "kubectl"},
		},
		{
			name: "what is broken is repaired, and the node returns", before: cordonAndRequest, story: story{Broken: protocol.ExitGPU, FixedBy: "reboot"},
			want: checkpoint{steps: "healthcheck failed, " + isolate + "drain, reboot, " + fit, end: "resolved", by: "kubectl"},
		},
		{
			name: "what cannot be repaired goes to people", before: cordonAndRequest, story: story{Broken: protocol.ExitRowRemap},
			want: checkpoint{cordoned: true, steps: "healthcheck failed, " + isolate + "drain, shutdown, handover", end: "handed over to gpu, powered off", by: "kubectl"},
		},
		{
			name: "a check that cannot be made says nothing", before: cordonAndRequest, story: story{Lost: "healthcheck"},
			want: checkpoint{cordoned: true, steps: "healthcheck canceled, healthcheck canceled, handover", end: "handed over to host", by: "kubectl"},
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
