package charttest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"aegis.io/aegis/e2e/charttest/rights"
)

// product is the service account of the Deployment. That of the step Jobs is bound to nothing.
func product(namespace string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "aegis"}
}

func readRights(t *testing.T) *rights.Manifests {
	t.Helper()
	all, err := rights.Read(filepath.Join(chart, "rbac"))
	require.NoError(t, err)
	return all
}

func lines(grants []rights.Grant) []string {
	var all []string
	for _, g := range grants {
		all = append(all, g.String())
	}
	return all
}

// accounts names the service accounts of which no pod gets a token unless it asks.
func accounts(t *testing.T, all []corev1.ServiceAccount) []string {
	t.Helper()
	var names []string
	for _, a := range all {
		require.NotNil(t, a.AutomountServiceAccountToken, a.Name)
		require.False(t, *a.AutomountServiceAccountToken, a.Name)
		names = append(names, a.Namespace+"/"+a.Name)
	}
	return names
}

func TestOnlyTheServiceHasRights(t *testing.T) {
	t.Parallel()
	all := readRights(t)
	require.ElementsMatch(t, []string{"monitoring/aegis", "monitoring/aegis-op"}, accounts(t, all.Accounts))
	for _, b := range all.Bindings {
		require.Equal(t, []rbacv1.Subject{product("monitoring")}, b.Subjects, b.Name)
		require.Equal(t, rbacv1.GroupName, b.Ref.APIGroup, b.Name)
	}
	for _, role := range all.Roles {
		require.True(t, slices.ContainsFunc(all.Grants(), func(g rights.Grant) bool { return g.Role == role.String() }),
			"%s is bound nowhere", role)
	}
}

// Whether each of these is used is shown by the end-to-end cases, from the audit log. Here it is written down once more, so
// that nobody widens a rule by accident.
func TestRightsAreTheLeastThatIsNeeded(t *testing.T) {
	t.Parallel()
	require.ElementsMatch(t, []string{
		"ClusterRole aegis: get nodes in the cluster",
		"ClusterRole aegis: list nodes in the cluster",
		"ClusterRole aegis: watch nodes in the cluster",
		"ClusterRole aegis: patch nodes in the cluster",
		"ClusterRole aegis: list pods in the cluster",
		"ClusterRole aegis: create pods/eviction in the cluster",
		"ClusterRole aegis: list policy/poddisruptionbudgets in the cluster",
		"ClusterRole aegis-delete-pods: delete pods in the cluster",
		"ClusterRole aegis-events: create events in default, monitoring",
		"ClusterRole aegis-events: patch events in default, monitoring",
		"Role monitoring/aegis-jobs: get batch/jobs in monitoring",
		"Role monitoring/aegis-jobs: create batch/jobs in monitoring",
		"Role monitoring/aegis-jobs: delete batch/jobs in monitoring",
		"Role monitoring/aegis-lease: create coordination.k8s.io/leases in monitoring",
		"Role monitoring/aegis-lease: get coordination.k8s.io/leases (aegis) in monitoring",
		"Role monitoring/aegis-lease: update coordination.k8s.io/leases (aegis) in monitoring",
		"Role monitoring/aegis-lease: patch coordination.k8s.io/leases (aegis) in monitoring",
		"Role kube-node-lease/aegis-node-lease: get coordination.k8s.io/leases in kube-node-lease",
	}, lines(readRights(t).Grants()))
	for _, role := range readRights(t).Roles {
		for _, rule := range role.Rules {
			require.Empty(t, rule.NonResourceURLs, role)
			require.NotContains(t, slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs), "*", role)
		}
	}
}

// A grant that another one covers says nothing, and would never be missed.
func TestNoRightIsGrantedTwice(t *testing.T) {
	t.Parallel()
	grants := readRights(t).Grants()
	for i, g := range grants {
		use := rights.Use{APIGroup: g.APIGroup, Resource: g.Resource, Verb: g.Verb, Namespace: "any", Name: "any"}
		if len(g.Namespaces) > 0 {
			use.Namespace = g.Namespaces[0]
		}
		if len(g.Names) > 0 {
			use.Name = g.Names[0]
		}
		require.True(t, g.Allows(use), g)
		for j, other := range grants {
			require.False(t, i != j && other.Allows(use), "%s is covered by %s", g, other)
		}
	}
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

// What `helm install` grants is what `kubectl apply` of the folder rbac grants.
func TestChartGrantsWhatTheFilesGrant(t *testing.T) {
	t.Parallel()
	found, err := rights.Find(rendered(t, "monitoring", ""))
	require.NoError(t, err)
	require.ElementsMatch(t, lines(readRights(t).Grants()), lines(found.Grants()))
	require.ElementsMatch(t, []string{"monitoring/aegis", "monitoring/aegis-op"}, accounts(t, found.Accounts))
}

// The namespaces follow the release and the values, and so do the subjects.
func TestRightsFollowTheNamespaces(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, values string
		want         []string
	}{
		{"jobs of their own", "jobs: {namespace: gpu-jobs}", []string{
			"Role gpu-jobs/aegis-jobs: create batch/jobs in gpu-jobs",
			"Role heal/aegis-lease: update coordination.k8s.io/leases (aegis) in heal",
			"ClusterRole aegis-events: create events in default, heal",
			"ClusterRole aegis-delete-pods: delete pods in the cluster",
		}},
		{"deletion in some", "rbac: {deletePodsNamespaces: [gpu-operator, kube-system]}", []string{
			"Role heal/aegis-jobs: create batch/jobs in heal",
			"ClusterRole aegis-delete-pods: delete pods in gpu-operator, kube-system",
		}},
		{"no rights", "rbac: {create: false}", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			found, err := rights.Find(rendered(t, "heal", tt.values))
			require.NoError(t, err)
			grants := lines(found.Grants())
			require.Subset(t, grants, tt.want)
			if tt.want == nil {
				require.Empty(t, grants)
				return
			}
			require.Len(t, grants, len(readRights(t).Grants()))
			for _, b := range found.Bindings {
				require.Equal(t, []rbacv1.Subject{product("heal")}, b.Subjects, b.Name)
			}
		})
	}
}

// The Lease of the configuration is the one that the rights name.
func TestLeaseOfTheConfigurationIsTheOneOfTheRights(t *testing.T) {
	t.Parallel()
	manifests := rendered(t, "heal", "jobs: {namespace: gpu-jobs}")
	var config struct {
		LeaderElection struct{ Namespace, Name string }
		Jobs           struct{ Namespace, ServiceAccount string }
	}
	maps := all[corev1.ConfigMap](t, manifests, "ConfigMap")
	i := slices.IndexFunc(maps, func(m corev1.ConfigMap) bool { return m.Name == "aegis" })
	require.NoError(t, yaml.Unmarshal([]byte(maps[i].Data["aegis.yaml"]), &config))
	found, err := rights.Find(manifests)
	require.NoError(t, err)
	for _, verb := range []string{"get", "update", "patch"} {
		require.True(t, slices.ContainsFunc(found.Grants(), func(g rights.Grant) bool {
			return g.Resource == "leases" && g.Verb == verb &&
				slices.Equal(g.Namespaces, []string{config.LeaderElection.Namespace}) &&
				slices.Equal(g.Names, []string{config.LeaderElection.Name})
		}), verb)
	}
	require.Contains(t, accounts(t, found.Accounts), config.Jobs.Namespace+"/"+config.Jobs.ServiceAccount)
}
