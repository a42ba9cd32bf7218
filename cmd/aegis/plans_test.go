package main

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop"
)

// TestPlans is the table of what Aegis does about each condition of the catalogue if every step goes well.
func TestPlans(t *testing.T) {
	t.Parallel()
	const (
		health  = "healthcheck (profile default)"
		quick   = "verify (gone for 2m0s, within 10m0s)"
		pulse   = "verify (gone for 15m0s, within 30m0s)"
		patient = "verify (gone for 10m0s, within 2h0m0s)"
	)
	want := map[string][]string{
		"NodeNotReady":                    {"wait (ready for 5m0s, within 3m0s)", "resolve"},
		"NodeCordon":                      {health, "uncordon", "resolve"},
		"GpuHung":                         {"cordon", "diagnose", "drain", "reboot", quick, health, "uncordon", "resolve"},
		"Xid79GPULost":                    {"cordon", "diagnose", "drain", "reboot", pulse, health, "uncordon", "resolve"},
		"Xid95UncontainedECCError":        {"cordon", "diagnose", "draingpu", "reset (all GPUs)", pulse, health, "uncordon", "resolve"},
		"GpuRegisterFailed":               {"restartpod (name=nvidia-device-plugin-ds)", quick, "resolve"},
		"KubeletFailedCreatePodContainer": {"cordon", "diagnose", "remedy (RestartKubelet)", quick, health, "uncordon", "resolve"},
		"MemoryPressure":                  {"cordon", patient, "uncordon", "resolve"},
		"IBLinkFrequentDown":              {"cordon", "diagnose", "waitidle", "handover (team network)"},
		"NetworkLinkDown":                 {"handover (team network)"},
	}
	catalogue, err := loadCatalogue(rules.Options{})
	require.NoError(t, err)
	d := sop.NewDispatcher(sop.Services{
		Limits:   sop.NewLimits(nil, nil),
		Nodes:    corelisters.NewNodeLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)),
		Settings: func() sop.Settings { return sop.Settings{} },
		Logger:   slog.New(slog.DiscardHandler),
	}, nil, catalogue, procedures())
	require.Len(t, want, len(catalogue.Conditions()))
	for _, c := range catalogue.Conditions() {
		plan, err := d.Plan(t.Context(), catalogue.Status("gpu-1", c.Name, ""))
		require.NoError(t, err)
		require.Equal(t, want[c.Name], plan, c.Name)
	}
}
