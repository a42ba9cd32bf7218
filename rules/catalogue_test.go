package rules

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/strict"
)

func TestLookup(t *testing.T) {
	t.Parallel()
	c := load(t, "conditions: [{name: GpuCheckFailed, type: gpu, aliases: [GPUCheckFailed]}]")
	tests := map[string]string{
		"GpuHung": "GpuHung", "gpuhung": "GpuHung", "KubeletOffline": "NodeNotReady", "KUBELETOFFLINE": "NodeNotReady",
		"GPUCheckFailed": "GpuCheckFailed", "gpucheckfailed": "GpuCheckFailed",
		"": "", "GpuHun": "", "GpuHung ": "", "\u212aubeletOffline": "",
	}
	for name, want := range tests {
		got, ok := c.Lookup(name)
		require.Equal(t, want, got.Name, "%q", name)
		require.Equal(t, want != "", ok, "%q", name)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	c := load(t)
	want := lookup(t, c, "Xid79GPULost")
	require.Equal(t, prom.AegisNodeStatus{
		Node: "n1", Condition: "Xid79GPULost", Type: "gpu", ID: "3", Priority: 2, AffectsLoad: true,
		DeviceMode: prom.DeviceIndex, SOP: "gpu/xid", Policy: want.Policy, XID: prom.XID{Code: 79, Class: prom.XIDReboot},
	}, c.Status("n1", "xid79gpulost", "nvidia3"))
	require.Empty(t, c.Status("n1", "GpuHung", "3").ID, "a condition of all devices names none")
	require.Empty(t, c.Status("n1", "NodeNotReady", "3").ID)

	unknown := c.Status("n1", "NeverHeard", "x")
	require.Equal(t, prom.AegisNodeStatus{
		Node: "n1", Condition: "NeverHeard", ID: "x", Priority: prom.DefaultPriority, DeviceMode: prom.DeviceID,
	}, unknown)
	require.Equal(t, prom.DeviceNone, c.Status("n1", "NeverHeard", "").DeviceMode)
}

func TestUnknownSOPs(t *testing.T) {
	t.Parallel()
	c := load(t)
	var known []string
	for _, x := range c.Conditions() {
		known = append(known, x.SOP)
	}
	require.NoError(t, c.UnknownSOPs(known))

	file := write(t, "conditions:\n- name: GpuHung\n  priority: 4\n  sop: gpu/hugn\n- name: Alpha\n  type: node\n  sop: x/nothing-like-it\n- name: Beta\n  type: node\n")
	c, err := Load(Options{Files: []string{file}})
	require.NoError(t, err)
	require.EqualError(t, c.UnknownSOPs(append(known, "gpu/hung")),
		file+`:4:8: condition GpuHung has the unknown sop "gpu/hugn", did you mean "gpu/hung"?`+"\n"+
			file+`:7:8: condition Alpha has the unknown sop "x/nothing-like-it", known are `+strings.Join(slices.Compact(slices.Sorted(slices.Values(append(known, "gpu/hung")))), ", "))
	require.ErrorContains(t, c.UnknownSOPs(nil), "rules/catalogue/gpu.yaml:", "embedded conditions have a position, too")
	require.ErrorContains(t, c.UnknownSOPs(nil), "none is known")
	var problem *strict.Problem
	require.ErrorAs(t, c.UnknownSOPs(nil), &problem)
}

func TestCatalogueSharesNoMemory(t *testing.T) {
	t.Parallel()
	c := load(t, "conditions: [{name: Alpha, type: node, aliases: [One], match: {alertname: A}}]")
	labels := map[string]string{"alertname": "A"}
	matched, ok := c.Match(labels)
	require.True(t, ok)
	for _, got := range append(c.Conditions(), lookup(t, c, "Alpha"), matched) {
		if got.Name == "Alpha" {
			got.Aliases[0], got.Match["alertname"] = "changed", "changed"
		}
	}
	require.Equal(t, []string{"One"}, lookup(t, c, "Alpha").Aliases)
	require.Equal(t, labels, lookup(t, c, "Alpha").Match)
}

func TestStore(t *testing.T) {
	t.Parallel()
	first, second := load(t), load(t)
	s := NewStore(first)
	require.Same(t, first, s.Current())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				s.Swap(second)
				if s.Current() != second {
					t.Error("an old catalogue came back")
				}
			}
		})
	}
	wg.Wait()
	require.Same(t, second, s.Current())
}
