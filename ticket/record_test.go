package ticket

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReadNode(t *testing.T) {
	t.Parallel()
	r := ReadNode(node(nil))
	require.Equal(t, Record{Node: node(nil), History: &History{}}, r)

	r = ReadNode(node(map[string]string{Annotation: asTyped, HistoryAnnotation: "- id: a"}))
	require.Equal(t, "GPUCheckFailed", r.Ticket.Condition)
	require.Equal(t, []Incident{{ID: "a"}}, r.History.Incidents)
	require.NoError(t, errors.Join(r.Broken, r.HistoryBroken))

	r = ReadNode(node(map[string]string{Annotation: "", HistoryAnnotation: "x"}))
	require.Nil(t, r.Ticket)
	require.ErrorIs(t, r.Broken, ErrBroken)
	require.ErrorIs(t, r.HistoryBroken, ErrBroken)
	require.Equal(t, &History{}, r.History)
}
