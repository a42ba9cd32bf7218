package storage_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop/sitetest"

	"example.org/site-plugin/storage"
)

const condition = "LustreUnmounted"

func TestRemount(t *testing.T) {
	t.Parallel()
	catalogue, err := rules.Load(rules.Options{Files: []string{"../conditions.yaml"}, Mode: "auto"})
	require.NoError(t, err)
	for name, tt := range map[string]struct {
		story      sitetest.Story
		steps, end string
	}{
		"the mount helps": {sitetest.Story{FixedBy: "RemountLustre"}, "remedy, verify", "resolved"},
		"the boot helps": {
			sitetest.Story{FixedBy: "reboot"}, "remedy, verify failed, " + sitetest.Isolate + "drain, reboot, " + sitetest.Fit, "resolved",
		},
		"nothing helps": {
			sitetest.Story{}, "remedy, verify failed, " + sitetest.Isolate + "drain, reboot, verify failed, handover", "handed over to storage",
		},
		"the node does not have the executable": {
			sitetest.Story{Absent: "RemountLustre"}, "remedy failed, handover", "handed over to storage",
		},
	} {
		t.Run(name, func(t *testing.T) {
			sitetest.At(t, func(t *testing.T) {
				site := sitetest.New(t, catalogue, condition, tt.story)
				site.Procedures[storage.RemountSOP] = storage.NewRemount
				steps, end := site.Play(condition)
				require.Equal(t, tt.steps, steps)
				require.Equal(t, tt.end, end)
			})
		})
	}
}
