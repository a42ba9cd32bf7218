package charttest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"

	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// renamed is a release whose service account has not the name of the manifests.
const renamed = noRules + "serviceAccount: {name: healer}\n"

// Keys under aegis.io/ that are not for Aegis to write.
const (
	disable    = policy.DisableLabel
	powerState = sop.PowerStateAnnotation
)

func manifestOf(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(chart, "admission", file))
	require.NoError(t, err)
	return text
}

// admissionFiles are the policies, by name, with their bindings.
func admissionFiles() map[string][2]string {
	return map[string][2]string{
		"aegis-nodes":   {"policy.yaml", "binding.yaml"},
		"aegis-records": {"records-policy.yaml", "records-binding.yaml"},
	}
}

// The environment of the tests applies the files, so the tests of the service run under what the chart installs.
func TestAdmissionPolicyIsTheOneOfTheFiles(t *testing.T) {
	t.Parallel()
	manifests := rendered(t, "monitoring", noRules)
	const policy, binding = "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"
	policies := all[admissionregistrationv1.ValidatingAdmissionPolicy](t, manifests, policy)
	bindings := all[admissionregistrationv1.ValidatingAdmissionPolicyBinding](t, manifests, binding)
	require.Len(t, policies, len(admissionFiles()))
	require.Len(t, bindings, len(admissionFiles()))
	for i, got := range policies {
		files, known := admissionFiles()[got.Name]
		require.True(t, known, got.Name)
		want := one[admissionregistrationv1.ValidatingAdmissionPolicy](t, manifestOf(t, files[0]), policy)
		require.Equal(t, want.Name, got.Name)
		require.Equal(t, want.Spec, got.Spec)
		wantBinding := one[admissionregistrationv1.ValidatingAdmissionPolicyBinding](t, manifestOf(t, files[1]), binding)
		require.Equal(t, wantBinding.Name, bindings[i].Name)
		require.Equal(t, wantBinding.Spec, bindings[i].Spec)
		require.Equal(t, got.Name, bindings[i].Spec.PolicyName)
	}
}

// Whatever is not understood is refused, and for a reason on which Aegis does not try again.
func TestAdmissionPolicyFailsClosed(t *testing.T) {
	t.Parallel()
	for _, files := range admissionFiles() {
		p := one[admissionregistrationv1.ValidatingAdmissionPolicy](t, manifestOf(t, files[0]), "ValidatingAdmissionPolicy")
		require.Equal(t, admissionregistrationv1.Fail, *p.Spec.FailurePolicy)
		for _, v := range p.Spec.Validations {
			require.Equal(t, metav1.StatusReasonForbidden, *v.Reason, v.Expression)
			require.Contains(t, v.MessageExpression, "'"+v.Message+": ")
		}
	}
}

func TestAdmissionPolicyCanBeLeftOut(t *testing.T) {
	t.Parallel()
	require.True(t, hasValue(t, "admissionPolicy.enabled"))
	manifests := string(rendered(t, "heal", noRules+"admissionPolicy: {enabled: false}"))
	require.NotContains(t, manifests, "ValidatingAdmissionPolicy")
	page, err := os.ReadFile(filepath.Join(docs, "security.md"))
	require.NoError(t, err)
	for _, text := range []string{"admissionPolicy.enabled", disable, powerState, ticket.RecordAnnotation, "aegis-records"} {
		require.Contains(t, string(page), text)
	}
}

// guarded is an API server with the chart installed: what the service account writes is subject to the policy.
type guarded struct {
	cluster *cluster.Cluster
	admin   kubernetes.Interface
	aegis   kubernetes.Interface
}

// TestAdmissionOnTheAPIServer shows on a real API server what the policy lets through.
func TestAdmissionOnTheAPIServer(t *testing.T) {
	t.Parallel()
	c, err := cluster.Start(t.Context(), cluster.Options{BinDir: bin, Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Stop()) })
	require.NoError(t, c.Namespaces(t.Context(), "heal"))
	create(t, c, rendered(t, "heal", renamed))
	g := guarded{cluster: c, admin: c.Client(), aegis: as(t, c, account("heal", "healer"))}
	g.awaitPolicy(t, g.aegis)
	t.Run("its types are right", g.typesAreRight)
	t.Run("what Aegis writes", g.aegisWrites)
	t.Run("on a bare node", g.onBareNode)
	t.Run("on a large node", g.onLargeNode)
	t.Run("the rest is denied", g.restIsDenied)
	t.Run("new keys are denied", g.newKeysAreDenied)
	t.Run("others are not affected", g.othersAreNotAffected)
	t.Run("records are of Aegis alone", g.recordsAreOfAegisAlone)
	t.Run("tickets are of people as well", g.ticketsAreOfPeopleAsWell)
	t.Run("nobody writes as Aegis", g.nobodyWritesAsAegis)
	t.Run("nodes begin without a past", g.nodesBeginWithoutAPast)
	t.Run("nobody creates as Aegis", g.nobodyCreatesAsAegis)
	t.Run("from the files", g.fromTheFiles)
}

// as returns a client that acts as the user.
func as(t *testing.T, c *cluster.Cluster, user string, groups ...string) kubernetes.Interface {
	t.Helper()
	config := c.RESTConfig()
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	client, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	return client
}

// awaitPolicy waits until the policy holds for the client: the API server takes it up some time after it is created.
func (g guarded) awaitPolicy(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	name := g.node(t, nil)
	require.Eventually(t, func() bool {
		err := write(t, client, name, func(n *corev1.Node) { n.Annotations["example.com/probe"] = "x" }, metav1.DryRunAll)
		return err != nil && strings.Contains(err.Error(), "'aegis-nodes'")
	}, within, tick)
	require.Eventually(t, func() bool {
		err := write(t, g.admin, name, func(n *corev1.Node) { n.Annotations[ticket.RecordAnnotation] = "x" }, metav1.DryRunAll)
		return err != nil && strings.Contains(err.Error(), "'aegis-records'")
	}, within, tick)
}

// node creates a node on which a site has set a few things, and returns its name.
func (g guarded) node(t *testing.T, change func(*corev1.Node)) string {
	t.Helper()
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "gpu-",
			Labels:       map[string]string{"example.com/rack": "r1", "aegis.io/pool": "train", disable: "true"},
			Annotations:  map[string]string{"example.com/owner": "lab", powerState: "on"},
			Finalizers:   []string{"example.com/inventory"},
		},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "example.com/dedicated", Value: "ai", Effect: corev1.TaintEffectNoSchedule}}},
	}
	if change != nil {
		change(n)
	}
	created, err := g.admin.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{})
	require.NoError(t, err)
	return created.Name
}

func (g guarded) get(t *testing.T, name string) *corev1.Node {
	t.Helper()
	n, err := g.admin.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	require.NoError(t, err)
	return n
}

// write makes the change as a patch. The node's controllers are at work too, so it is made again where they were faster.
func write(t *testing.T, client kubernetes.Interface, name string, change func(*corev1.Node), dryRun ...string) error {
	t.Helper()
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		old, err := client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		changed := old.DeepCopy()
		change(changed)
		// Only what differs is in the patch; this makes the version part of it.
		old.ResourceVersion = ""
		before, err := json.Marshal(old)
		require.NoError(t, err)
		after, err := json.Marshal(changed)
		require.NoError(t, err)
		patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Node{})
		require.NoError(t, err)
		_, err = client.CoreV1().Nodes().Patch(t.Context(), name, types.StrategicMergePatchType, patch, metav1.PatchOptions{DryRun: dryRun})
		return err
	})
}

// The expressions fit the type of a Node, which the API server finds out without being asked.
func (g guarded) typesAreRight(t *testing.T) {
	for name := range admissionFiles() {
		require.Eventually(t, func() bool {
			p, err := g.admin.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(t.Context(), name, metav1.GetOptions{})
			require.NoError(t, err)
			if p.Status.TypeChecking == nil {
				return false
			}
			require.Empty(t, p.Status.TypeChecking.ExpressionWarnings)
			return true
		}, within, tick)
	}
}

func outOfService() *corev1.Taint {
	return &corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: ticket.Self, Effect: corev1.TaintEffectNoExecute}
}

// The writes of one incident, with the code that writes them. A kubelet reports its status before each of them, and they are
// decided on the state before that.
func (g guarded) aegisWrites(t *testing.T) {
	name := g.node(t, nil)
	id := ticket.NewID(time.Now())
	opened := &ticket.Ticket{ID: id, Condition: "GpuHung", Supervisor: ticket.Self, Status: ticket.StatusResolving, CreatedAt: time.Now()}
	deviceErrors := "aegis.io/device-errors"
	tests := []struct {
		name   string
		change ticket.Change
		want   func(*corev1.Node) bool
	}{
		{
			"cordon",
			ticket.Change{
				Ticket: opened, Unschedulable: new(true), Annotations: map[string]*string{ticket.OwnerAnnotation: new("aegis/" + id)},
			},
			func(n *corev1.Node) bool { return n.Spec.Unschedulable && n.Annotations[ticket.Annotation] != "" },
		},
		{"taint", ticket.Change{AddTaint: outOfService()}, func(n *corev1.Node) bool { return hasTaint(n, outOfService()) }},
		{"untaint", ticket.Change{RemoveTaint: outOfService()}, func(n *corev1.Node) bool { return !hasTaint(n, outOfService()) }},
		{
			"device errors",
			ticket.Change{Annotations: map[string]*string{deviceErrors: new("nvidia0: 79")}},
			func(n *corev1.Node) bool { return n.Annotations[deviceErrors] == "nvidia0: 79" },
		},
		{
			"uncordon",
			ticket.Change{
				Unschedulable: new(false), RemoveTicket: true, History: &ticket.History{},
				Annotations: map[string]*string{ticket.OwnerAnnotation: nil, deviceErrors: nil},
			},
			func(n *corev1.Node) bool {
				return !n.Spec.Unschedulable && n.Annotations[ticket.Annotation] == "" && n.Annotations[ticket.OwnerAnnotation] == ""
			},
		},
	}
	store := ticket.NewStore(ticket.StoreOptions{Client: g.aegis.CoreV1()})
	for i, tt := range tests {
		base := g.get(t, name)
		heartbeat := fmt.Appendf(nil, `{"status": {"conditions": [{"type": "Ready", "status": "True", "message": "%d"}]}}`, i)
		_, err := g.admin.CoreV1().Nodes().Patch(t.Context(), name, types.StrategicMergePatchType, heartbeat, metav1.PatchOptions{}, "status")
		require.NoError(t, err)
		_, err = store.Update(t.Context(), name, base, func(_ ticket.Record, c *ticket.Change) error { *c = tt.change; return nil })
		require.NoError(t, err, tt.name)
		require.True(t, tt.want(g.get(t, name)), tt.name)
	}
	for _, operation := range []string{
		`{"op": "add", "path": "/metadata/labels/aegis.io~1load-affected", "value": "true"}`,
		`{"op": "replace", "path": "/metadata/labels/aegis.io~1load-affected", "value": "false"}`,
		`{"op": "remove", "path": "/metadata/labels/aegis.io~1load-affected"}`,
	} {
		require.NoError(t, patch(t, g.aegis, name, operation))
	}
}

func hasTaint(n *corev1.Node, taint *corev1.Taint) bool {
	for _, o := range n.Spec.Taints {
		if o.MatchTaint(taint) {
			return true
		}
	}
	return false
}

// patch writes a JSON patch.
func patch(t *testing.T, client kubernetes.Interface, name string, operations ...string) error {
	t.Helper()
	body := []byte("[" + strings.Join(operations, ",") + "]")
	_, err := client.CoreV1().Nodes().Patch(t.Context(), name, types.JSONPatchType, body, metav1.PatchOptions{})
	return err
}

// Maps and lists without entries are absent, and that may be before or after the change.
func (g guarded) onBareNode(t *testing.T) {
	// What the labels, the annotations and the taints are, or are to be.
	type values [3]string
	with := func(op string, v values) string {
		return fmt.Sprintf(`{"op": %[1]q, "path": "/metadata/labels", "value": %[2]s},`+
			`{"op": %[1]q, "path": "/metadata/annotations", "value": %[3]s},`+
			`{"op": %[1]q, "path": "/spec/taints", "value": %[4]s}`, op, v[0], v[1], v[2])
	}
	none, absent := values{"{}", "{}", "[]"}, values{"null", "null", "null"}
	own := values{
		`{"aegis.io/load-affected": "true"}`, `{"aegis.io/cordoned-by": "aegis/x"}`,
		`[{"key": "node.kubernetes.io/out-of-service", "value": "aegis", "effect": "NoExecute"}]`,
	}
	tests := []struct {
		name              string
		before, is, after values
	}{
		{"absent before", none, absent, own},
		{"absent after", own, own, none},
	}
	for _, tt := range tests {
		name := g.node(t, nil)
		// The controllers give every node a taint and an annotation. A precondition that fails says that they were faster.
		require.Eventually(t, func() bool {
			require.NoError(t, patch(t, g.admin, name, with("add", tt.before)))
			err := patch(t, g.aegis, name, with("test", tt.is), with("add", tt.after))
			require.True(t, err == nil || apierrors.IsInvalid(err), "%s: %v", tt.name, err)
			return err == nil
		}, within, time.Millisecond, tt.name)
	}
}

// Expressions have a budget, and a write beyond it would be refused.
func (g guarded) onLargeNode(t *testing.T) {
	name := g.node(t, func(n *corev1.Node) {
		for i := range 200 {
			n.Labels[fmt.Sprintf("example.com/feature-%d", i)] = "true"
			n.Annotations[fmt.Sprintf("example.com/note-%d", i)] = strings.Repeat("x", 1<<10)
		}
		for i := range 50 {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: fmt.Sprintf("example.com/taint-%d", i), Effect: corev1.TaintEffectNoSchedule})
		}
	})
	require.NoError(t, write(t, g.aegis, name, func(n *corev1.Node) {
		n.Spec.Unschedulable = true
		n.Annotations[ticket.OwnerAnnotation] = "aegis/x"
		n.Spec.Taints = append(n.Spec.Taints, *outOfService())
	}))
}

// attempt is a change that the policy denies, and what it says of it.
type attempt struct {
	name, says string
	change     func(*corev1.Node)
}

func attempts() []attempt {
	const (
		labels      = "labels outside aegis.io/: "
		orders      = "labels by which people exclude a node: "
		annotations = "annotations outside aegis.io/: "
		proofs      = "annotations that prove the state of a node: "
		metadata    = "metadata other than labels and annotations: "
		taints      = "taints other than node.kubernetes.io/out-of-service: "
		spec        = "fields of the spec other than unschedulable and taints: "
	)
	return []attempt{
		{"new label", labels + "example.com/zone", func(n *corev1.Node) { n.Labels["example.com/zone"] = "a" }},
		{"other value of a label", labels + "example.com/rack", func(n *corev1.Node) { n.Labels["example.com/rack"] = "r2" }},
		{"label removed", labels + "example.com/rack", func(n *corev1.Node) { delete(n.Labels, "example.com/rack") }},
		{"labels of a role", labels + "node-role.kubernetes.io/control-plane", func(n *corev1.Node) {
			n.Labels["node-role.kubernetes.io/control-plane"] = ""
		}},
		{"label of a similar domain", labels + "x.aegis.io/y", func(n *corev1.Node) { n.Labels["x.aegis.io/y"] = "" }},
		{"label without a domain", labels + "aegis.io", func(n *corev1.Node) { n.Labels["aegis.io"] = "" }},
		{"exclusion removed", orders + disable, func(n *corev1.Node) { delete(n.Labels, disable) }},
		{"other value of the exclusion", orders + disable, func(n *corev1.Node) { n.Labels[disable] = "false" }},
		{"new annotation", annotations + "example.com/note", func(n *corev1.Node) { n.Annotations["example.com/note"] = "x" }},
		{"other value of an annotation", annotations + "example.com/owner", func(n *corev1.Node) {
			n.Annotations["example.com/owner"] = "other"
		}},
		{"annotation removed", annotations + "example.com/owner", func(n *corev1.Node) { delete(n.Annotations, "example.com/owner") }},
		{"annotation among own ones", annotations + "example.com/note", func(n *corev1.Node) {
			n.Spec.Unschedulable = true
			n.Annotations[ticket.OwnerAnnotation] = "aegis/x"
			n.Annotations["example.com/note"] = "x"
		}},
		{"proof of power-off removed", proofs + powerState, func(n *corev1.Node) { delete(n.Annotations, powerState) }},
		{"other value of the proof of power-off", proofs + powerState, func(n *corev1.Node) { n.Annotations[powerState] = "off" }},
		{"proof of power-off among own annotations", proofs + powerState, func(n *corev1.Node) {
			n.Annotations[ticket.OwnerAnnotation] = "aegis/x"
			n.Annotations[powerState] = "off"
		}},
		{"new taint", taints + "example.com/broken:NoExecute", func(n *corev1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "example.com/broken", Effect: corev1.TaintEffectNoExecute})
		}},
		{
			"other value of a taint", taints + "example.com/dedicated=web:NoSchedule, example.com/dedicated=ai:NoSchedule",
			func(n *corev1.Node) { dedicated(n).Value = "web" },
		},
		{
			"other effect of a taint", taints + "example.com/dedicated=ai:NoExecute, example.com/dedicated=ai:NoSchedule",
			func(n *corev1.Node) { dedicated(n).Effect = corev1.TaintEffectNoExecute },
		},
		{"taint removed", taints + "example.com/dedicated=ai:NoSchedule", func(n *corev1.Node) { *dedicated(n) = *outOfService() }},
		{"pod addresses", spec + "podCIDR, podCIDRs", func(n *corev1.Node) {
			n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.0.0.0/24", []string{"10.0.0.0/24"}
		}},
		{"provider", spec + "providerID", func(n *corev1.Node) { n.Spec.ProviderID = "cloud://1" }},
		{"new finalizer", metadata + "finalizers", func(n *corev1.Node) { n.Finalizers = append(n.Finalizers, "example.com/other") }},
		{"finalizer removed", metadata + "finalizers", func(n *corev1.Node) { n.Finalizers = nil }},
		{"owner", metadata + "ownerReferences", func(n *corev1.Node) {
			n.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "other", UID: "x"}}
		}},
	}
}

// dedicated returns the taint that the site has set.
func dedicated(n *corev1.Node) *corev1.Taint {
	for i := range n.Spec.Taints {
		if n.Spec.Taints[i].Key == "example.com/dedicated" {
			return &n.Spec.Taints[i]
		}
	}
	return nil
}

func (g guarded) restIsDenied(t *testing.T) {
	for _, tt := range attempts() {
		t.Run(tt.name, func(t *testing.T) {
			err := write(t, g.aegis, g.node(t, nil), tt.change)
			require.True(t, apierrors.IsForbidden(err), "%v", err)
			var status apierrors.APIStatus
			require.ErrorAs(t, err, &status)
			want, wantKeys, _ := strings.Cut("Aegis tried to change "+tt.says, ": ")
			says, keys, _ := strings.Cut(afterLast(status.Status().Message, "denied request: "), ": ")
			require.Equal(t, want, says)
			// Fields of a map come in any order.
			require.ElementsMatch(t, strings.Split(wantKeys, ", "), strings.Split(keys, ", "))
		})
	}
}

// Nor may Aegis set either key where there is none, which the node of the other attempts cannot show.
func (g guarded) newKeysAreDenied(t *testing.T) {
	set := func(to *map[string]string, key, value string) {
		if *to == nil {
			*to = make(map[string]string)
		}
		(*to)[key] = value
	}
	tests := []attempt{
		{"exclusion", disable, func(n *corev1.Node) { set(&n.Labels, disable, "true") }},
		{"proof of power-off", powerState, func(n *corev1.Node) { set(&n.Annotations, powerState, "off") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name := g.node(t, func(n *corev1.Node) { n.Labels, n.Annotations = nil, nil })
			require.NoError(t, write(t, g.admin, name, tt.change, metav1.DryRunAll))
			err := write(t, g.aegis, name, tt.change)
			require.True(t, apierrors.IsForbidden(err), "%v", err)
			require.True(t, strings.HasSuffix(err.Error(), ": "+tt.says), "%v", err)
		})
	}
}

// afterLast returns what follows the last separator.
func afterLast(text, separator string) string {
	return text[strings.LastIndex(text, separator)+len(separator):]
}

// Each change that Aegis is denied is one that the API server takes from people, and from an account of the same name elsewhere.
func (g guarded) othersAreNotAffected(t *testing.T) {
	name := g.node(t, nil)
	elsewhere := as(t, g.cluster, account("default", "healer"), "system:masters")
	for _, tt := range attempts() {
		require.NoError(t, write(t, g.admin, name, tt.change, metav1.DryRunAll), tt.name)
		require.NoError(t, write(t, elsewhere, name, tt.change, metav1.DryRunAll), tt.name)
	}
}

// The environment of the tests grants Aegis its rights from the files, and with its own credentials the policy holds as well. It
// is the last: from now on the policy is not that of the release.
func (g guarded) fromTheFiles(t *testing.T) {
	require.NoError(t, g.cluster.GrantAegis(t.Context()))
	config, err := clientcmd.BuildConfigFromFlags("", g.cluster.KubeconfigAegis)
	require.NoError(t, err)
	client, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	g.awaitPolicy(t, client)
	require.NoError(t, write(t, client, g.node(t, nil), func(n *corev1.Node) { n.Spec.Unschedulable = true }))
}
