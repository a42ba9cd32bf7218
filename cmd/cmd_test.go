package cmd

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/sop/procedures"
	"aegis.io/aegis/strict"
	"aegis.io/aegis/ticket"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func aegis(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = Run(args, &out, &errs, procedures.Table())
	return code, out.String(), errs.String()
}

func TestCommands(t *testing.T) {
	t.Parallel()
	good := write(t, "conditions.yaml", "conditions:\n- name: GpuHung\n  policy: {mode: auto}\n")
	noSOP := write(t, "conditions.yaml", "conditions:\n- name: GpuHung\n  sop: gpu/hang\n")
	typo := write(t, "aegis.yaml", "mode: auto\nprometeus: {url: http://p:9090}\nholdInterval: soon\n")
	preset := write(t, "aegis.yaml", "preset: unattended\nprometheus: {url: http://p:9090}\nalertmanagers: [{url: http://a:9093}]\nconditions: ["+write(t, "conditions.yaml", "conditions: [{name: HighLoad, policy: {mode: observe}}]")+"]\n")
	noPreset := write(t, "aegis.yaml", "preset: unatended\n")
	tests := []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{"no command", nil, 2, "", "no command"},
		{"unknown command", []string{"server"}, 2, "", `unknown command "server"`},
		{"help", []string{"help"}, 0, "aegis serve", ""},
		{"version", []string{"version"}, 0, "aegis unknown", ""},
		{"check nothing", []string{"check"}, 2, "", "no file named"},
		{"check a good file", []string{"check", good}, 0, "ok: 1 files, 105 conditions", ""},
		{"check a site", []string{"check", repository + "/testdata/site/aegis.yaml"}, 0, "note: condition NpuHung runs /etc/aegis/remedies.d/ResetNpu, which each of its nodes must have\nok: 1 files, 107 conditions", ""},
		{"check a preset", []string{"check", preset}, 0, "preset unattended: 37 conditions in mode auto: NodeInhibitAll, NodeNotReady, NodeCordon, ", ""},
		{"check a preset against a file", []string{"check", preset}, 0, "preset unattended: 1 conditions that a file keeps in another mode: HighLoad", ""},
		{"check an unknown preset", []string{"check", noPreset}, 2, "", noPreset + `:1:9: preset "unatended" is unknown, did you mean "unattended"?`},
		{"check a missing file", []string{"check", "none.yaml"}, 2, "", "none.yaml"},
		{"check an unknown procedure", []string{"check", noSOP}, 2, "", noSOP + ":3:8: "},
		{"check a broken configuration", []string{"check", typo}, 2, "", typo + `:2:1: unknown field "prometeus" in the file, did you mean "prometheus"?`},
		{"check a profile", []string{"check", write(t, "h100.yaml", "gpus: 8\nibs: 8\ncpus: -1\n")}, 2, "", `h100.yaml:2:1: unknown field "ibs" in the file, did you mean "ib"?`},
		{"check the template of a Job", []string{"check", repository + "/jobs/remedy_node.yaml"}, 0, "ok: 1 files", ""},
		{"check a broken template", []string{"check", write(t, "remedy_node.yaml", "apiVersion: batch/v1\nkind: Job\nspec: {backofLimit: 0}\n")}, 2, "", `remedy_node.yaml:3:8: unknown field "backofLimit"`},
		{"check a template of no action", []string{"check", write(t, "remedy.yaml", "apiVersion: batch/v1\nkind: Job\n")}, 2, "", "no action uses this file: its name must be one of "},
		{"check tells all at once", []string{"check", typo, noSOP}, 2, "", "gpu/hung"},
		{"serve with an unknown flag", []string{"serve", "-nope"}, 2, "", "-nope"},
		{"serve with an argument", []string{"serve", "now"}, 2, "", `unexpected argument "now"`},
		{"serve with a broken configuration", []string{"serve", "-config", typo}, 2, "", typo + ":3:15: holdInterval must be a duration such as 90s, 30m or 24h, is \"soon\""},
		{"serve with a bad log level", []string{"serve", "-log-level", "loud"}, 2, "", "debug, info, warn or error"},
		{"serve with a bad log format", []string{"serve", "-log-format", "xml"}, 2, "", "text or json"},
		{"serve with a missing kubeconfig", []string{"serve", "-kubeconfig", "none"}, 1, "", "none"},
		{"coverage of nothing", []string{"coverage"}, 2, "", "no Prometheus named: set -prometheus, or -config"},
		{"coverage of a configuration without a Prometheus", []string{"coverage", "-config", write(t, "aegis.yaml", "mode: auto\n")}, 2, "", "names no Prometheus: set -prometheus"},
		{"coverage of a server that is not there", []string{"coverage", "-prometheus", "http://127.0.0.1:1"}, 2, "", "coverage: query prometheus: ask http://127.0.0.1:1"},
		{"coverage of what is no URL", []string{"coverage", "-prometheus", "prometheus:9090"}, 2, "", "the URL must be http://host or https://host"},
		{"coverage in an unknown form", []string{"coverage", "-prometheus", "http://p:9090", "-output", "xml"}, 2, "", `-output "xml": use text or json`},
		{"coverage of an unknown preset", []string{"coverage", "-prometheus", "http://p:9090", "-preset", "unatended"}, 2, "", `did you mean "unattended"?`},
		{"coverage without an unknown type", []string{"coverage", "-prometheus", "http://p:9090", "-without", "ib,rocce"}, 2, "", `-without "rocce" is neither a type nor a condition, did you mean "roce"?`},
		{"coverage of a broken file", []string{"coverage", "-prometheus", "http://p:9090", noSOP}, 2, "", noSOP + ":3:8: "},
		{"coverage with a missing kubeconfig", []string{"coverage", "-prometheus", "http://p:9090", "-kubeconfig", "none"}, 2, "", "read kubeconfig"},
		{"coverage help", []string{"coverage", "-h"}, 0, "", "-without"},
		{"op without an action", []string{"op"}, 64, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := aegis(tt.args...)
			require.Equal(t, tt.code, code, stderr)
			require.Contains(t, stdout, tt.stdout)
			require.Contains(t, stderr, tt.stderr)
		})
	}
}

func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	c, err := loadConfig("")
	require.NoError(t, err)
	require.NoError(t, c.validate())
	require.Equal(t, prom.ModeObserve, c.Mode, "nothing is touched until an operator says so")
	require.True(t, *c.LeaderElection.Enabled)
	require.Equal(t, "monitoring", c.Jobs.Namespace)
	require.Equal(t, "monitoring", c.LeaderElection.Namespace)
	empty, err := loadConfig(write(t, "aegis.yaml", ""))
	require.NoError(t, err)
	require.Equal(t, c, empty)
}

func TestConfigTakesModesWithoutQuotes(t *testing.T) {
	t.Parallel()
	c, err := loadConfig(write(t, "aegis.yaml", "mode: off\n"))
	require.NoError(t, err)
	require.Equal(t, prom.ModeOff, c.Mode)
}

func TestConfig(t *testing.T) {
	t.Parallel()
	file := write(t, "aegis.yaml", `
mode: auto
conditions: [conditions.yaml, /etc/aegis/site.yaml]
prometheus: {url: "http://prometheus:9090/prefix", tokenFile: token, maxAge: 90s}
alertmanagers:
- url: http://am-0:9093
- url: https://am-1:9093
  httpConfig: {tls_config: {ca_file: ca.crt}, basic_auth: {username: aegis, password_file: /run/password}}
pools:
- {name: a100, selector: "gpu=a100", maxOutOfServicePercent: 5, maxOutOfService: 2, maxDestructive: 3, profile: a100}
- {name: rest, intakeTaints: [{key: example.com/new}]}
intakeTaints: [{key: example.com/intake, value: pending, effect: NoSchedule}]
leaderElection: {enabled: false}
`)
	c, err := loadConfig(file)
	require.NoError(t, err)
	dir := filepath.Dir(file)
	require.Equal(t, []string{filepath.Join(dir, "conditions.yaml"), "/etc/aegis/site.yaml"}, c.Conditions)
	require.Equal(t, filepath.Join(dir, "token"), c.Prometheus.Server.TokenFile)
	require.Equal(t, filepath.Join(dir, "token"), c.Prometheus.Server.http().Authorization.CredentialsFile)
	require.True(t, c.Prometheus.Server.http().ProxyFromEnvironment)
	require.Nil(t, c.Alertmanagers[0].Server.http())
	require.Equal(t, filepath.Join(dir, "ca.crt"), c.Alertmanagers[1].Server.http().TLSConfig.CAFile)
	require.Equal(t, "/run/password", c.Alertmanagers[1].Server.http().BasicAuth.PasswordFile)
	require.Equal(t, 90*time.Second, c.Prometheus.MaxAge)
	require.False(t, *c.LeaderElection.Enabled)
	settings, err := c.settings()
	require.NoError(t, err)
	require.Len(t, settings.Pools, 2)
	require.Equal(t, 3, settings.Pools[0].MaxDestructive)
	require.Equal(t, 10, settings.Pools[1].MaxPercent)
	require.Equal(t, 1, settings.Pools[1].MaxDestructive)
	require.Equal(t, []policy.IntakeTaint{{Key: "example.com/intake", Value: "pending", Effect: corev1.TaintEffectNoSchedule}}, settings.IntakeTaints)
	require.Equal(t, []policy.IntakeTaint{{Key: "example.com/new"}}, settings.Pools[1].IntakeTaints)
}

func TestBadConfigs(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, says string }{
		{"unknown field", "modes: auto", `:1:1: unknown field "modes" in the file, did you mean "mode"?`},
		{"unknown nested field", "prometheus:\n  uri: http://p:1", `:2:3: unknown field "uri" in prometheus, did you mean "url"?`},
		{"wrong type", "paused: perhaps", `:1:9: paused must be true or false, is the text "perhaps"`},
		{"two documents", "mode: auto\n---\nmode: off", ":2:1: a second document begins here"},
		{"no YAML", "mode: [", ":1:1: not valid YAML: "},
		{"unknown mode", "mode: automatic", `:1:7: mode "automatic" is unknown, known are approve, auto, observe, off`},
		{"no URL", "prometheus: {url: prometheus:9090}", ":1:19: prometheus.url is not a URL"},
		{"Alertmanager without URL", "alertmanagers: [{}]", ":1:17: alertmanagers[0].url is not a URL"},
		{"password in a URL", "prometheus: {url: 'http://u:p@h:1'}", ":1:19: prometheus.url must not hold credentials: use httpConfig.basic_auth, with a password_file"},
		{"query in a URL", "prometheus: {url: 'http://h:1?a=b'}", ":1:19: prometheus.url must have neither a query nor a fragment"},
		{"two credentials", "prometheus: {url: 'http://h:1', tokenFile: t, httpConfig: {bearer_token_file: t}}", ":1:44: prometheus.tokenFile excludes the credentials of httpConfig"},
		{"password", "alertmanagers:\n- url: http://h:1\n  httpConfig: {basic_auth: {username: u, password: hunter2}}", ":3:52: alertmanagers[0].httpConfig.basic_auth.password must not be written here: put it into a file of its own and name that in password_file"},
		{"misspelt field", "prometheus: {url: 'http://h:1', httpConfig: {tls_confg: {}}}", `:1:46: unknown field "tls_confg" in prometheus.httpConfig, did you mean "tls_config"?`},
		{"key without certificate", "prometheus: {url: 'http://h:1', httpConfig: {tls_config: {key_file: k}}}", ":1:58: prometheus.httpConfig.tls_config: exactly one of cert or cert_file must be configured"},
		{"two ways to authenticate", "prometheus: {url: 'http://h:1', httpConfig: {basic_auth: {username: u}, authorization: {}}}", ":1:45: prometheus.httpConfig is refused: at most one of basic_auth, oauth2 & authorization must be configured"},
		{"negative interval", "holdInterval: -1s", ":1:15: holdInterval -1s is negative"},
		{"lease shorter than its renewal", "leaderElection: {leaseDuration: 5s}", ":1:33: leaderElection.leaseDuration 5s must exceed"},
		{"pool without name", "pools: [{selector: a=b}]", `:1:9: pools[0].name "" is empty or used twice`},
		{"pool twice", "pools: [{name: a}, {name: a}]", `:1:27: pools[1].name "a" is empty or used twice`},
		{"bad selector", "pools: [{name: a, selector: 'a in ('}]", ":1:29: pools[0].selector is not a label selector: "},
		{"too much", "pools: [{name: a, maxOutOfServicePercent: 101}]", "0 to 100"},
		{"a window beyond the history", "pools: [{name: a, incidentWindow: 721h}]", "pools[0].incidentWindow is 721h0m0s, must be at most 720h0m0s: the history of a node does not reach back further"},
		{"no slot", "pools: [{name: a, maxDestructive: 0}]", "pools[0].maxDestructive is 0, must be from 1 to"},
		{"taint without a key", "intakeTaints: [{value: pending}]", ":1:16: intakeTaints[0].key is missing, want the key of a taint such as example.com/intake"},
		{"no key of a taint", "intakeTaints: [{key: a b}]", `:1:22: intakeTaints[0].key "a b" is not the key of a taint: `},
		{"taint of Kubernetes", "pools: [{name: a, intakeTaints: [{key: node.kubernetes.io/not-ready}]}]", `:1:40: pools[0].intakeTaints[0].key "node.kubernetes.io/not-ready" belongs to Kubernetes`},
		{"unknown effect", "intakeTaints: [{key: example.com/intake, effect: NoSchedul}]", `:1:50: intakeTaints[0].effect "NoSchedul" is unknown, did you mean "NoSchedule"?`},
		{"no value of a taint", "intakeTaints: [{key: example.com/intake, value: 'a b'}]", `:1:49: intakeTaints[0].value "a b" is not the value of a taint: `},
		{"number in place of text", "cluster: 007", ":1:10: cluster must be text, so write 007 in quotes, is the number 007"},
		{"text in place of a number", "pools: [{name: a, maxDestructive: two}]", `:1:35: pools[0].maxDestructive must be a whole number, is the text "two"`},
		{"text in place of a list", "nodeLabels: node", `:1:13: nodeLabels must be a list, is the text "node"`},
		{"alias of itself", "pools: &p [*p]", `:1:12: the YAML alias "p" stands for itself`},
		{"too long", "#" + string(bytes.Repeat([]byte("x"), strict.MaxBytes)), ":1:1: the file is larger than 1 MiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file := write(t, "aegis.yaml", tt.text)
			_, err := loadConfig(file)
			require.ErrorContains(t, err, tt.says)
			require.ErrorContains(t, err, file)
		})
	}
}

// What a person got wrong is told in one go, in the order of the file, whichever part of the program notices it.
func TestAllMistakesAtOnce(t *testing.T) {
	t.Parallel()
	file := write(t, "aegis.yaml", `
paused: "yes"
mode: automatic
pools:
- &first {name: a, maxDestructive: 0, stormwindow: 1h}
- {name: b, stormWindow: 1}
- *first
`)
	_, err := loadConfig(file)
	require.Error(t, err)
	require.Equal(t, []string{
		file + `:2:9: paused must be true or false, is the text "yes"`,
		file + `:3:7: mode "automatic" is unknown, known are approve, auto, observe, off`,
		file + `:5:17: pools[2].name "a" is empty or used twice`,
	}, strings.Split(err.Error(), "\n")[:3])
	require.ErrorContains(t, err, file+`:5:36: pools[0].maxDestructive is 0, must be from 1 to 2147483647`)
	require.ErrorContains(t, err, file+`:5:39: unknown field "stormwindow" in pools[0], did you mean "stormWindow"?`)
	require.ErrorContains(t, err, file+`:6:26: pools[1].stormWindow must be a duration such as 90s, 30m or 24h, is the number 1`)
	require.NotContains(t, err.Error(), "cmd.")
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("mode: auto\npools: [{name: a, selector: b=c}]\n"))
	f.Add([]byte("- x"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := decodeConfig("aegis.yaml", text)
		if err != nil {
			require.ErrorContains(t, err, "aegis.yaml:")
			return
		}
		_, err = c.settings()
		require.NoError(t, err)
	})
}

// Which of two procedures of one name would repair a node must not depend on chance.
func TestProceduresOfOneName(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	own := sop.Table{"gpu/hung": procedures.Table()["gpu/lost"], "storage/remount": nil}
	code := Run([]string{"version"}, &out, &errs, procedures.Table(), own)
	require.Equal(t, 1, code)
	require.Contains(t, errs.String(), `procedure "gpu/hung" is registered twice, give one of them another name`)
	require.Contains(t, errs.String(), `procedure "storage/remount" has no factory`)
	require.Empty(t, out.String())
}

// The windows of conditions reach as far back as the history of a node.
func TestWindowsEndWithTheHistory(t *testing.T) {
	t.Parallel()
	require.Equal(t, ticket.DestructiveCounts, rules.LongestWindow)
}
