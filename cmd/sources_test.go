package cmd

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/sop/procedures"
)

// withSources is an aegis.yaml with one source in line 3, or more.
func withSources(t *testing.T, entries string) string {
	t.Helper()
	return write(t, "aegis.yaml", "prometheus: {url: 'http://p:9090'}\nalertmanagers: [{url: 'http://a:9093'}]\nsources:\n"+entries)
}

func TestMistakesInSources(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ entries, want string }{
		"no name":             {"- {query: aegis_node_status_condition}", ":4:3: sources[0].name is missing"},
		"a bad name":          {"- {name: a b, query: x}", `:4:10: sources[0].name "a b" must begin with a letter`},
		"a name twice":        {"- {name: a, query: x}\n- {name: a, query: x}", `:5:10: sources[1].name "a" is the name of sources[0] already`},
		"no query":            {"- {name: a}", ":4:3: sources[0].query is empty"},
		"an unknown field":    {"- {name: a, querry: x}", `:4:13: unknown field "querry" in sources[0], did you mean "query"?`},
		"does not parse":      {"- {name: a, query: 'rate(x[5m]'}", ":4:20: sources[0].query does not parse: at 1:11 of the query: unclosed left parenthesis"},
		"a matrix":            {"- {name: a, query: 'x[5m]'}", ":4:20: sources[0].query yields a range of values for each series"},
		"a scalar":            {"- {name: a, query: '1 + 1'}", ":4:20: sources[0].query yields a scalar, which names no node"},
		"a text":              {"- {name: a, query: '\"x\"'}", ":4:20: sources[0].query yields a string, which names no node"},
		"a filter":            {"- {name: a, query: x > 3, condition: HighLoad}", ":4:20: sources[0].query has a series only while its comparison holds"},
		"no node":             {"- {name: a, query: sum by (condition) (x)}", ":4:20: sources[0].query loses each label that may name the node (node, Hostname, hostname, kubernetes_node, nodename, exported_node, instance) in sum by (condition) (x)"},
		"no label of its own": {"- {name: a, query: sum by (node) (x), nodeLabel: host, condition: HighLoad}", `:4:20: sources[0].query loses the label "host" in sum by (node) (x): keep it there`},
		"no condition":        {"- {name: a, query: sum by (node) (x)}", `:4:20: sources[0].query loses the label "condition" in sum by (node) (x)`},
		"no device":           {"- {name: a, query: 'sum by (node) (x)', condition: HighLoad, deviceLabel: id}", `:4:20: sources[0].query loses the label "id" in sum by (node) (x)`},
		"nobody alive":        {"- {name: a, query: x, alive: sum(up)}", ":4:30: sources[0].alive loses each label that may name the node"},
		"alive, no parse":     {"- {name: a, query: x, alive: up ==}", ":4:30: sources[0].alive does not parse"},
		"unknown condition":   {"- {name: a, query: x, condition: HighLod}", `:4:34: sources[0].condition "HighLod" is unknown, did you mean "HighLoad"?`},
		"two conditions":      {"- {name: a, query: x, condition: HighLoad, conditionLabel: c}", ":4:60: sources[0].conditionLabel excludes condition"},
		"clear above":         {"- {name: a, query: x, above: 3, clear: 4}", ":4:40: sources[0].clear is 4, must be at most 3"},
		"clear below":         {"- {name: a, query: x, below: 3, clear: 2}", ":4:40: sources[0].clear is 2, must be at least 3"},
		"clear of nothing":    {"- {name: a, query: x, clear: 2}", ":4:30: sources[0].clear needs a bound"},
		"above and below":     {"- {name: a, query: x, above: 3, below: 2}", ":4:40: sources[0].below excludes above"},
		"present and above":   {"- {name: a, query: x, present: true, above: 2}", ":4:32: sources[0].present takes each value for a fault"},
		"not a number":        {"- {name: a, query: x, above: .nan}", ":4:30: sources[0].above must be a number"},
		"a negative for":      {"- {name: a, query: x, for: -1m}", ":4:28: sources[0].for -1m0s is negative"},
		"a negative age":      {"- {name: a, query: x, maxAge: -1m}", ":4:31: sources[0].maxAge -1m0s is negative"},
		"half a server":       {"- {name: a, query: x, canary: Dog}", ":4:31: sources[0].canary belongs to a server of its own"},
		"a bad server":        {"- {name: a, query: x, url: 'p:9090'}", ":4:28: sources[0].url is not a URL"},
	} {
		file := withSources(t, test.entries)
		err := check([]string{file}, &bytes.Buffer{}, procedures.Table())
		require.ErrorContains(t, err, file+test.want, name)
	}
}

func TestSourcesNeedAServer(t *testing.T) {
	t.Parallel()
	file := write(t, "aegis.yaml", "sources:\n- {name: a, query: x}\n")
	_, err := loadConfig(file)
	require.ErrorContains(t, err, file+":2:3: sources[0].url is missing, and there is no prometheus.url to ask instead")
}

func TestSourcesAreTakenAsTheyAre(t *testing.T) {
	t.Parallel()
	file := withSources(t, `
- {name: inspection, query: aegis_node_status_condition}
- {name: load, query: max by (node) (load), condition: HighLoad, above: 3, clear: 2, for: 5m, maxAge: 1m}
- {name: other, query: x == 0, alive: up, present: true, url: "http://other:9090", canary: Dog, conditionLabel: fault, deviceLabel: gpu}
`)
	var out bytes.Buffer
	require.NoError(t, check([]string{file}, &out, procedures.Table()))
	c, err := loadConfig(file)
	require.NoError(t, err)
	all, err := c.inspections()
	require.NoError(t, err)
	require.Len(t, all, 3)
	require.Equal(t, "condition", all[0].ConditionLabel)
	require.Equal(t, "HighLoad", all[1].Condition)
	require.Empty(t, all[1].ConditionLabel)
	require.InDelta(t, 2, *all[1].Threshold.Clear, 0)
	require.Equal(t, 5*time.Minute, all[1].Threshold.For)
	require.Equal(t, time.Minute, all[1].Forget)
	require.Equal(t, "fault", all[2].ConditionLabel)
	require.Equal(t, "gpu", all[2].DeviceLabel)
	require.True(t, all[2].Threshold.Present)
}

func TestSeveralPrometheis(t *testing.T) {
	t.Parallel()
	load := func(text string) (config, error) {
		file := filepath.Join(t.TempDir(), "aegis.yaml")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		return loadConfig(file)
	}
	c, err := load("prometheus:\n  url: http://a:9090\n  canary: Alive\n  servers: [{url: http://b:9090}, {url: http://c:9090, canary: Other}]\n")
	require.NoError(t, err)
	var got []string
	for _, s := range c.Prometheus.all() {
		got = append(got, s.Server.URL+" "+s.Canary)
	}
	require.Equal(t, []string{"http://a:9090 Alive", "http://b:9090 Alive", "http://c:9090 Other"}, got)
	_, err = load("prometheus:\n  servers: [{url: http://b:9090}]\npermission: prometheus\n")
	require.NoError(t, err, "the list alone will do")
	_, err = load("prometheus:\n  url: http://a:9090\n  servers: [{url: http://a:9090}, {canary: A}]\n")
	require.ErrorContains(t, err, "prometheus.servers[0].url is that of prometheus.url already")
	require.ErrorContains(t, err, "prometheus.servers[1].url is not a URL")
}
