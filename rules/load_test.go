package rules

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/strict"
)

var update = flag.Bool("update", false, "write what the errors are to the golden files")

// TestLoadReportsEveryMistake holds every file of testdata/bad to the text beside it.
func TestLoadReportsEveryMistake(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			t.Parallel()
			c, err := Load(Options{Files: []string{file}})
			require.Error(t, err)
			require.Nil(t, c)
			golden := strings.TrimSuffix(file, ".yaml") + ".err"
			if *update {
				require.NoError(t, os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644))
			}
			want, readErr := os.ReadFile(golden)
			require.NoError(t, readErr)
			require.Equal(t, string(want), err.Error()+"\n")
		})
	}
}

// A site may have domains of its own. One whose name is close to one of the product has to be listed, lest it be a slip of the pen.
func TestLoadTakesTheDomainsOfASite(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "conditions.yaml")
	require.NoError(t, os.WriteFile(file, []byte(`
conditions:
- {name: LustreUnmounted, type: storage, sop: storage/remount}
- {name: LustreServerDown, type: storage, inhibits: [{types: [storage, npu]}]}
- {name: NpuHung, type: npu, sop: npu-x/reset}
types: [npu]
`), 0o600))
	c, err := Load(Options{Files: []string{file}})
	require.NoError(t, err)
	for name, domain := range map[string]string{"LustreUnmounted": "storage", "LustreServerDown": "storage", "NpuHung": "npu"} {
		got, found := c.Lookup(name)
		require.True(t, found)
		require.Equal(t, domain, got.Type)
	}
	down, up := c.Status("n", "LustreServerDown", ""), c.Status("n", "LustreUnmounted", "")
	require.Equal(t, "LustreServerDown explains it", c.InhibitedBy(time.Now(), []prom.AegisNodeStatus{up, down})(up))
}

// A site may change what is built in and add what is not. What it does not say stays.
func TestLoadTakesTheFileOfASite(t *testing.T) {
	t.Parallel()
	builtIn := load(t)
	c, err := Load(Options{Files: []string{"../testdata/site/conditions.yaml"}})
	require.NoError(t, err)
	require.Len(t, c.Conditions(), len(builtIn.Conditions())+2)

	hung, found := c.Lookup("GpuHung")
	require.True(t, found)
	before, _ := builtIn.Lookup("GpuHung")
	require.Equal(t, prom.ModeAuto, hung.Policy.Mode)
	require.Equal(t, 1, hung.Policy.MaxReboots)
	require.Zero(t, hung.Policy.Cooldown)
	require.Equal(t, before.Priority, hung.Priority)
	require.Equal(t, before.SOP, hung.SOP)
	require.Equal(t, []Inhibition{{Conditions: []string{"GpuMetricsHang"}}}, hung.Inhibits)

	fan, found := c.Lookup("FanSlow")
	require.True(t, found, "by its alias")
	require.Equal(t, "FanTooSlow", fan.Name)
	require.Equal(t, "007", fan.Policy.Team, "from the defaults")
	require.Equal(t, 90*time.Minute, fan.Policy.DrainDeadline, "from the defaults")
	require.Equal(t, prom.ModeOff, fan.Policy.Mode)
	require.Len(t, fan.Inhibits, 1, "under the earlier name of the field")
}

// write returns the path of a file with the text.
func write(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "conditions.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// load returns the embedded catalogue as the texts override it.
func load(t testing.TB, texts ...string) *Catalogue {
	t.Helper()
	var files []string
	for _, text := range texts {
		files = append(files, write(t, text))
	}
	c, err := Load(Options{Files: files})
	require.NoError(t, err)
	return c
}

func lookup(t testing.TB, c *Catalogue, name string) Condition {
	t.Helper()
	condition, ok := c.Lookup(name)
	require.True(t, ok, name)
	return condition
}

func TestLoadReportsAllFiles(t *testing.T) {
	t.Parallel()
	first := write(t, "conditions:\n- name: GpuHung\n  priority: -1\n")
	syntax := write(t, "conditions: [\n")
	absent := filepath.Join(t.TempDir(), "absent.yaml")
	last := write(t, "defaults: {mode: atuo}\nconditions:\n- name: GpuHung\n  device: 1\n")
	_, err := Load(Options{Files: []string{first, syntax, absent, last, t.TempDir()}})
	require.Error(t, err)
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, 6)
	require.Equal(t, first+":3:13: priority must be from 0 to 2147483647, is -1", lines[0])
	require.Contains(t, lines[1], syntax+":")
	require.Contains(t, lines[1], ": not valid YAML: ")
	require.Equal(t, absent+": no such file or directory", lines[2])
	require.Equal(t, last+`:1:18: unknown mode "atuo", did you mean "auto"?`, lines[3])
	require.Equal(t, last+":4:11: device must be a word, is the number 1, known are all, id, index, mask, none", lines[4])
	require.Contains(t, lines[5], ": is a directory")

	var problem *strict.Problem
	require.ErrorAs(t, err, &problem)
	require.Equal(t, first, problem.File)
	require.Equal(t, 3, problem.Line)
}

func TestLoadBoundsTheFile(t *testing.T) {
	t.Parallel()
	comment := strings.Repeat("#", strict.MaxBytes-len("\nconditions: []\n"))
	load(t, comment+"\nconditions: []\n")
	file := write(t, comment+"#\nconditions: []\n")
	_, err := Load(Options{Files: []string{file}})
	require.EqualError(t, err, file+":1:1: the file is larger than 1 MiB")
}

func TestLoadRefusesAnEmptyFile(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n\n", "# a comment", "---\n"} {
		file := write(t, text)
		_, err := Load(Options{Files: []string{file}})
		require.Error(t, err, "%q", text)
		require.Contains(t, err.Error(), file+":1:1: ", "%q", text)
	}
}

func TestLoadSurvivesDeepNesting(t *testing.T) {
	t.Parallel()
	_, err := Load(Options{Files: []string{write(t, "conditions: "+strings.Repeat("[", 200_000))}})
	require.ErrorContains(t, err, "not valid YAML")
}

func TestErrorsAreShort(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("A", 100_000)
	file := write(t, fmt.Sprintf("conditions:\n- name: GpuHung\n  sop: %[1]s\n  type: %[1]s\n  %[2]s: 1\n  match: {a: '=~(%[1]s'}\n",
		huge, huge[:1000]))
	_, err := Load(Options{Files: []string{file}})
	require.Error(t, err)
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, 4)
	for _, line := range lines {
		require.Less(t, len(line), len(file)+400)
	}
}

// The pages of the conditions show all that the catalogue says of them; here is what must hold for every one.
func TestEmbeddedCatalogue(t *testing.T) {
	t.Parallel()
	c := load(t)
	domains := make(map[string]int)
	for _, x := range c.Conditions() {
		domains[x.Type]++
		p := x.Policy
		require.NotEmpty(t, x.SOP, x.Name)
		require.Greater(t, p.VerifyWithin, p.ClearFor, "%s could never be verified", x.Name)
		require.Contains(t, []string{"gpu", "network", "storage", "host", "k8s"}, p.Team, x.Name)
		require.NotEqual(t, prom.ModeAuto, p.Mode, "%s: what acts by itself is the operator's decision", x.Name)
		if p.MaxReboots > 0 && p.Workload == prom.WorkloadKeep {
			require.NotEmpty(t, p.Selector, "%s would be booted under its pods", x.Name)
		}
		require.False(t, p.Shutdown && p.Workload == prom.WorkloadKeep, "%s would be powered off under its pods", x.Name)
		require.False(t, p.Shutdown && x.Type == "disk", "%s: the data on a disk may be the only copy", x.Name)
	}
	require.Len(t, domains, len(knownTypes()), "a domain has no condition")
	require.Equal(t, "name=nvidia-device-plugin-ds", lookup(t, c, "GpuRegisterFailed").Policy.Selector)
	require.Equal(t, 2*time.Hour, lookup(t, c, "MemoryPressure").Policy.HandOverAfter)
	require.Equal(t, "IBTransmittedError", lookup(t, c, "IBTrasmittedError").Name, "the misspelt name of another system")
}

// The names under which the rules of others, and requests, know the conditions.
func TestSeedNamesAreKnown(t *testing.T) {
	t.Parallel()
	c := load(t)
	for _, name := range []string{
		"NodeNotReady", "NodeInhibitAll", "NodeCordon", "GpuHung", "GpuDown", "GpuCheckFailed", "GpuNvlinkError", "XIDECCMemoryErr",
		"IBDown", "GpfsDown", "CpuUnhealthy", "MemoryUnhealthy", "DiskUnhealthy", "BaseBoardCriticalIssue", "KernelPanic",
		"NetworkLinkFrequentDown", "ICETxTimeout", "HighLoad", "HighDProcessesCount", "PeerMemModuleNotReady", "RoceDeviceBroken",
	} {
		require.Equal(t, name, lookup(t, c, name).Name)
	}
}

func TestEmbeddedDefaults(t *testing.T) {
	t.Parallel()
	require.Equal(t, prom.Policy{
		Mode: prom.ModeObserve, Workload: prom.WorkloadKeep, Team: "host",
		Cooldown: 30 * time.Minute, AttemptWindow: 24 * time.Hour, Grace: 3 * time.Minute, PowerOffAfter: 15 * time.Minute,
		HandOverAfter: time.Hour, ClearFor: 2 * time.Minute, VerifyWithin: 10 * time.Minute, DrainDeadline: 30 * time.Minute,
		HealthcheckDeadline: 20 * time.Minute, RebootDeadline: 30 * time.Minute, RemedyDeadline: 10 * time.Minute,
		RepairWindow: 72 * time.Hour,
	}, lookup(t, load(t), "NodeCordon").Policy)
}

func TestFilesOverridePerField(t *testing.T) {
	t.Parallel()
	base := lookup(t, load(t), "Xid79GPULost")

	t.Run("one field leaves the others", func(t *testing.T) {
		t.Parallel()
		want := base.clone()
		want.Priority = 7
		require.Equal(t, want, lookup(t, load(t, "conditions: [{name: Xid79GPULost, priority: 7}]"), "Xid79GPULost"))
	})
	t.Run("a policy is merged per field", func(t *testing.T) {
		t.Parallel()
		want := base.clone()
		want.Policy.MaxReboots, want.Policy.Shutdown, want.Policy.Cooldown = 0, false, 0
		got := load(t, "conditions: [{name: Xid79GPULost, policy: {maxReboots: 0, shutdown: false, cooldown: 0}}]")
		require.Equal(t, want, lookup(t, got, "Xid79GPULost"))
	})
	t.Run("later files win", func(t *testing.T) {
		t.Parallel()
		got := lookup(t, load(t,
			"conditions: [{name: Xid79GPULost, priority: 7, policy: {mode: auto, team: one}}]",
			"conditions: [{name: Xid79GPULost, policy: {team: two}}]"), "Xid79GPULost")
		require.Equal(t, 7, got.Priority)
		require.Equal(t, prom.ModeAuto, got.Policy.Mode)
		require.Equal(t, "two", got.Policy.Team)
	})
	t.Run("defaults of a later file reach earlier conditions that set nothing", func(t *testing.T) {
		t.Parallel()
		c := load(t, "conditions: [{name: Alpha, type: node}]", "defaults: {clearFor: 3m, team: night}")
		require.Equal(t, 3*time.Minute, lookup(t, c, "Alpha").Policy.ClearFor)
		require.Equal(t, 30*time.Minute, lookup(t, c, "Alpha").Policy.Cooldown)
		require.Equal(t, "night", lookup(t, c, "NodeCordon").Policy.Team)
		require.Equal(t, 5*time.Minute, lookup(t, c, "Xid79GPULost").Policy.ClearFor)
		require.Equal(t, "gpu", lookup(t, c, "Xid79GPULost").Policy.Team)
	})
	t.Run("lists and matches are replaced as a whole", func(t *testing.T) {
		t.Parallel()
		c := load(t, "conditions: [{name: GpuDown, aliases: [Lost], match: {alertname: Xid, code: '79'}, inhibits: []}]")
		_, ok := c.Lookup("GPULost")
		require.False(t, ok)
		require.Equal(t, map[string]string{"alertname": "Xid", "code": "79"}, lookup(t, c, "Lost").Match)
		require.Empty(t, lookup(t, c, "GpuDown").Inhibits)
	})
	t.Run("the earlier name of a field goes over the new one of an earlier file", func(t *testing.T) {
		t.Parallel()
		c := load(t, "conditions: [{name: GpuDown, hides: [{conditions: [GpuHung]}]}]")
		require.Equal(t, []Inhibition{{Conditions: []string{"GpuHung"}}}, lookup(t, c, "GpuDown").Inhibits)
	})
	t.Run("an empty match goes back to the default", func(t *testing.T) {
		t.Parallel()
		c := load(t, "conditions: [{name: GpuHung, match: {alertname: X}}]", "conditions: [{name: GpuHung, match: {}}]")
		got, ok := c.Match(map[string]string{"condition": "GpuHung"})
		require.True(t, ok)
		require.Equal(t, "GpuHung", got.Name)
		_, ok = c.Match(map[string]string{"alertname": "X"})
		require.False(t, ok)
	})
	t.Run("an alias that is given up is free", func(t *testing.T) {
		t.Parallel()
		c := load(t, "conditions: [{name: GpuDown, aliases: []}, {name: GPULost, type: gpu, priority: 5}]")
		require.Equal(t, "GPULost", lookup(t, c, "GPULost").Name)
	})
	t.Run("a procedure can be taken away", func(t *testing.T) {
		t.Parallel()
		require.Empty(t, lookup(t, load(t, `conditions: [{name: GpuHung, sop: ""}]`), "GpuHung").SOP)
	})
	t.Run("overriding moves the condition in the order", func(t *testing.T) {
		t.Parallel()
		all := load(t, "conditions: [{name: MemoryPressure, priority: 0}]").Conditions()
		require.Equal(t, "MemoryPressure", all[0].Name)
	})
}

func TestNewConditionHasSafeDefaults(t *testing.T) {
	t.Parallel()
	got := lookup(t, load(t, "conditions: [{name: Alpha, type: system}]"), "Alpha")
	require.Equal(t, prom.DefaultPriority, got.Priority)
	require.Equal(t, prom.DeviceNone, got.Device)
	require.Empty(t, got.SOP)
	require.Equal(t, prom.ModeObserve, got.Policy.Mode)
	require.Zero(t, got.Policy.MaxReboots)
}

func TestMode(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		option prom.Mode
		text   string
		want   prom.Mode
	}{
		"nothing set":                    {"", "conditions: []", prom.ModeObserve},
		"the option":                     {prom.ModeAuto, "conditions: []", prom.ModeAuto},
		"defaults before the option":     {prom.ModeAuto, "defaults: {mode: approve}", prom.ModeApprove},
		"the condition before the rest":  {prom.ModeAuto, "defaults: {mode: approve}\nconditions: [{name: GpuHung, policy: {mode: 'off'}}]", prom.ModeOff},
		"another condition sets its own": {prom.ModeApprove, "conditions: [{name: NodeCordon, policy: {mode: auto}}]", prom.ModeApprove},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := Load(Options{Mode: test.option, Files: []string{write(t, test.text)}})
			require.NoError(t, err)
			require.Equal(t, test.want, lookup(t, c, "GpuHung").Policy.Mode)
		})
	}
	_, err := Load(Options{Mode: "atuo"})
	require.EqualError(t, err, `unknown mode "atuo", did you mean "auto"?`)
}

// FuzzLoad checks that no file makes loading panic, that an error always names lines, and that a catalogue is valid.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	require.NoError(f, err)
	catalogue, err := filepath.Glob("catalogue/*.yaml")
	require.NoError(f, err)
	require.NotEmpty(f, catalogue)
	for _, file := range append(files, catalogue...) {
		data, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte("conditions: [{name: A, type: gpu, device: id, idLabel: x, match: {a: '=~b.*'}}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := newLoader(prom.ModeObserve)
		l.parse(source{name: "fuzz", data: data})
		c, err := l.catalogue()
		if err != nil {
			require.Nil(t, c)
			requireProblems(t, err)
			return
		}
		for _, x := range c.Conditions() {
			require.NoError(t, checkName(x.Name))
			require.NoError(t, checkType(x.Type))
			require.NotEmpty(t, x.Type)
			require.Contains(t, prom.Modes(), x.Policy.Mode)
			require.GreaterOrEqual(t, x.Priority, 0)
			got, ok := c.Lookup(x.Name)
			require.True(t, ok)
			require.Equal(t, x, got)
		}
		_, ok := c.Match(nil)
		require.False(t, ok, "an alert without labels belongs to a condition")
		require.False(t, bytes.Equal(data, nil), "an empty file was accepted")
	})
}

// requireProblems checks that the error consists of problems on one line each.
func requireProblems(t *testing.T, err error) {
	t.Helper()
	var joined interface{ Unwrap() []error }
	require.ErrorAs(t, err, &joined)
	for _, err := range joined.Unwrap() {
		var problem *strict.Problem
		require.ErrorAs(t, err, &problem)
		require.Positive(t, problem.Line)
		require.NotContains(t, problem.Text, "\n")
		require.Less(t, len(problem.Text), 2000)
	}
}

// Nothing is counted further back than the history of a node reaches.
func TestWindowsReachNoFurtherThanTheHistory(t *testing.T) {
	t.Parallel()
	for _, field := range []string{"attemptWindow", "repairWindow", "cooldown", "ownBoot"} {
		_, err := Load(Options{Files: []string{write(t, "defaults: {"+field+": 720h1s}")}})
		require.ErrorContains(t, err, field+` must be at most 720h0m0s, is "720h1s": the history of a node does not reach back further`)
		_, err = Load(Options{Files: []string{write(t, "defaults: {"+field+": 720h}")}})
		require.NoError(t, err)
	}
}
