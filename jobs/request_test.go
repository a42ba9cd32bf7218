package jobs

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/util/validation"

	"aegis.io/aegis/jobs/protocol"
)

func reboot() Request {
	return Request{Action: protocol.ActionReboot, Node: "gpu-17.example.com", Incident: "20261123-150405-x7k2", Args: []string{"--boot-id", "b1"}}
}

func TestRequestNameIsStable(t *testing.T) {
	// The name finds the Jobs of the version before this one: a change here repeats what they did.
	require.Equal(t, "aegis-reboot-gpu-17-example-com-aade4c7f1d5a-0", reboot().Name())

	again := reboot()
	again.Args = []string{"--boot-id", "b2"}
	again.Deadline = time.Hour
	require.Equal(t, reboot().Name(), again.Name())
}

func TestRequestNamesDoNotCollide(t *testing.T) {
	prefix := strings.Repeat("rack-", 40)
	owner := make(map[string]string)
	for _, action := range protocol.Actions() {
		for _, node := range []string{"n", "n-1", "n.1", prefix + "a", prefix + "b", prefix + "1", "n1", "n-"} {
			for _, incident := range []string{"i", "i1", "1", ""} {
				for _, attempt := range []int{0, 1, 10, 11} {
					name := Request{Action: action, Node: node, Incident: incident, Attempt: attempt}.Name()
					key := fmt.Sprintf("%q %q %q %d", action, node, incident, attempt)
					require.Empty(t, owner[name], "%s and %s share the name %s", key, owner[name], name)
					owner[name] = key
				}
			}
		}
	}
}

func TestRequestValidate(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Request)
		want   string
	}{
		{"empty action", func(r *Request) { r.Action = "" }, `unknown action ""`},
		{"unknown action", func(r *Request) { r.Action = "explode" }, `unknown action "explode"`},
		{"empty node", func(r *Request) { r.Node = "" }, `node "" cannot be the name of a Node`},
		{"node with YAML", func(r *Request) { r.Node = "n1\n  hostPID: true" }, `node "n1\n  hostPID: true" cannot be the name of a Node`},
		{"huge node", func(r *Request) { r.Node = strings.Repeat("n", 1<<20) }, `cannot be the name of a Node`},
		{"empty incident", func(r *Request) { r.Incident = "" }, "incident is empty"},
		{"negative attempt", func(r *Request) { r.Attempt = -1 }, "attempt -1 is negative"},
		{"negative deadline", func(r *Request) { r.Deadline = -time.Second }, "deadline -1s is negative"},
		{"zero byte", func(r *Request) { r.Args = []string{"a", "b\x00c"} }, "argument 1 holds a zero byte or is not UTF-8"},
		{"not UTF-8", func(r *Request) { r.Args = []string{"\xff"} }, "argument 0 holds a zero byte or is not UTF-8"},
		{"huge argument", func(r *Request) { r.Args = []string{strings.Repeat("a", 1<<20)} }, "arguments take 1048577 bytes: at most 32768 are allowed"},
		{"many arguments", func(r *Request) { r.Args = make([]string, 1<<16) }, "arguments take 65536 bytes: at most 32768 are allowed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := reboot()
			tc.change(&r)
			err := r.validate()
			require.ErrorContains(t, err, tc.want)
			require.Less(t, len(err.Error()), 512)
		})
	}
	require.NoError(t, reboot().validate())
}

func TestLabelValue(t *testing.T) {
	long := strings.Repeat("rack-", 40)
	for _, s := range []string{"gpu-17", "gpu-17.example.com", "20261123-150405-x7k2", strings.Repeat("n", 63)} {
		require.Equal(t, s, labelValue(s))
	}
	require.NotEqual(t, labelValue(long+"a"), labelValue(long+"b"))
	require.True(t, strings.HasPrefix(labelValue(long), "rack-rack-"))
}

func FuzzRequestName(f *testing.F) {
	f.Add("reboot", "gpu-17", "20261123-150405-x7k2", 0)
	f.Add("", "", "", -1)
	f.Add("-", "--- |\n", "$(reboot)", 1<<62)
	f.Add(strings.Repeat("A", 300), strings.Repeat(".", 300), "\xff\x00", -1<<63)
	f.Fuzz(func(t *testing.T, action, node, incident string, attempt int) {
		r := Request{Action: action, Node: node, Incident: incident, Attempt: attempt}
		require.Empty(t, validation.IsDNS1123Label(r.Name()), "%q", r.Name())
		require.Equal(t, r.Name(), Request{Action: action, Node: node, Incident: incident, Attempt: attempt, Args: []string{"x"}, Deadline: 1}.Name())
		for key, value := range identity(r) {
			if key != labelAttempt || attempt >= 0 {
				require.Empty(t, validation.IsValidLabelValue(value), "%s %q", key, value)
			}
		}
	})
}
