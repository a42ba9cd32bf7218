package jobs

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"aegis.io/aegis/jobs/protocol"
)

var update = flag.Bool("update", false, "write the golden files anew")

func renderOptions() RenderOptions {
	return RenderOptions{Namespace: "healing", Image: "registry.example.com/aegis:v1.2.3", ServiceAccount: "site-op"}
}

func TestRenderGolden(t *testing.T) {
	args := map[string][]string{
		protocol.ActionReboot:      {"--boot-id", "5c9f8a4e"},
		protocol.ActionShutdown:    {"--boot-id", "5c9f8a4e"},
		protocol.ActionHealthcheck: {"--profile", "h100", "--boot-id", "5c9f8a4e"},
		protocol.ActionRepair:      {"StartGpfs"},
		protocol.ActionRemedy:      {"ResetGPU", "--device", "GPU-5b2e"},
		protocol.ActionDiagnose:    {"--condition", "GpuHung", "--device", "0"},
	}
	for _, action := range protocol.Actions() {
		t.Run(action, func(t *testing.T) {
			request := Request{Action: action, Node: "gpu-17.example.com", Incident: "20261123-150405-x7k2", Attempt: 1, Args: args[action]}
			job, err := loadEmbedded(t).Render(request, renderOptions())
			require.NoError(t, err)
			got, err := yaml.Marshal(job)
			require.NoError(t, err)

			golden := filepath.Join("testdata", action+".golden.yaml")
			if *update {
				require.NoError(t, os.WriteFile(golden, got, 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), string(got))
		})
	}
}

func TestRenderKeepsHostileArgumentsPlain(t *testing.T) {
	hostile := []string{
		"",
		"x\n      - name: second\n        image: evil",
		`"; reboot; "`,
		"'${IFS}`id`'",
		"{{ .Node }} %s %!d(MISSING)",
		"--boot-id=other",
		"---\nkind: Pod",
		"123", "null", "true", "!!binary aGk=", "*anchor",
		"\u2028\ufeff\u0001",
	}
	request := reboot()
	request.Args = hostile
	plain, err := loadEmbedded(t).Render(reboot(), renderOptions())
	require.NoError(t, err)
	job, err := loadEmbedded(t).Render(request, renderOptions())
	require.NoError(t, err)

	// As the API server reads it.
	raw, err := yaml.Marshal(job)
	require.NoError(t, err)
	read := job.DeepCopy()
	require.NoError(t, yaml.UnmarshalStrict(raw, read))
	args := read.Spec.Template.Spec.Containers[0].Args
	want := append([]string{"reboot"}, hostile...)
	want[4] = "'$${IFS}`id`'" // read by the kubelet as one dollar sign
	require.Equal(t, want, args)

	read.Spec.Template.Spec.Containers[0].Args = plain.Spec.Template.Spec.Containers[0].Args
	require.Equal(t, plain, read)
}

func TestRenderKeepsKubeletFromExpandingArguments(t *testing.T) {
	request := reboot()
	request.Args = []string{"$(NODE_NAME)", "$$(NODE_NAME)", "$"}
	job, err := loadEmbedded(t).Render(request, renderOptions())
	require.NoError(t, err)
	require.Equal(t, []string{"$$(NODE_NAME)", "$$$$(NODE_NAME)", "$$"}, job.Spec.Template.Spec.Containers[0].Args[1:])
}

func TestRenderRefusesInvalidRequests(t *testing.T) {
	request := reboot()
	request.Action = "explode"
	request.Node = "n1\n  hostPID: true"
	job, err := loadEmbedded(t).Render(request, renderOptions())
	require.Nil(t, job)
	require.ErrorContains(t, err, `unknown action "explode"`)
	require.ErrorContains(t, err, `node "n1\n  hostPID: true" cannot be the name of a Node`)
}

func TestRenderRoundsDeadlineUp(t *testing.T) {
	for deadline, want := range map[time.Duration]int64{0: 1800, 1: 1, time.Second: 1, 90*time.Second + 1: 91, 1<<63 - 1: 9223372037} {
		request := reboot()
		request.Deadline = deadline
		job, err := loadEmbedded(t).Render(request, renderOptions())
		require.NoError(t, err)
		require.Equal(t, want, *job.Spec.ActiveDeadlineSeconds, deadline)
	}
}

func TestRenderKeepsWhatAnOperatorSet(t *testing.T) {
	dir := t.TempDir()
	mounted(t, dir, protocol.ActionReboot,
		"image: aegis:latest", "image: example.com/kured:1",
		"serviceAccountName: aegis-op", "serviceAccountName: kured",
		"name: AEGIS_HOST_ROOT\n          value: /host", "name: AEGIS_HOST_ROOT\n          value: /elsewhere",
		"  name: aegis-restart-node\n", "  name: theirs\n  uid: 1234\n  resourceVersion: \"7\"\n  annotations: {team: gpu}\n",
	)
	templates, err := LoadTemplates(dir)
	require.NoError(t, err)
	job, err := templates.Render(reboot(), renderOptions())
	require.NoError(t, err)

	pod := job.Spec.Template.Spec
	require.Equal(t, "example.com/kured:1", pod.Containers[0].Image)
	require.Equal(t, "kured", pod.ServiceAccountName)
	require.Equal(t, []corev1.EnvVar{
		{Name: "AEGIS_HOST_ROOT", Value: "/host"}, {Name: "NODE_NAME", Value: "gpu-17.example.com"},
	}, pod.Containers[0].Env)
	require.Equal(t, reboot().Name(), job.Name)
	require.Empty(t, job.UID)
	require.Empty(t, job.ResourceVersion)
	require.Equal(t, "gpu", job.Annotations["team"])
}

func TestRenderLeavesTheTemplateAlone(t *testing.T) {
	templates := loadEmbedded(t)
	job, err := templates.Render(reboot(), renderOptions())
	require.NoError(t, err)
	job.Spec.Template.Labels["x"] = "y"
	require.Equal(t, loadEmbedded(t), templates)

	job, err = templates.Render(reboot(), RenderOptions{Namespace: "healing"})
	require.NoError(t, err)
	require.Equal(t, placeholderImage, job.Spec.Template.Spec.Containers[0].Image)
	require.Equal(t, placeholderServiceAccount, job.Spec.Template.Spec.ServiceAccountName)
}
