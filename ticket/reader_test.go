package ticket

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func annotated(annotations map[string]string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "gpu-1", Annotations: annotations}}
}

// A reader says of every node what ReadNode says, the first time and from its memory.
func TestReaderReadsAsReadNode(t *testing.T) {
	t.Parallel()
	const open = "id: a\ncondition: GpuHung\nsupervisor: aegis\nstatus: resolving\nworkflows:\n- action: cordon\n  status: Succeeded\n"
	const past = "- id: z\n  condition: GpuHung\n  outcome: resolved\n"
	for name, annotations := range map[string]map[string]string{
		"nothing":          nil,
		"ticket":           {Annotation: open},
		"history":          {HistoryAnnotation: past},
		"both":             {Annotation: open, HistoryAnnotation: past},
		"broken ticket":    {Annotation: "{", HistoryAnnotation: past},
		"broken history":   {Annotation: open, HistoryAnnotation: "id: no list"},
		"ticket of blanks": {Annotation: " "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			node, reader := annotated(annotations), NewReader()
			want := ReadNode(node)
			require.Equal(t, want, reader.Node(node))
			require.Equal(t, want, reader.Node(node), "from memory")
		})
	}
}

// What a caller does with its record shows in nobody else's.
func TestReaderGivesEachCallerItsOwn(t *testing.T) {
	t.Parallel()
	node := annotated(map[string]string{
		Annotation:        "id: a\ncondition: GpuHung\nsupervisor: aegis\nstatus: resolving\n",
		HistoryAnnotation: "- id: z\n  condition: GpuHung\n  outcome: resolved\n",
	})
	reader := NewReader()
	first := reader.Node(node)
	first.Ticket.Supervisor = "alice"
	first.History.Incidents[0].Outcome = "handed_over"
	require.Equal(t, ReadNode(node), reader.Node(node))
}
