package charttest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// identities is what the manifests of charts/aegis/rbac declare.
type identities struct {
	accounts []string
	roles    map[string][]rbacv1.PolicyRule
	bindings map[string]string
	subjects []rbacv1.Subject
}

func readIdentities(t *testing.T) identities {
	t.Helper()
	all := identities{roles: make(map[string][]rbacv1.PolicyRule), bindings: make(map[string]string)}
	for _, file := range files(t, "rbac") {
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, doc := range bytes.Split(raw, []byte("\n---\n")) {
			all.add(t, file, doc)
		}
	}
	return all
}

func (i *identities) add(t *testing.T, file string, doc []byte) {
	t.Helper()
	var kind metav1.TypeMeta
	require.NoError(t, yaml.Unmarshal(doc, &kind), file)
	switch kind.Kind {
	case "ServiceAccount":
		account := decode[corev1.ServiceAccount](t, file, doc)
		i.accounts = append(i.accounts, account.Namespace+"/"+account.Name)
	case "ClusterRole":
		role := decode[rbacv1.ClusterRole](t, file, doc)
		i.roles["ClusterRole/"+role.Name] = role.Rules
	case "Role":
		role := decode[rbacv1.Role](t, file, doc)
		i.roles["Role/"+role.Namespace+"/"+role.Name] = role.Rules
	case "ClusterRoleBinding":
		binding := decode[rbacv1.ClusterRoleBinding](t, file, doc)
		i.bindings[binding.RoleRef.Kind+"/"+binding.RoleRef.Name] = binding.RoleRef.APIGroup
		i.subjects = append(i.subjects, binding.Subjects...)
	case "RoleBinding":
		binding := decode[rbacv1.RoleBinding](t, file, doc)
		i.bindings[binding.RoleRef.Kind+"/"+binding.Namespace+"/"+binding.RoleRef.Name] = binding.RoleRef.APIGroup
		i.subjects = append(i.subjects, binding.Subjects...)
	default:
		t.Fatalf("%s: unexpected kind %q", file, kind.Kind)
	}
}

func decode[T any](t *testing.T, file string, doc []byte) T {
	t.Helper()
	var object T
	require.NoError(t, yaml.UnmarshalStrict(doc, &object), file)
	return object
}

func TestEveryRoleIsBoundToTheService(t *testing.T) {
	t.Parallel()
	all := readIdentities(t)
	require.ElementsMatch(t, []string{"monitoring/aegis", "monitoring/aegis-op"}, all.accounts)
	require.Len(t, all.bindings, len(all.roles))
	for name := range all.roles {
		require.Equal(t, rbacv1.GroupName, all.bindings[name], "no binding of %s", name)
	}
	for _, s := range all.subjects {
		// The step Jobs have root on their node. They must have no rights on the API.
		require.Equal(t, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "monitoring", Name: "aegis"}, s)
	}
}

func TestRightsAreTheLeastThatIsNeeded(t *testing.T) {
	t.Parallel()
	want := []string{
		"ClusterRole/aegis: apps/daemonsets get",
		"ClusterRole/aegis: apps/replicasets get",
		"ClusterRole/aegis: apps/statefulsets get",
		"ClusterRole/aegis: batch/jobs get",
		"ClusterRole/aegis: core/events create patch",
		"ClusterRole/aegis: core/nodes get list watch patch",
		"ClusterRole/aegis: core/pods get list watch",
		"ClusterRole/aegis: core/pods/eviction create",
		"ClusterRole/aegis: events.k8s.io/events create patch",
		"ClusterRole/aegis: policy/poddisruptionbudgets get list",
		"ClusterRole/aegis-delete-pods: core/pods delete",
		"Role/kube-node-lease/aegis: coordination.k8s.io/leases get list",
		"Role/monitoring/aegis: batch/jobs get list watch create delete",
		"Role/monitoring/aegis: coordination.k8s.io/leases get create update",
		"Role/monitoring/aegis: core/pods get list watch",
		"Role/monitoring/aegis: core/pods/log get list watch",
	}
	var have []string
	for role, rules := range readIdentities(t).roles {
		for _, r := range rules {
			require.Empty(t, r.NonResourceURLs)
			have = append(have, grants(role, r)...)
		}
	}
	require.ElementsMatch(t, want, have)
}

// grants says what a rule allows, one line per resource.
func grants(role string, r rbacv1.PolicyRule) []string {
	var lines []string
	for _, apiGroup := range r.APIGroups {
		if apiGroup == "" {
			apiGroup = "core"
		}
		for _, resource := range r.Resources {
			lines = append(lines, role+": "+apiGroup+"/"+resource+" "+strings.Join(r.Verbs, " "))
		}
	}
	return lines
}

// The chart must take every role from its file: a second copy of the rules would drift.
func TestChartTakesTheRulesFromTheFiles(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.Join(chart, "templates", "rbac.yaml"))
	require.NoError(t, err)
	for _, file := range files(t, "rbac") {
		if strings.HasPrefix(filepath.Base(file), "clusterrole") || strings.HasPrefix(filepath.Base(file), "role") {
			require.Contains(t, string(raw), `.Files.Get "rbac/`+filepath.Base(file)+`"`)
		}
	}
	require.NotContains(t, string(raw), "apiGroups:")
}
