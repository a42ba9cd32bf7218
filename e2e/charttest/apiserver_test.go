package charttest

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"

	"aegis.io/aegis/e2e/charttest/rights"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
)

const (
	// restricted is where the Deployment goes, privileged where the step Jobs go; each enforces the Pod Security Standard of
	// its name.
	restricted = "restricted"
	privileged = "privileged"
	// within bounds the wait for a controller.
	within = time.Minute
	tick   = 200 * time.Millisecond
)

// site is a real API server with the chart installed as docs/security.md recommends.
type site struct {
	client    kubernetes.Interface
	manifests []byte
}

func install(t *testing.T) site {
	t.Helper()
	c, err := cluster.Start(t.Context(), cluster.Options{BinDir: bin, Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Stop()) })
	for _, level := range []string{restricted, privileged} {
		_, err := c.Client().CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: level, Labels: map[string]string{"pod-security.kubernetes.io/enforce": level},
		}}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	s := site{
		client: c.Client(),
		manifests: rendered(t, restricted, noRules+
			"jobs: {namespace: privileged}\nnetworkPolicy: {enabled: true}\nrbac: {deletePodsNamespaces: [privileged]}\n"),
	}
	create(t, c, s.manifests)
	return s
}

// create creates every object, and fails on a field that the API server does not know.
func create(t *testing.T, c *cluster.Cluster, manifests []byte) {
	t.Helper()
	disco, err := discovery.NewDiscoveryClientForConfig(c.RESTConfig())
	require.NoError(t, err)
	resources, err := restmapper.GetAPIGroupResources(disco)
	require.NoError(t, err)
	client, err := dynamic.NewForConfig(c.RESTConfig())
	require.NoError(t, err)
	mapper := restmapper.NewDiscoveryRESTMapper(resources)
	for document := range bytes.SplitSeq(manifests, []byte("\n---\n")) {
		o := &unstructured.Unstructured{}
		require.NoError(t, yaml.Unmarshal(document, &o.Object))
		gvk := o.GroupVersionKind()
		mapping, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		require.NoError(t, err)
		// The empty namespace is that of the objects which have none.
		_, err = client.Resource(mapping.Resource).Namespace(o.GetNamespace()).
			Create(t.Context(), o, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
		require.NoError(t, err, "%s %s", o.GetKind(), o.GetName())
	}
}

// admit returns the pod as the API server would have it, or why it refuses it.
func (s site) admit(t *testing.T, namespace string, template corev1.PodTemplateSpec) (*corev1.Pod, error) {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: *template.ObjectMeta.DeepCopy(), Spec: *template.Spec.DeepCopy()}
	pod.Name, pod.Namespace = "tried", namespace
	return s.client.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
}

// TestOnTheAPIServer shows on a real API server what the chart promises.
func TestOnTheAPIServer(t *testing.T) {
	t.Parallel()
	s := install(t)
	t.Run("the Deployment gets its pods", s.deploymentGetsItsPods)
	t.Run("the Deployment is restricted", s.deploymentIsRestricted)
	t.Run("the step Jobs are privileged", s.jobsArePrivileged)
	t.Run("the step Jobs have no token", s.jobsHaveNoToken)
	t.Run("the rights are those of the service", s.rightsAreThoseOfTheService)
	t.Run("who writes on a node is noted", s.writersAreNoted)
}

func (s site) deploymentGetsItsPods(t *testing.T) {
	require.Eventually(t, func() bool {
		sets, err := s.client.AppsV1().ReplicaSets(restricted).List(t.Context(), metav1.ListOptions{})
		require.NoError(t, err)
		return len(sets.Items) == 1 && sets.Items[0].Status.Replicas == 2
	}, within, tick)
}

// Each change alone makes the pod one that the standard refuses, so the standard is enforced, and the chart is what meets it.
func (s site) deploymentIsRestricted(t *testing.T) {
	template := one[appsv1.Deployment](t, s.manifests, "Deployment").Spec.Template
	pod, err := s.admit(t, restricted, template)
	require.NoError(t, err)
	require.True(t, hasToken(pod), "the service needs its token")
	require.True(t, *pod.Spec.Containers[0].SecurityContext.ReadOnlyRootFilesystem, "not part of the standard")
	changes := map[string]func(*corev1.PodSpec, *corev1.SecurityContext){
		"privileged": func(_ *corev1.PodSpec, c *corev1.SecurityContext) {
			c.Privileged, c.AllowPrivilegeEscalation = new(true), nil
		},
		"escalation":     func(_ *corev1.PodSpec, c *corev1.SecurityContext) { c.AllowPrivilegeEscalation = nil },
		"capabilities":   func(_ *corev1.PodSpec, c *corev1.SecurityContext) { c.Capabilities = nil },
		"may be root":    func(p *corev1.PodSpec, _ *corev1.SecurityContext) { p.SecurityContext.RunAsNonRoot = nil },
		"root":           func(p *corev1.PodSpec, _ *corev1.SecurityContext) { p.SecurityContext.RunAsUser = new(int64(0)) },
		"no seccomp":     func(p *corev1.PodSpec, _ *corev1.SecurityContext) { p.SecurityContext.SeccompProfile = nil },
		"host network":   func(p *corev1.PodSpec, _ *corev1.SecurityContext) { p.HostNetwork = true },
		"host processes": func(p *corev1.PodSpec, _ *corev1.SecurityContext) { p.HostPID = true },
		"host files": func(p *corev1.PodSpec, _ *corev1.SecurityContext) {
			p.Volumes = append(p.Volumes, corev1.Volume{
				Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}},
			})
		},
	}
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		t.Run(name, func(t *testing.T) {
			changed := *template.DeepCopy()
			changes[name](&changed.Spec, changed.Spec.Containers[0].SecurityContext)
			_, err := s.admit(t, restricted, changed)
			requireViolation(t, err)
		})
	}
}

func requireViolation(t *testing.T, err error) {
	t.Helper()
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	require.ErrorContains(t, err, `violates PodSecurity "restricted:latest"`)
}

func actions() []string {
	return []string{
		protocol.ActionReboot, protocol.ActionShutdown, protocol.ActionHealthcheck, protocol.ActionRepair, protocol.ActionRemedy, protocol.ActionDiagnose,
	}
}

// stepPod returns the pod of a step Job as the product makes it.
func stepPod(t *testing.T, action string) corev1.PodTemplateSpec {
	t.Helper()
	templates, err := jobs.LoadTemplates("")
	require.NoError(t, err)
	job, err := templates.Render(
		jobs.Request{Action: action, Node: "gpu-1", Incident: "20260101t000000-abc123", Attempt: 1},
		jobs.RenderOptions{Namespace: privileged, Image: "aegis:test", ServiceAccount: "aegis-op"})
	require.NoError(t, err)
	return job.Spec.Template
}

func (s site) jobsArePrivileged(t *testing.T) {
	// Else their absence would be why the pod is refused.
	_, err := s.client.CoreV1().ServiceAccounts(restricted).Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "aegis-op"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	for _, action := range actions() {
		t.Run(action, func(t *testing.T) {
			_, err := s.admit(t, privileged, stepPod(t, action))
			require.NoError(t, err)
			_, err = s.admit(t, restricted, stepPod(t, action))
			requireViolation(t, err)
		})
	}
}

func (s site) jobsHaveNoToken(t *testing.T) {
	for _, action := range actions() {
		template := stepPod(t, action)
		pod, err := s.admit(t, privileged, template)
		require.NoError(t, err)
		require.Equal(t, "aegis-op", pod.Spec.ServiceAccountName)
		require.False(t, hasToken(pod), action)
		// The account keeps the token from the manifest of a site as well, if that does not ask for it.
		template.Spec.AutomountServiceAccountToken = nil
		pod, err = s.admit(t, privileged, template)
		require.NoError(t, err)
		require.False(t, hasToken(pod), action)
	}
}

func hasToken(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(p corev1.VolumeProjection) bool {
			return p.ServiceAccountToken != nil
		})
	})
}

// The authorizer is asked about every grant: the service has it, the step Jobs do not.
func (s site) rightsAreThoseOfTheService(t *testing.T) {
	found, err := rights.Find(s.manifests)
	require.NoError(t, err)
	service, steps := account(restricted, "aegis"), account(privileged, "aegis-op")
	for _, g := range found.Grants() {
		for _, where := range places(g) {
			use := rights.Use{APIGroup: g.APIGroup, Resource: g.Resource, Verb: g.Verb, Namespace: where}
			if len(g.Names) > 0 {
				use.Name = g.Names[0]
			}
			require.True(t, s.may(t, service, use), g)
			require.False(t, s.may(t, steps, use), g)
		}
	}
	never := []rights.Use{
		{Resource: "secrets", Verb: "get", Namespace: restricted, Name: "any"},
		{Resource: "nodes", Verb: "delete", Name: "gpu-1"},
		{Resource: "pods", Verb: "create", Namespace: privileged},
		{Resource: "pods", Verb: "delete", Namespace: "kube-system", Name: "any"},
		{Resource: "pods/exec", Verb: "create", Namespace: privileged, Name: "any"},
		{APIGroup: "batch", Resource: "jobs", Verb: "create", Namespace: restricted},
		{APIGroup: "coordination.k8s.io", Resource: "leases", Verb: "update", Namespace: restricted, Name: "other"},
		{APIGroup: "coordination.k8s.io", Resource: "leases", Verb: "patch", Namespace: "kube-node-lease", Name: "gpu-1"},
	}
	for _, use := range never {
		require.False(t, s.may(t, service, use), use)
	}
}

// places returns the namespaces of the grant, or the empty one, which stands for the whole cluster.
func places(g rights.Grant) []string {
	if len(g.Namespaces) == 0 {
		return []string{metav1.NamespaceAll}
	}
	return g.Namespaces
}

func account(namespace, name string) string { return "system:serviceaccount:" + namespace + ":" + name }

// may asks the API server whether the service account may do that.
func (s site) may(t *testing.T, user string, u rights.Use) bool {
	t.Helper()
	resource, subresource, _ := strings.Cut(u.Resource, "/")
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user, Groups: []string{"system:serviceaccounts", "system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: u.APIGroup, Resource: resource, Subresource: subresource, Verb: u.Verb, Namespace: u.Namespace, Name: u.Name,
		},
	}}
	answer, err := s.client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
	require.NoError(t, err)
	return answer.Status.Allowed
}
