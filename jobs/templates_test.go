package jobs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs/protocol"
)

func loadEmbedded(t *testing.T) *Templates {
	t.Helper()
	templates, err := LoadTemplates("")
	require.NoError(t, err)
	return templates
}

func TestEmbeddedTemplatesAreComplete(t *testing.T) {
	entries, err := embedded.ReadDir(".")
	require.NoError(t, err)
	var files, want []string
	for _, e := range entries {
		files = append(files, e.Name())
	}
	for _, action := range protocol.Actions() {
		want = append(want, templateFile(action))
	}
	require.ElementsMatch(t, want, files)
}

func TestEmbeddedTemplatesAreSafe(t *testing.T) {
	aegis := map[string]string{
		"app.kubernetes.io/name":       "aegis",
		"app.kubernetes.io/component":  "op",
		"app.kubernetes.io/managed-by": "aegis",
	}
	templates := loadEmbedded(t)
	for _, action := range protocol.Actions() {
		t.Run(action, func(t *testing.T) {
			job := templates.byAction[action]
			require.Equal(t, "aegis-"+strings.TrimSuffix(strings.ReplaceAll(templateFile(action), "_", "-"), ".yaml"), job.Name)
			require.Equal(t, "monitoring", job.Namespace)
			require.Equal(t, aegis, job.Labels)
			require.Equal(t, new(int32(0)), job.Spec.BackoffLimit)
			require.Equal(t, new(int32(1)), job.Spec.Completions)
			require.Equal(t, new(int32(1)), job.Spec.Parallelism)
			require.Equal(t, new(batchv1.Failed), job.Spec.PodReplacementPolicy)
			require.Positive(t, *job.Spec.ActiveDeadlineSeconds)
			require.Equal(t, new(int32(259200)), job.Spec.TTLSecondsAfterFinished)
			require.Equal(t, aegis, job.Spec.Template.Labels)
			require.Equal(t, "false", job.Spec.Template.Annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"])

			pod := job.Spec.Template.Spec
			require.Equal(t, "set-by-aegis", pod.NodeName)
			require.Equal(t, corev1.RestartPolicyNever, pod.RestartPolicy)
			require.Equal(t, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, pod.Tolerations)
			require.Equal(t, "system-node-critical", pod.PriorityClassName)
			require.Equal(t, "aegis-op", pod.ServiceAccountName)
			require.Equal(t, new(false), pod.AutomountServiceAccountToken)
			require.Equal(t, new(false), pod.EnableServiceLinks)
			require.True(t, pod.HostPID)
			require.True(t, pod.HostNetwork)
			require.Equal(t, corev1.DNSDefault, pod.DNSPolicy)
			host := corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: "/", Type: new(corev1.HostPathDirectory)},
			}}
			profiles := corev1.Volume{Name: "profiles", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: "aegis-profiles"}, Optional: new(true),
			}}}
			volumes := []corev1.Volume{host}
			if action == protocol.ActionHealthcheck {
				volumes = []corev1.Volume{profiles, host}
			}
			require.Equal(t, volumes, pod.Volumes)

			require.Empty(t, pod.InitContainers)
			require.Len(t, pod.Containers, 1)
			op := pod.Containers[0]
			require.Equal(t, "op", op.Name)
			require.Equal(t, "aegis:latest", op.Image)
			require.Equal(t, corev1.PullIfNotPresent, op.ImagePullPolicy)
			require.Equal(t, []string{"/aegis-op"}, op.Command)
			require.Equal(t, []string{action}, op.Args)
			require.Equal(t, corev1.TerminationMessageReadFile, op.TerminationMessagePolicy)
			require.Equal(t, new(true), op.SecurityContext.Privileged)
			mounts := []corev1.VolumeMount{{
				Name: "host", MountPath: "/host", MountPropagation: new(corev1.MountPropagationHostToContainer),
			}}
			if action == protocol.ActionHealthcheck {
				mounts = append(mounts, corev1.VolumeMount{Name: "profiles", MountPath: "/etc/aegis/profiles", ReadOnly: true})
			}
			require.Equal(t, mounts, op.VolumeMounts)
			require.LessOrEqual(t, op.Resources.Requests.Cpu().MilliValue(), int64(50))
			require.LessOrEqual(t, op.Resources.Requests.Memory().Value(), int64(64<<20))
			require.False(t, op.Resources.Limits.Cpu().IsZero())
			require.False(t, op.Resources.Limits.Memory().IsZero())
		})
	}
	require.Equal(t, new(int64(1800)), templates.byAction[protocol.ActionReboot].Spec.ActiveDeadlineSeconds)
}

// mounted writes the template of the action, with each old text replaced by the new one after it, into a directory.
func mounted(t *testing.T, dir, action string, oldnew ...string) {
	t.Helper()
	raw, err := embedded.ReadFile(templateFile(action))
	require.NoError(t, err)
	for i := 0; i < len(oldnew); i += 2 {
		require.Contains(t, string(raw), oldnew[i])
	}
	write(t, dir, templateFile(action), strings.NewReplacer(oldnew...).Replace(string(raw)))
}

func write(t *testing.T, dir, file, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600))
}

func TestLoadTemplatesTakesMountedFilesOneByOne(t *testing.T) {
	dir := t.TempDir()
	mounted(t, dir, protocol.ActionReboot, "activeDeadlineSeconds: 1800", "activeDeadlineSeconds: 5400")
	// What else a mounted ConfigMap and its reader may leave there.
	require.NoError(t, os.Mkdir(filepath.Join(dir, "..2026_11_23"), 0o700))
	write(t, dir, "README.md", "ours")

	templates, err := LoadTemplates(dir)
	require.NoError(t, err)
	require.Equal(t, new(int64(5400)), templates.byAction[protocol.ActionReboot].Spec.ActiveDeadlineSeconds)
	require.Equal(t, loadEmbedded(t).byAction[protocol.ActionShutdown], templates.byAction[protocol.ActionShutdown])
}

// A manifest of a site that an earlier version took goes on to be taken.
func TestLoadTemplatesTakesOldSpellings(t *testing.T) {
	dir := t.TempDir()
	mounted(t, dir, protocol.ActionReboot, "activeDeadlineSeconds: 1800", "activedeadlineseconds: 07020")
	templates, err := LoadTemplates(dir)
	require.NoError(t, err)
	require.Equal(t, new(int64(3600)), templates.byAction[protocol.ActionReboot].Spec.ActiveDeadlineSeconds)
}

func TestLoadTemplatesNeedsTheDirectory(t *testing.T) {
	_, err := LoadTemplates(filepath.Join(t.TempDir(), "gone"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestLoadTemplatesReportsOneMistake(t *testing.T) {
	const podManifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: op}]}\n"
	for _, tc := range []struct {
		name   string
		oldnew []string // replaced in the embedded template
		whole  string   // or the whole file
		want   string
	}{
		{"empty", nil, "# nothing\n", ":1:1: the file is empty, it must hold one Job"},
		{"two documents", []string{"apiVersion: batch/v1", podManifest + "---\napiVersion: batch/v1"}, "", "a second document begins here, a file must have only one"},
		{"no YAML", nil, "{{ .Name }}: [", ":1:1: not valid YAML: "},
		{"kind", nil, podManifest, `is kind "Pod" of apiVersion "v1": must be kind "Job" of apiVersion "batch/v1"`},
		{"version", []string{"batch/v1", "batch/v1beta1"}, "", `is kind "Job" of apiVersion "batch/v1beta1": must be kind "Job" of apiVersion "batch/v1"`},
		{"unknown field", []string{"hostPID: true", "hostPid_: true"}, "", `unknown field "hostPid_" in spec.template.spec, did you mean "hostPID"?`},
		{"field twice", []string{"hostPID: true", "hostPID: true\n      hostPID: false"}, "", `spec.template.spec has the key "hostPID" already in line `},
		{"type", []string{"backoffLimit: 0", "backoffLimit: none"}, "", "spec.backoffLimit must be a whole number, is the text \"none\""},
		{"size", nil, strings.Repeat("#", 1<<20+1), "larger than 1 MiB"},
		{"depth", nil, strings.Repeat("[", 60000), "not valid YAML: "},
		{"retries", []string{"backoffLimit: 0", "backoffLimit: 2"}, "", "spec.backoffLimit is 2: must be 0, or a failed operation would be repeated unasked"},
		{"retries by default", []string{"backoffLimit: 0\n", "\n"}, "", "spec.backoffLimit is 6: must be 0, or a failed operation would be repeated unasked"},
		{"parallel", []string{"parallelism: 1", "parallelism: 2"}, "", "spec.parallelism and spec.completions must be 1, or the operation would run more than once"},
		{"completions", []string{"completions: 1", "completions: 2"}, "", "spec.parallelism and spec.completions must be 1, or the operation would run more than once"},
		{"indexed", []string{"completions: 1", "completions: 1\n  completionMode: Indexed"}, "", "spec.completionMode must be NonIndexed"},
		{
			"replacement",
			[]string{"podReplacementPolicy: Failed", "podReplacementPolicy: TerminatingOrFailed"},
			"",
			`spec.podReplacementPolicy is "TerminatingOrFailed": must be Failed, or a second pod may start while the first one ends`,
		},
		{
			"failure policy",
			[]string{"backoffLimit: 0", "backoffLimit: 0\n  podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}"},
			"",
			"spec.podFailurePolicy is set: leave it out, it can repeat a failed operation in spite of backoffLimit",
		},
		{"no deadline", []string{"activeDeadlineSeconds: 1800\n", "\n"}, "", "spec.activeDeadlineSeconds is 0: must be set, or an operation that hangs never ends"},
		{
			"short TTL",
			[]string{"ttlSecondsAfterFinished: 259200", "ttlSecondsAfterFinished: 0"},
			"",
			"spec.ttlSecondsAfterFinished is 0: must be at least 3600, or the result may be gone before it is read",
		},
		{"suspended", []string{"backoffLimit: 0", "backoffLimit: 0\n  suspend: true"}, "", "spec.suspend is true: a suspended Job never starts"},
		{
			"selector",
			[]string{"backoffLimit: 0", "backoffLimit: 0\n  selector: {}"},
			"",
			"spec.selector or spec.manualSelector is set: leave both out, Kubernetes makes the selector",
		},
		{"foreign controller", []string{"backoffLimit: 0", "backoffLimit: 0\n  managedBy: example.com/x"}, "", "spec.managedBy is set: leave it out"},
		{
			"restart",
			[]string{"restartPolicy: Never", "restartPolicy: Always"},
			"",
			`spec.template.spec.restartPolicy is "Always": must be Never, or a failed operation would be repeated unasked`,
		},
		{
			"container",
			[]string{"- name: op", "- name: main"},
			"",
			`spec.template.spec.containers has no container "op": name the one that runs the operation so`,
		},
		{
			"container restart",
			[]string{"- name: op", "- name: op\n        restartPolicy: OnFailure"},
			"",
			`container "op" has a restart policy of its own: leave it out`,
		},
		{
			"another action",
			[]string{"args: [reboot]", "args: [shutdown]"},
			"",
			`container "op" runs /aegis-op with the arguments ["shutdown"]: must be [reboot]`,
		},
		{
			"another action of the entry point",
			[]string{"command: [/aegis-op]", "", "args: [reboot]", "args: [op, shutdown]"},
			"",
			`container "op" has the arguments ["op" "shutdown"]: must be [op, reboot]`,
		},
		{
			"the entry point without op",
			[]string{"command: [/aegis-op]", ""},
			"",
			`container "op" has the arguments ["reboot"]: must be [op, reboot]`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if tc.whole != "" {
				write(t, dir, "restart_node.yaml", tc.whole)
			} else {
				mounted(t, dir, protocol.ActionReboot, tc.oldnew...)
			}
			_, err := LoadTemplates(dir)
			require.ErrorContains(t, err, filepath.Join(dir, "restart_node.yaml")+":")
			require.ErrorContains(t, err, tc.want)
			require.Equal(t, 1, strings.Count(err.Error(), "_node.yaml"), "%s", err)
		})
	}
}

func TestLoadTemplatesReportsAllMistakesAtOnce(t *testing.T) {
	dir := t.TempDir()
	mounted(t, dir, protocol.ActionReboot, "backoffLimit: 0", "backoffLimit: 3", "restartPolicy: Never", "restartPolicy: OnFailure")
	write(t, dir, "remedy_node.yaml", "kind: Pod\n")
	write(t, dir, "reboot_node.yaml", "kind: Job\n")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "repair_node.yaml"), 0o700))

	_, err := LoadTemplates(dir)
	for _, want := range []string{
		": spec.backoffLimit is 3",
		`: spec.template.spec.restartPolicy is "OnFailure"`,
		`remedy_node.yaml:1:7: is kind "Pod"`,
		"reboot_node.yaml: no action uses this file: must be one of restart_node.yaml, shutdown_node.yaml",
		"repair_node.yaml: is a directory",
	} {
		require.ErrorContains(t, err, want)
	}
}

// A template that a site has mounted may start the operation through the entry point of the image.
func TestLoadTemplatesTakesTheEntryPoint(t *testing.T) {
	dir := t.TempDir()
	mounted(t, dir, protocol.ActionReboot, "command: [/aegis-op]", "", "args: [reboot]", "args: [op, reboot]")
	templates, err := LoadTemplates(dir)
	require.NoError(t, err)
	job, err := templates.Render(reboot(), renderOptions())
	require.NoError(t, err)
	op := job.Spec.Template.Spec.Containers[0]
	require.Empty(t, op.Command)
	require.Equal(t, append([]string{"op"}, append([]string{"reboot"}, reboot().Args...)...), op.Args)
}

func TestLoadTemplatesLeavesForeignEntryPointsAlone(t *testing.T) {
	dir := t.TempDir()
	mounted(t, dir, protocol.ActionReboot, "image: aegis:latest", "image: example.com/kured:1", "args: [reboot]", "args: [--now]")
	_, err := LoadTemplates(dir)
	require.NoError(t, err)
}

func FuzzDecodeTemplate(f *testing.F) {
	for _, action := range protocol.Actions() {
		raw, err := embedded.ReadFile(templateFile(action))
		require.NoError(f, err)
		f.Add(raw)
	}
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("---\n---\n\xff"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		job, err := decodeTemplate("f", protocol.ActionReboot, raw)
		if err != nil {
			require.ErrorContains(t, err, "f:")
			return
		}
		require.Equal(t, "Job", job.Kind)
		require.Empty(t, jobProblems(job))
		require.Empty(t, podProblems(protocol.ActionReboot, &job.Spec.Template.Spec))
	})
}
