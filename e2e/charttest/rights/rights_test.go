package rights_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/e2e/charttest/rights"
)

const manifests = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: wide}
rules:
- {apiGroups: [""], resources: [nodes, pods/eviction], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: wide}
roleRef: {kind: ClusterRole, name: wide}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: narrow, namespace: here}
rules:
- {apiGroups: [coordination.k8s.io], resources: [leases], resourceNames: [aegis], verbs: [get, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: any, namespace: here}
roleRef: {kind: Role, name: narrow}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: narrow, namespace: there}
rules:
- {apiGroups: [""], resources: [secrets], verbs: ["*"]}
`

func TestUnused(t *testing.T) {
	t.Parallel()
	found, err := rights.Find([]byte(manifests))
	require.NoError(t, err)
	lease := rights.Use{APIGroup: "coordination.k8s.io", Resource: "leases", Verb: "get", Namespace: "here", Name: "aegis"}
	with := func(change func(*rights.Use)) rights.Use {
		use := lease
		change(&use)
		return use
	}
	getLease := "Role here/narrow: get coordination.k8s.io/leases (aegis) in here"
	getEviction := "ClusterRole wide: get pods/eviction in the cluster"
	tests := []struct {
		name string
		use  rights.Use
		// used is the grant that the request uses, if there is one.
		used string
	}{
		{"same", lease, getLease},
		{"other verb", with(func(u *rights.Use) { u.Verb = "update" }), ""},
		{"other object", with(func(u *rights.Use) { u.Name = "other" }), ""},
		{"other namespace", with(func(u *rights.Use) { u.Namespace = "there" }), ""},
		{"other group", with(func(u *rights.Use) { u.APIGroup = "" }), ""},
		{"node", rights.Use{Resource: "nodes", Verb: "get", Name: "n"}, "ClusterRole wide: get nodes in the cluster"},
		{"subresource", rights.Use{Resource: "pods/eviction", Verb: "get", Namespace: "any", Name: "p"}, getEviction},
		{"resource, not subresource", rights.Use{Resource: "pods", Verb: "get", Namespace: "any", Name: "p"}, ""},
	}
	all := names(found.Grants())
	require.ElementsMatch(t, []string{
		getLease, "Role here/narrow: patch coordination.k8s.io/leases (aegis) in here",
		"ClusterRole wide: get nodes in the cluster", getEviction,
	}, all, "a role that is bound nowhere grants nothing")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			left := names(rights.Unused(found.Grants(), []rights.Use{tt.use}))
			if tt.used == "" {
				require.ElementsMatch(t, all, left)
				return
			}
			require.NotContains(t, left, tt.used)
			require.Len(t, left, len(all)-1)
		})
	}
}

func names(grants []rights.Grant) []string {
	var lines []string
	for _, g := range grants {
		lines = append(lines, g.String())
	}
	return lines
}

func TestReadRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	_, err := rights.Read(t.TempDir())
	require.ErrorContains(t, err, "no manifest")
	_, err = rights.Find([]byte("kind: Role\nrulez: []\n"))
	require.ErrorContains(t, err, `Role: error unmarshaling JSON: while decoding JSON: json: unknown field "rulez"`)
}
