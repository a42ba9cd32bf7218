package strict

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/config"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// secret is a type that unmarshals itself, as the types of Prometheus do.
type secret string

func (s *secret) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	err := unmarshal(&text)
	*s = secret(text)
	return err
}

type address struct{ *url.URL }

func (a *address) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if err := unmarshal(&text); err != nil {
		return err
	}
	parsed, err := url.Parse(text)
	a.URL = parsed
	return err
}

// client checks itself as a whole.
type client struct {
	Password     secret  `yaml:"password"`
	PasswordFile string  `yaml:"password_file"`
	Proxy        address `yaml:"proxy_url"`
	Retries      int     `yaml:"retries"`
}

func (c *client) UnmarshalYAML(unmarshal func(any) error) error {
	type plain client
	*c = client{Retries: 3}
	if err := unmarshal((*plain)(c)); err != nil {
		return err
	}
	if c.Password != "" && c.PasswordFile != "" {
		return errors.New("at most one of password and password_file must be set")
	}
	return nil
}

type inner struct {
	Host string `yaml:"host"`
}

type site struct {
	inner   `yaml:"-"`
	Inline  inner          `yaml:",inline"`
	Paused  bool           `yaml:"paused"`
	Count   *int           `yaml:"count"`
	Wait    *time.Duration `yaml:"wait"`
	Share   float64        `yaml:"share"`
	Names   []string       `yaml:"names"`
	Limits  map[string]int `yaml:"limits"`
	Clients []client       `yaml:"clients"`
	Rest    map[string]any `yaml:"rest"`
}

func decode(t *testing.T, text string) (site, error) {
	t.Helper()
	s := site{Names: []string{"default"}, Share: 0.5}
	d := NewDecoder("f")
	d.Aliases = true
	if root, ok := d.Document([]byte(text), ""); ok {
		d.Decode(root, &s)
	}
	return s, d.Err()
}

func TestDecode(t *testing.T) {
	t.Parallel()
	s, err := decode(t, `
host: a
paused: true
count: 3
wait: 90s
share: 1
limits: &limits {gpu: 8, ib: 4}
clients:
- {password: "1", proxy_url: "http://p:1"}
- password: 7
rest:
  limits: *limits
  more: {<<: *limits, ib: 9}
`)
	require.NoError(t, err)
	require.Equal(t, "a", s.Inline.Host)
	require.True(t, s.Paused)
	require.Equal(t, 3, *s.Count)
	require.Equal(t, 90*time.Second, *s.Wait)
	require.InDelta(t, 1, s.Share, 0)
	require.Equal(t, []string{"default"}, s.Names, "what the file does not have keeps its value")
	require.Equal(t, map[string]int{"gpu": 8, "ib": 4}, s.Limits)
	require.Len(t, s.Clients, 2)
	require.Equal(t, 3, s.Clients[0].Retries, "a type that unmarshals itself sets its own defaults")
	require.Equal(t, "p:1", s.Clients[0].Proxy.Host)
	require.Equal(t, secret("7"), s.Clients[1].Password)
	require.Equal(t, map[string]any{"gpu": 8, "ib": 9}, s.Rest["more"])
}

// What earlier readers of the same files took is taken still.
func TestDecodeIsNoStricterThanItMustBe(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{"yes": true, "on": true, "Y": true, "true": true, "no": false, "off": false, "False": false} {
		s, err := decode(t, "paused: "+text+"\nhost: 7\n")
		require.NoError(t, err, text)
		require.Equal(t, want, s.Paused, text)
		require.Equal(t, "7", s.Inline.Host)
	}
	for _, word := range []string{"off", "yes", "on", "2024-01-01"} {
		s, err := decode(t, "host: "+word)
		require.NoError(t, err)
		require.Equal(t, word, s.Inline.Host)
	}
	for _, number := range []string{"007", "0x7", "1_0", "7.0", "1e3", "1234567890123456"} {
		_, err := decode(t, "host: "+number)
		require.EqualError(t, err, "f:1:7: host must be text, so write "+number+" in quotes, is the number "+number)
	}
}

// What earlier versions took of a Job manifest or a profile is taken.
func TestDecodeLegacy(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]site{
		"count: 0444":  {Names: []string{"default"}, Share: 0.5, Count: new(0o444)},
		"count: 0x80":  {Names: []string{"default"}, Share: 0.5, Count: new(0x80)},
		"count: 128.0": {Names: []string{"default"}, Share: 0.5, Count: new(128)},
		"COUNT: 7":     {Names: []string{"default"}, Share: 0.5, Count: new(7)},
	} {
		s := site{Names: []string{"default"}, Share: 0.5}
		d := NewDecoder("f")
		d.Legacy = true
		root, ok := d.Document([]byte(text), "")
		require.True(t, ok)
		d.Decode(root, &s)
		require.NoError(t, d.Err(), text)
		require.Equal(t, want, s, text)
	}
	var s site
	d := NewDecoder("f")
	d.Legacy = true
	root, ok := d.Document([]byte("count: 1.5\nhost: 1.5\ncuont: 1\n"), "")
	require.True(t, ok)
	d.Decode(root, &s)
	require.ErrorContains(t, d.Err(), "f:1:8: count must be a whole number, is the number 1.5")
	require.ErrorContains(t, d.Err(), `f:3:1: unknown field "cuont"`)
	require.Equal(t, "1.5", s.Inline.Host)
}

func TestDecodeKeepsWhatHasNoValue(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "# nothing", "names:\nshare: ~\n"} {
		s, err := decode(t, text)
		require.NoError(t, err, text)
		require.Equal(t, site{Names: []string{"default"}, Share: 0.5}, s)
	}
}

func TestDecodeMistakes(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text string
		says []string
	}{
		"wrong types": {
			"paused: 1\ncount: 010\nwait: 5\nshare: much\nnames: a\nlimits: [1]\n",
			[]string{
				"f:1:9: paused must be true or false, is the number 1",
				"f:2:8: count must be a whole number, is the number 010",
				"f:3:7: wait must be a duration such as 90s, 30m or 24h, is the number 5",
				`f:4:8: share must be a number, is the text "much"`,
				`f:5:8: names must be a list, is the text "a"`,
				"f:6:9: limits must be a mapping, is a list",
			},
		},
		"the file is a list": {"- a", []string{"f:1:1: the file must be a mapping, is a list"}},
		"unknown fields": {
			"hots: a\nclients:\n- {pasword: x}\n",
			[]string{
				`f:1:1: unknown field "hots" in the file, did you mean "host"?`,
				`f:3:4: unknown field "pasword" in clients[0], did you mean "password"?`,
			},
		},
		"truth values of old": {
			"host: no\nnames: [on, true]\npaused: \"yes\"\n",
			[]string{
				"f:2:13: names[1] must be text, so write true in quotes, is the truth value true",
				`f:3:9: paused must be true or false, is the text "yes"`,
			},
		},
		"a type refuses itself": {
			"clients:\n- {password: a, password_file: b}\n",
			[]string{"f:2:3: clients[0]: at most one of password and password_file must be set"},
		},
		"no secret is repeated": {
			"clients:\n- hunter2\n- password_file: [hunter2]\n- retries: hunter2\n- password: {hunter2: hunter2}\n- proxy_url: \"http://u:hunter2@[\"\n- password_file: 5.0\n",
			[]string{
				"f:2:3: clients[0] must be a mapping, is a value of another kind",
				"f:3:18: clients[1].password_file must be text, is a list",
				"f:4:12: clients[2].retries must be a whole number, is a value of another kind",
				"f:5:13: clients[3].password must be text, is a mapping",
				"f:6:14: clients[4].proxy_url is not a URL: missing ']' in host",
				"f:7:18: clients[5].password_file must be text, so write it in quotes, is a value of another kind",
			},
		},
		"merge of a list": {"rest: {<<: [[a]]}", []string{"f:1:13: what a YAML merge key stands for must be a mapping, is a list"}},
		"second document": {"host: a\n---\nhost: b\n", []string{"f:2:1: a second document begins here, a file must have only one"}},
		"no YAML":         {"host: a\nnames: [\n", []string{"f:2:1: not valid YAML: did not find expected node content"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := decode(t, tt.text)
			require.Error(t, err)
			require.Equal(t, tt.says, strings.Split(err.Error(), "\n"))
			if name == "no secret is repeated" {
				require.NotContains(t, err.Error(), "hunter2")
			}
		})
	}
}

func TestAliasesThatStandForTooMuch(t *testing.T) {
	t.Parallel()
	bomb := "rest:\n  a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for _, c := range "bcdef" {
		before := string(c - 1)
		bomb += "  " + string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+before+",", 9) + "*" + before + "]\n"
	}
	_, err := decode(t, bomb)
	require.EqualError(t, err, "f:1:1: the YAML aliases of the file stand for too much")
	_, err = decode(t, "rest: &r {a: *r}")
	require.EqualError(t, err, `f:1:14: the YAML alias "r" stands for itself`)
}

func TestFailAt(t *testing.T) {
	t.Parallel()
	d := NewDecoder("f")
	root, ok := d.Document([]byte("host: a\nclients:\n- retries: 1\n- retries: x\n"), "")
	require.True(t, ok)
	var s site
	d.Decode(root, &s)
	d.FailAt("clients[0].retries", "is too few")
	d.FailAt("clients[0].password", "is missing")
	d.FailAt("clients[1].retries", "has been told")
	d.FailAt("clients[7].retries", "is missing")
	d.FailAt("paused", "is missing")
	require.EqualError(t, d.Err(), strings.Join([]string{
		"f:1:1: is missing",
		"f:3:1: is missing",
		"f:3:3: is missing",
		"f:3:12: is too few",
		"f:4:12: clients[1].retries must be a whole number, is a value of another kind",
	}, "\n"))
	empty := NewDecoder("f")
	_, ok = empty.Document(nil, "")
	require.False(t, ok)
	empty.FailAt("host", "is missing")
	require.EqualError(t, empty.Err(), "f:1:1: is missing")
}

// Prometheus' own types are sections of aegis.yaml.
func TestClientsOfPrometheus(t *testing.T) {
	t.Parallel()
	type section struct {
		Address string                  `yaml:"url"`
		Client  config.HTTPClientConfig `yaml:",inline"`
	}
	read := func(text string) (section, error) {
		s := section{Client: config.DefaultHTTPClientConfig}
		d := NewDecoder("f")
		if root, ok := d.Document([]byte(text), ""); ok {
			d.Decode(root, &s)
		}
		return s, d.Err()
	}
	s, err := read("url: http://p\nbasic_auth: {username: a, password_file: p}\ntls_config: {ca_file: ca, min_version: TLS13}\nproxy_url: http://proxy\nhttp_headers: {X-Scope-OrgID: {values: [gpu]}}\noauth2:\n  client_id: c\n  client_secret_file: s\n  token_url: t\n  endpoint_params: {a: b}\n")
	require.NoError(t, err)
	require.True(t, s.Client.EnableHTTP2)
	require.Equal(t, "a", s.Client.BasicAuth.Username)
	require.Equal(t, "p", s.Client.BasicAuth.PasswordFile)
	require.Equal(t, "proxy", s.Client.ProxyURL.Host)
	require.Equal(t, []string{"gpu"}, s.Client.HTTPHeaders.Headers["X-Scope-OrgID"].Values)
	require.Equal(t, "b", s.Client.OAuth2.EndpointParams["a"])
	require.NotZero(t, s.Client.TLSConfig.MinVersion)
	_, err = read("url: http://p\nbasic_auth: {usernam: hunter2}\ntls_config: {min_version: TLS9}\nbasic_authh: {}\nfollow_redirects: hunter2\n")
	require.EqualError(t, err, strings.Join([]string{
		`f:2:14: unknown field "usernam" in basic_auth, did you mean "username"?`,
		"f:3:27: tls_config.min_version: unknown TLS version: TLS9",
		`f:4:1: unknown field "basic_authh" in the file, did you mean "basic_auth"?`,
		`f:5:19: follow_redirects must be true or false, is the text "hunter2"`,
	}, "\n"))
}

// Types of Kubernetes have their names and their ways of reading themselves for JSON.
func TestDecodeJSON(t *testing.T) {
	t.Parallel()
	read := func(text string) (corev1.Pod, error) {
		var pod corev1.Pod
		d := NewDecoder("f")
		d.JSON = true
		root, ok := d.Document([]byte(text), "")
		require.True(t, ok)
		d.Decode(root, &pod)
		return pod, d.Err()
	}
	pod, err := read("kind: Pod\nmetadata: {name: a, labels: {b: c}, creationTimestamp: null}\nspec:\n  hostPID: true\n  containers:\n  - name: d\n    resources: {limits: {cpu: 2, memory: 1Gi}}\n    livenessProbe: {httpGet: {port: 80, path: /}}\n    readinessProbe: {httpGet: {port: http}}\n  activeDeadlineSeconds: 5\n  volumes: [{name: v, emptyDir: {}}]\n")
	require.NoError(t, err)
	require.Equal(t, "Pod", pod.Kind)
	require.Equal(t, "c", pod.Labels["b"])
	require.Equal(t, int64(2), pod.Spec.Containers[0].Resources.Limits.Cpu().Value())
	require.Equal(t, int32(80), pod.Spec.Containers[0].LivenessProbe.HTTPGet.Port.IntVal)
	require.Equal(t, "http", pod.Spec.Containers[0].ReadinessProbe.HTTPGet.Port.StrVal)
	require.Equal(t, int64(5), *pod.Spec.ActiveDeadlineSeconds)
	require.NotNil(t, pod.Spec.Volumes[0].EmptyDir)
	_, err = read("spec:\n  containers:\n  - naem: d\n    resources: {limits: {cpu: much}}\n  activeDeadlineSeconds: 99999999999999999999\n")
	require.ErrorContains(t, err, `f:3:5: unknown field "naem" in spec.containers[0], did you mean "name"?`)
	require.ErrorContains(t, err, "f:4:31: spec.containers[0].resources.limits.cpu: quantities must match")
	require.ErrorContains(t, err, "f:5:26: spec.activeDeadlineSeconds must be a whole number")
}

func FuzzDecode(f *testing.F) {
	f.Add("host: a\nclients: [{password: b}]")
	f.Add("a: &a [*a]")
	f.Add("{<<: [{a: 1}], b: &b {<<: *b}}")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := decode(t, text); err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				require.Regexp(t, `^f:\d+:\d+: `, line)
			}
		}
	})
}
