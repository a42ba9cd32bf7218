package plugin_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"example.org/plugin"
	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop/sitetest"
	"aegis.io/aegis/ticket"
)

const (
	condition  = "SiteLinkDown"
	conditions = `
conditions:
- name: SiteLinkDown
  type: gpu
  priority: 3
  device: all
  sop: site/link
  policy: {mode: auto, workload: drain, team: fabric, maxReboots: %d}
`
)

// site returns a site with the plugin among the procedures, which may boot the node so often.
func site(t *testing.T, reboots int, story sitetest.Story) *sitetest.Site {
	t.Helper()
	file := filepath.Join(t.TempDir(), "conditions.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, conditions, reboots), 0o600))
	catalogue, err := rules.Load(rules.Options{Files: []string{file}})
	require.NoError(t, err)
	s := sitetest.New(t, catalogue, condition, story)
	s.Procedures[plugin.LinkSOP] = plugin.New
	require.NoError(t, catalogue.UnknownSOPs(s.Procedures.Names()))
	return s
}

func TestLadder(t *testing.T) {
	t.Parallel()
	const (
		resets = sitetest.Isolate + "draingpu, reset, "
		boots  = "drain, reboot, "
	)
	for name, tt := range map[string]struct {
		reboots    int
		story      sitetest.Story
		steps, end string
	}{
		"the reset helps": {
			1, sitetest.Story{FixedBy: "ResetGPU"}, resets + sitetest.Fit, "resolved",
		},
		"the boot helps": {
			1, sitetest.Story{FixedBy: "reboot"}, resets + "verify failed, " + boots + sitetest.Fit, "resolved",
		},
		"the reset fails": {
			1, sitetest.Story{Fails: "ResetGPU", FixedBy: "reboot"}, sitetest.Isolate + "draingpu, reset failed, " + boots + sitetest.Fit, "resolved",
		},
		"nothing helps": {
			1, sitetest.Story{}, resets + "verify failed, " + boots + "verify failed, handover", "handed over to fabric",
		},
		"no boot is allowed": {
			0, sitetest.Story{}, resets + "verify failed, handover", "handed over to fabric",
		},
		"the fault goes by itself": {
			1, sitetest.Story{After: sitetest.Soon}, sitetest.Isolate + "draingpu canceled, " + sitetest.Fit, "resolved",
		},
	} {
		t.Run(name, func(t *testing.T) {
			sitetest.At(t, func(t *testing.T) {
				steps, end := site(t, tt.reboots, tt.story).Play(condition)
				require.Equal(t, tt.steps, steps)
				require.Equal(t, tt.end, end)
			})
		})
	}
}

// The ladder goes on from where it was when the process that ran it has died.
func TestLadderIsResumed(t *testing.T) {
	sitetest.At(t, func(t *testing.T) {
		s := site(t, 1, sitetest.Story{FixedBy: "reboot"})
		stop := s.Start()
		s.Fault = s.Raise(condition, "", 0)
		s.Await("the boot has begun", func(r ticket.Record) bool { return r.Ticket != nil && r.Ticket.Count(ticket.Reboot) == 1 })
		stop()
		defer s.Start()()
		s.Await("the incident has ended", s.Over)
		require.Equal(t, sitetest.Isolate+"draingpu, reset, verify failed, drain, reboot, "+sitetest.Fit, s.Steps())
		require.Equal(t, "resolved", s.Outcome())
	})
}

func TestPlan(t *testing.T) {
	sitetest.At(t, func(t *testing.T) {
		plan, err := site(t, 1, sitetest.Story{}).Plan(condition)
		require.NoError(t, err)
		require.Equal(t, []string{
			"cordon", "diagnose", "draingpu", "reset (all GPUs)", "verify (gone for 2m0s, within 10m0s)", "healthcheck (profile default)",
			"uncordon", "resolve",
		}, plan)
	})
}
