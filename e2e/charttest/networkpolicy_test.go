package charttest

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func api() intstr.IntOrString { return intstr.FromString("http") }

func telemetry() intstr.IntOrString { return intstr.FromString("telemetry") }

// peer is a pod of another application, or an address outside the cluster if it has no labels.
type peer struct {
	namespace string
	labels    map[string]string
}

func alertmanagerPod() peer {
	return peer{"monitoring", map[string]string{"app.kubernetes.io/name": "alertmanager"}}
}

func prometheusPod() peer {
	return peer{"monitoring", map[string]string{"app.kubernetes.io/name": "prometheus"}}
}

func dnsPod() peer { return peer{"kube-system", map[string]string{"k8s-app": "kube-dns"}} }

func stranger() peer { return peer{"default", map[string]string{"app": "web"}} }

func outside() peer { return peer{} }

// selects reports whether the peer is one of those. No peers at all are everybody.
func selects(t *testing.T, peers []networkingv1.NetworkPolicyPeer, p peer) bool {
	t.Helper()
	return len(peers) == 0 || slices.ContainsFunc(peers, func(n networkingv1.NetworkPolicyPeer) bool {
		if n.IPBlock != nil || p.labels == nil {
			return false
		}
		namespace := labels.Set{corev1.LabelMetadataName: p.namespace}
		return matches(t, n.NamespaceSelector, namespace) && matches(t, n.PodSelector, p.labels)
	})
}

func matches(t *testing.T, selector *metav1.LabelSelector, set labels.Set) bool {
	t.Helper()
	if selector == nil {
		return true
	}
	s, err := metav1.LabelSelectorAsSelector(selector)
	require.NoError(t, err)
	return s.Matches(set)
}

func hasPort(ports []networkingv1.NetworkPolicyPort, port intstr.IntOrString) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool { return *p.Port == port })
}

func admits(t *testing.T, n networkingv1.NetworkPolicy, from peer, port intstr.IntOrString) bool {
	t.Helper()
	return slices.ContainsFunc(n.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool {
		return hasPort(r.Ports, port) && selects(t, r.From, from)
	})
}

func reaches(t *testing.T, n networkingv1.NetworkPolicy, to peer, port int) bool {
	t.Helper()
	return slices.ContainsFunc(n.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool {
		return hasPort(r.Ports, intstr.FromInt(port)) && selects(t, r.To, to)
	})
}

// policies returns the policy of the service, and that of the step Jobs.
func policies(t *testing.T, values string) (service, steps networkingv1.NetworkPolicy) {
	t.Helper()
	manifests := rendered(t, "heal", noRules+values)
	found := all[networkingv1.NetworkPolicy](t, manifests, "NetworkPolicy")
	require.Len(t, found, 2)
	require.Equal(t, "aegis", found[0].Name)
	require.Equal(t, "aegis-op", found[1].Name)
	return found[0], found[1]
}

func TestNoPolicyUnlessAskedFor(t *testing.T) {
	t.Parallel()
	require.Empty(t, all[networkingv1.NetworkPolicy](t, rendered(t, "heal", noRules), "NetworkPolicy"))
}

func TestPolicyOfTheService(t *testing.T) {
	t.Parallel()
	service, _ := policies(t, "networkPolicy: {enabled: true}")
	require.ElementsMatch(t,
		[]networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}, service.Spec.PolicyTypes)
	pod := one[appsv1.Deployment](t, rendered(t, "heal", noRules), "Deployment").Spec.Template
	require.True(t, matches(t, &service.Spec.PodSelector, pod.Labels))
	for _, name := range []string{"http", "telemetry"} {
		require.True(t, slices.ContainsFunc(pod.Spec.Containers[0].Ports, func(p corev1.ContainerPort) bool { return p.Name == name }))
	}
	in := []struct {
		name string
		from peer
		port intstr.IntOrString
		want bool
	}{
		{"alerts", alertmanagerPod(), api(), true},
		{"metrics", prometheusPod(), telemetry(), true},
		{"Alertmanager to the metrics", alertmanagerPod(), telemetry(), false},
		{"Prometheus to the API", prometheusPod(), api(), false},
		{"a stranger to the API", stranger(), api(), false},
		{"a stranger to the metrics", stranger(), telemetry(), false},
		{"outside to the API", outside(), api(), false},
	}
	for _, tt := range in {
		require.Equal(t, tt.want, admits(t, service, tt.from, tt.port), tt.name)
	}
	out := []struct {
		name string
		to   peer
		port int
		want bool
	}{
		{"API server behind its Service", outside(), 6443, true},
		{"API server", outside(), 443, true},
		{"names", dnsPod(), 53, true},
		{"evidence", prometheusPod(), 9090, true},
		{"silences", alertmanagerPod(), 9093, true},
		{"names from elsewhere", outside(), 53, false},
		{"a stranger", stranger(), 80, false},
		{"outside", outside(), 80, false},
		{"another port of Prometheus", prometheusPod(), 22, false},
	}
	for _, tt := range out {
		require.Equal(t, tt.want, reaches(t, service, tt.to, tt.port), tt.name)
	}
}

// An empty list of peers admits nobody; in a NetworkPolicy it would be everybody.
func TestPolicyWithoutPeersAdmitsNobody(t *testing.T) {
	t.Parallel()
	service, _ := policies(t, "networkPolicy: {enabled: true, alertmanagers: {peers: []}, prometheus: {peers: []}, dns: {peers: []}}")
	for _, p := range []peer{alertmanagerPod(), prometheusPod(), stranger(), outside()} {
		for _, port := range []intstr.IntOrString{api(), telemetry()} {
			require.False(t, admits(t, service, p, port))
		}
		for _, port := range []int{53, 9090, 9093} {
			require.False(t, reaches(t, service, p, port))
		}
	}
}

func TestPolicyWithOtherPeers(t *testing.T) {
	t.Parallel()
	service, _ := policies(t, `
networkPolicy:
  enabled: true
  operators: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, podSelector: {matchLabels: {app: web}}}]
  prometheus: {ports: [10902]}
  apiServer: {peers: [{ipBlock: {cidr: 10.0.0.1/32}}], ports: [6443]}
`)
	require.True(t, admits(t, service, stranger(), api()), "an operator")
	require.False(t, admits(t, service, stranger(), telemetry()))
	require.True(t, admits(t, service, alertmanagerPod(), api()), "operators come on top")
	require.True(t, reaches(t, service, prometheusPod(), 10902))
	require.False(t, reaches(t, service, prometheusPod(), 9090))
	require.False(t, reaches(t, service, outside(), 6443), "only the address that is named")
	require.False(t, reaches(t, service, outside(), 443))
}

// The policy of the step Jobs is for their pods alone, and lets nobody in. In the manifests they are on the host network, on
// which no policy applies.
func TestPolicyOfTheStepJobs(t *testing.T) {
	t.Parallel()
	service, steps := policies(t, "jobs: {namespace: gpu-jobs}\nnetworkPolicy: {enabled: true}")
	require.Equal(t, "gpu-jobs", steps.Namespace)
	require.Equal(t, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, steps.Spec.PolicyTypes)
	require.Empty(t, steps.Spec.Ingress)
	for _, action := range actions() {
		pod := stepPod(t, action)
		require.True(t, matches(t, &steps.Spec.PodSelector, pod.Labels), action)
		require.False(t, matches(t, &service.Spec.PodSelector, pod.Labels), action)
		require.True(t, pod.Spec.HostNetwork, action)
	}
	pod := one[appsv1.Deployment](t, rendered(t, "heal", noRules), "Deployment").Spec.Template
	require.False(t, matches(t, &steps.Spec.PodSelector, pod.Labels))
}
