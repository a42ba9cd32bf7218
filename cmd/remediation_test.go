package cmd

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What a policy names is held to what its procedure does. The file comes first, and what cannot be known without a host is told.
func TestCheckOfRemediations(t *testing.T) {
	t.Parallel()
	entry := func(sop, policy string) string {
		return "conditions:\n- name: LustreUnmounted\n  type: storage\n  sop: " + sop + "\n  policy: {" + policy + "}\n"
	}
	const at = "conditions.yaml:5:11: condition LustreUnmounted: "
	for name, tt := range map[string]struct{ text, stdout, stderr string }{
		"a remedy of the site": {
			text:   entry("host/remediate", "remedy: RemountLustre"),
			stdout: "note: condition LustreUnmounted runs /etc/aegis/remedies.d/RemountLustre, which each of its nodes must have\nok: ",
		},
		"a repair of the site": {
			text:   entry("host/remediate-in-place", "repair: RemountLustre"),
			stdout: "/etc/aegis/repairs.d/RemountLustre",
		},
		"what is built in": {text: entry("host/remediate", "remedy: breakdeadlock"), stdout: "ok: 1 files"},
		"what is built in, on an empty node": {
			text: entry("host/remediate", "remedy: ReloadIBDriver, workload: waitIdle"), stdout: "ok: 1 files",
		},
		"the form of the name": {
			text:   entry("host/remediate", "remedy: ../evil"),
			stderr: `conditions.yaml:5:20: remedy "../evil": the name of an operation has letters, digits, _ and -, does not begin with -, and is at most 63 long`,
		},
		"nothing is named": {
			text:   entry("host/remediate", "mode: auto"),
			stderr: at + "the procedure host/remediate needs the name of a remedy or a repair in the policy, such as remedy: RestartKubelet",
		},
		"nothing is named, and there is no policy": {
			text:   "conditions:\n- name: LustreUnmounted\n  type: storage\n  sop: host/remediate\n",
			stderr: "conditions.yaml:4:8: condition LustreUnmounted: the procedure host/remediate needs",
		},
		"both are named": {
			text: entry("host/remediate", "remedy: A, repair: B"), stderr: at + `policy has both a remedy and a repair, set one of them to ""`,
		},
		"another procedure": {
			text:   entry("gpu/hung", "remedy: RemountLustre"),
			stderr: at + `the procedure "gpu/hung" carries out no remedy or repair that the policy names, use host/remediate or host/remediate-in-place`,
		},
		"a destructive one": {
			text:   entry("host/remediate", "remedy: resetGPU, workload: drain"),
			stderr: at + "ResetGPU is destructive and is no remedy to name, use the procedure gpu/reset",
		},
		"one for a cordoned node": {
			text:   entry("host/remediate-in-place", "remedy: BreakDeadlock"),
			stderr: at + "BreakDeadlock needs a cordoned node, which the procedure leaves in service",
		},
		"one for free GPUs": {
			text:   entry("host/remediate", "remedy: RestartFabricManager"),
			stderr: at + "RestartFabricManager needs the GPUs to be free, set workload to drainGPU, drain or waitIdle",
		},
		"one for an empty node": {
			text:   entry("host/remediate", "remedy: ReloadIBDriver, workload: drainGPU"),
			stderr: at + "ReloadIBDriver needs an empty node, set workload to drain or waitIdle",
		},
		"for all conditions": {
			text:   "defaults: {remedy: RemountLustre}\n",
			stderr: `conditions.yaml:1:12: unknown field "remedy" in defaults`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := aegis("check", write(t, "conditions.yaml", tt.text))
			require.Contains(t, stdout, tt.stdout)
			require.Contains(t, stderr, tt.stderr)
			require.Equal(t, tt.stderr != "", code == exitUsage, stderr)
		})
	}
}
