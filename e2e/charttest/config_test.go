package charttest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/rules"
)

// siteFile has every section of a conditions.yaml, and values that readers of YAML do not agree on.
const siteFile = "../../testdata/site/conditions.yaml"

// mount writes the files of the ConfigMap of Aegis to a folder, as its pod has them.
func mount(t *testing.T, manifests []byte) string {
	t.Helper()
	dir := t.TempDir()
	for _, m := range all[corev1.ConfigMap](t, manifests, "ConfigMap") {
		if m.Name != "aegis" {
			continue
		}
		for name, text := range m.Data {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		}
	}
	return dir
}

// named returns the paths of the conditions files that the rendered aegis.yaml names, below the folder.
func named(t *testing.T, dir string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "aegis.yaml"))
	require.NoError(t, err)
	var config struct {
		Conditions []string `json:"conditions"`
	}
	require.NoError(t, yaml.Unmarshal(text, &config))
	var paths []string
	for _, name := range config.Conditions {
		require.Equal(t, "/etc/aegis", filepath.Dir(name))
		paths = append(paths, filepath.Join(dir, filepath.Base(name)))
	}
	return paths
}

func catalogueOf(t *testing.T, names ...string) *rules.Catalogue {
	t.Helper()
	c, err := rules.Load(rules.Options{Files: names})
	require.NoError(t, err)
	return c
}

// requireSame checks that two catalogues say the same. Where an XID was defined is not part of what it says.
func requireSame(t *testing.T, want, got *rules.Catalogue) {
	t.Helper()
	require.Equal(t, want.Conditions(), got.Conditions())
	require.Len(t, got.XIDs(), len(want.XIDs()))
	for i, x := range want.XIDs() {
		y := got.XIDs()[i]
		require.Equal(t, []any{x.Code, x.Name, x.Class, x.Condition, x.DetailOf, x.Raises154, x.Threshold},
			[]any{y.Code, y.Name, y.Class, y.Condition, y.DetailOf, y.Raises154, y.Threshold})
	}
}

// A template that a site gives to the chart is the file that Aegis reads, and the one that aegis check has checked.
func TestJobTemplatesOfASiteArrive(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../jobs/remedy_node.yaml")
	require.NoError(t, err)
	own := strings.Replace(string(text), "name: aegis-remedy-node", "name: site-remedy-node", 1)
	require.NotEqual(t, string(text), own)
	values, err := yaml.Marshal(map[string]any{"jobs": map[string]any{"templates": map[string]string{"remedy_node": own}}})
	require.NoError(t, err)
	manifests := rendered(t, "monitoring", noRules+string(values))

	dir := t.TempDir()
	for _, m := range all[corev1.ConfigMap](t, manifests, "ConfigMap") {
		if m.Name == "aegis-job-templates" {
			require.Equal(t, "monitoring", m.Namespace)
			for name, text := range m.Data {
				require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
			}
		}
	}
	require.NoError(t, jobs.CheckFile(filepath.Join(dir, "remedy_node.yaml")))
	templates, err := jobs.LoadTemplates(dir)
	require.NoError(t, err)
	require.NotNil(t, templates)
	read, err := os.ReadFile(filepath.Join(dir, "remedy_node.yaml"))
	require.NoError(t, err)
	require.Equal(t, own, string(read))

	pod := one[appsv1.Deployment](t, manifests, "Deployment").Spec.Template
	require.NotEmpty(t, pod.Annotations["checksum/job-templates"], "templates are read at the start only")
	mounted := slices.ContainsFunc(pod.Spec.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool {
		return m.Name == "job-templates" && m.MountPath == "/selfhealing/job"
	})
	require.True(t, mounted)
	require.NotContains(t, string(rendered(t, "monitoring", noRules)), "job-templates")

	for values, says := range map[string]string{
		"jobs: {templates: {remedy: x}}":           "jobs.templates.remedy: no action uses such a template",
		"jobs: {templates: {remedy_node: {a: b}}}": "jobs.templates.remedy_node must be the text of a manifest",
	} {
		_, err := renderChart(t, "monitoring", noRules+values)
		require.ErrorContains(t, err, says)
	}
}

// What aegis check accepts is what Aegis gets, whichever way it goes through the chart.
func TestCatalogueOfASiteArrives(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(siteFile)
	require.NoError(t, err)
	siteCatalogue := string(text)
	want := catalogueOf(t, siteFile)
	require.NotEqual(t, catalogueOf(t).Conditions(), want.Conditions())

	t.Run("as values", func(t *testing.T) {
		t.Parallel()
		dir := mount(t, rendered(t, "monitoring", noRules+siteCatalogue))
		requireSame(t, want, catalogueOf(t, named(t, dir)...))
	})
	t.Run("as a file", func(t *testing.T) {
		t.Parallel()
		text, err := yaml.Marshal(map[string]any{"conditionFiles": map[string]string{"site": siteCatalogue}})
		require.NoError(t, err)
		dir := mount(t, rendered(t, "monitoring", noRules+string(text)))
		arrived, err := os.ReadFile(filepath.Join(dir, "conditions-site.yaml"))
		require.NoError(t, err)
		require.Equal(t, siteCatalogue, string(arrived))
		requireSame(t, want, catalogueOf(t, named(t, dir)...))
	})
	t.Run("later files override", func(t *testing.T) {
		t.Parallel()
		text, err := yaml.Marshal(map[string]any{
			"conditions":     []any{map[string]any{"name": "GpuHung", "priority": 7}},
			"conditionFiles": map[string]string{"b": "conditions: [{name: GpuHung, priority: 9}]", "a": "conditions: [{name: GpuHung, priority: 8}]"},
		})
		require.NoError(t, err)
		c, known := catalogueOf(t, named(t, mount(t, rendered(t, "monitoring", noRules+string(text))))...).Lookup("GpuHung")
		require.True(t, known)
		require.Equal(t, 9, c.Priority)
	})
}

// requireIn checks that all that was given has arrived, as it was given.
func requireIn(t *testing.T, given, arrived any, path string) {
	t.Helper()
	section, ok := given.(map[string]any)
	if !ok {
		require.Equal(t, given, arrived, path)
		return
	}
	all, ok := arrived.(map[string]any)
	require.True(t, ok, path)
	for key, value := range section {
		requireIn(t, value, all[key], path+"."+key)
	}
}

// Every part of aegis.yaml that the values hold arrives as it is.
func TestConfigurationOfASiteArrives(t *testing.T) {
	t.Parallel()
	const values = `
mode: off
preset: unattended
prometheus:
  url: https://prometheus.example.com/prefix
  canary: Heartbeat
  maxAge: 3m
  httpConfig:
    tls_config: {ca_file: /etc/aegis-secrets/prometheus/ca.crt, server_name: prometheus}
    basic_auth: {username: aegis, password_file: /etc/aegis-secrets/prometheus/password}
    http_headers: {X-Scope-OrgID: {values: [gpu]}}
alertmanagers:
- {url: "https://am-0:9093", httpConfig: {tls_config: {insecure_skip_verify: false}}}
- {url: "https://am-1:9093", tokenFile: /etc/aegis-secrets/alertmanager/token}
secrets: [prometheus, alertmanager]
`
	const config = `
cluster: "7"
nodeLabels: [node, "on"]
resyncInterval: 1m
pools:
- {name: h100, selector: "gpu in (a, b)", maxOutOfServicePercent: 0, stormWindow: 15m, maintenanceWindows: [{days: [Fri], from: "22:00", to: "24:00"}]}
leaderElection: {leaseDuration: 30s}
`
	dir := mount(t, rendered(t, "monitoring", noRules+values+"config:"+strings.ReplaceAll(config, "\n", "\n  ")+"\n"))
	text, err := os.ReadFile(filepath.Join(dir, "aegis.yaml"))
	require.NoError(t, err)
	var given, more, arrived map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(values), &given))
	require.NoError(t, yaml.Unmarshal([]byte(config), &more))
	require.NoError(t, yaml.Unmarshal(text, &arrived))
	require.Equal(t, "off", arrived["mode"], "Helm reads an unquoted off as false")
	delete(given, "mode")
	delete(given, "secrets")
	requireIn(t, given, arrived, "values")
	requireIn(t, more, arrived, "config")
}

func container(t *testing.T, manifests []byte) (corev1.PodSpec, corev1.Container) {
	t.Helper()
	d := one[appsv1.Deployment](t, manifests, "Deployment")
	return d.Spec.Template.Spec, d.Spec.Template.Spec.Containers[0]
}

// mounted returns the Secret that is mounted at a path, empty when none is.
func mounted(pod corev1.PodSpec, path string) string {
	for _, m := range pod.Containers[0].VolumeMounts {
		if m.MountPath != path || !m.ReadOnly {
			continue
		}
		i := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if i >= 0 && pod.Volumes[i].Secret != nil {
			return pod.Volumes[i].Secret.SecretName
		}
	}
	return ""
}

func TestWebConfiguration(t *testing.T) {
	t.Parallel()
	manifests := rendered(t, "monitoring", noRules+`
web: {secretName: aegis-web}
secrets: [prometheus-client]
pprof: true
serviceMonitor: {enabled: true, endpoint: {tlsConfig: {insecureSkipVerify: true}}}
auth:
  users: [{name: alice, roles: [heal]}]
  certificates: [{name: alertmanager, roles: [alerts]}]
`)
	pod, c := container(t, manifests)
	require.Contains(t, c.Args, "--web.config.file=/etc/aegis-web/web.yml")
	require.Contains(t, c.Args, "--pprof")
	require.Equal(t, corev1.URISchemeHTTPS, c.LivenessProbe.HTTPGet.Scheme)
	require.Equal(t, corev1.URISchemeHTTPS, c.ReadinessProbe.HTTPGet.Scheme)
	require.Equal(t, "aegis-web", mounted(pod, "/etc/aegis-web"))
	require.Equal(t, "prometheus-client", mounted(pod, "/etc/aegis-secrets/prometheus-client"))
	monitor := one[map[string]any](t, manifests, "ServiceMonitor")
	require.Contains(t, string(manifests), "scheme: https")
	require.NotNil(t, monitor)
	text, err := os.ReadFile(filepath.Join(mount(t, manifests), "aegis.yaml"))
	require.NoError(t, err)
	var config struct {
		Auth map[string]any `json:"auth"`
	}
	require.NoError(t, yaml.Unmarshal(text, &config))
	require.Equal(t, map[string]any{
		"users":        []any{map[string]any{"name": "alice", "roles": []any{"heal"}}},
		"certificates": []any{map[string]any{"name": "alertmanager", "roles": []any{"alerts"}}},
	}, config.Auth)
}

// Without a web configuration, with one that has users only, and with the values of a release before there was one, probes stay on
// plain HTTP.
func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	const users = "web: {secretName: aegis-web, tls: false}\n"
	for _, values := range []string{"", users, "web: null\n"} {
		pod, c := container(t, rendered(t, "monitoring", noRules+values))
		require.Equal(t, corev1.URISchemeHTTP, c.ReadinessProbe.HTTPGet.Scheme)
		require.Equal(t, values == users, mounted(pod, "/etc/aegis-web") != "")
		require.NotContains(t, c.Args, "--pprof")
	}
}
