package charttest

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// noRules leaves out what needs the CRDs of the Prometheus Operator.
const noRules = "prometheusRule: {enabled: false}\n"

// renderChart returns the manifests of a release aegis in the namespace, or what Helm says against the values.
func renderChart(t *testing.T, namespace, values string) (manifests []byte, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), renderer, chart, "aegis", namespace)
	cmd.Stdin = strings.NewReader(values)
	var says bytes.Buffer
	cmd.Stderr = &says
	manifests, err = cmd.Output()
	if err != nil {
		return nil, errors.New(says.String())
	}
	return manifests, nil
}

func rendered(t *testing.T, namespace, values string) []byte {
	t.Helper()
	manifests, err := renderChart(t, namespace, values)
	require.NoError(t, err)
	return manifests
}

// all returns the objects of a kind, decoded strictly.
func all[T any](t *testing.T, manifests []byte, kind string) []T {
	t.Helper()
	var objects []T
	for document := range bytes.SplitSeq(manifests, []byte("\n---\n")) {
		var meta metav1.TypeMeta
		require.NoError(t, yaml.Unmarshal(document, &meta))
		if meta.Kind != kind {
			continue
		}
		var object T
		require.NoError(t, yaml.UnmarshalStrict(document, &object))
		objects = append(objects, object)
	}
	return objects
}

// one returns the only object of a kind.
func one[T any](t *testing.T, manifests []byte, kind string) T {
	t.Helper()
	objects := all[T](t, manifests, kind)
	require.Len(t, objects, 1, kind)
	return objects[0]
}

// What the rights depend on cannot be set past them.
func TestConfigCannotContradictTheRights(t *testing.T) {
	t.Parallel()
	for _, field := range []string{"leaderElection.name", "leaderElection.namespace", "jobs.namespace", "jobs.serviceAccount"} {
		t.Run(field, func(t *testing.T) {
			t.Parallel()
			section, name, _ := strings.Cut(field, ".")
			_, err := renderChart(t, "monitoring", "config: {"+section+": {"+name+": other}}")
			require.ErrorContains(t, err, "config."+field+" cannot be set")
		})
	}
	rendered(t, "monitoring", "config: {leaderElection: {leaseDuration: 30s}}")
}
