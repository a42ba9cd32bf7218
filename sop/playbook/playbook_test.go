package playbook_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
	"aegis.io/aegis/sop/sitetest"
)

type story = sitetest.Story

const (
	isolate = sitetest.Isolate
	fit     = sitetest.Fit
	// sick is a healthcheck that finds a GPU broken.
	sick = protocol.ExitGPU
)

// turn is one way that a play may take.
type turn struct {
	name string
	play playbook.Steps
	// policy is what the policy of the condition says otherwise than that of the others.
	policy string
	story  story
	// steps are those of the ticket, end is how the incident ended.
	steps, end string
}

const (
	condition = "SiteFault"
	text      = `
conditions:
- name: SiteFault
  type: gpu
  priority: 3
  device: none
  sop: site/play
  policy: {mode: auto, workload: drain, team: fabric, maxReboots: 2}
`
)

// run plays each turn as the only procedure of a condition that a site has added, on the exported API of package sop alone.
func run(t *testing.T, turns []turn) {
	t.Helper()
	t.Parallel()
	for _, tt := range turns {
		t.Run(tt.name, func(t *testing.T) {
			sitetest.At(t, func(t *testing.T) {
				steps, end := site(t, tt).Play(condition)
				require.Equal(t, tt.steps, steps)
				require.Equal(t, tt.end, end)
			})
		})
	}
}

func site(t *testing.T, tt turn) *sitetest.Site {
	t.Helper()
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "conditions.yaml"), filepath.Join(dir, "policy.yaml")}
	require.NoError(t, os.WriteFile(files[0], []byte(text), 0o600))
	require.NoError(t, os.WriteFile(files[1], fmt.Appendf(nil, "conditions: [{name: %s, policy: {%s}}]", condition, tt.policy), 0o600))
	catalogue, err := rules.Load(rules.Options{Files: files})
	require.NoError(t, err)
	s := sitetest.New(t, catalogue, condition, tt.story)
	s.Procedures["site/play"] = func() sop.SOP { return sop.NewProcedure(tt.play) }
	return s
}
