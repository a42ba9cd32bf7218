package sop

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// quiet is a silence of a node for two hours.
func quiet(node string) policy.Silence {
	return policy.Silence{
		Matchers: []string{fmt.Sprintf("node=%q", node)}, EndsAt: time.Now().Add(2 * time.Hour), CreatedBy: "alice", Comment: "riser swap",
	}
}

func TestSilencesAreKeptOnTheLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, prom.Policy{})
		d := w.dispatcher()
		alert := map[string]string{"node": nodeA, "alertname": "GpuHung"}
		made, err := d.Silence(t.Context(), quiet(nodeA))
		require.NoError(t, err)
		require.Equal(t, []policy.Silence{made}, d.Orders().Silences)
		want := "silence " + made.ID + " of Aegis by alice until 2000-01-01T02:00:00Z: riser swap"
		require.Equal(t, want, d.services.Orders.Silenced(alert))
		require.Empty(t, d.services.Orders.Silenced(map[string]string{"node": "another"}))
		require.Empty(t, d.services.Orders.Silenced(nil))

		// Another process finds it, and so does a person with kubectl.
		heir := w.dispatcher()
		_, err = heir.services.Orders.Read(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, heir.services.Orders.Silenced(alert))

		_, err = d.EndSilence(t.Context(), "none", "bob")
		require.ErrorIs(t, err, policy.ErrNoSilence)
		ended, err := d.EndSilence(t.Context(), made.ID, "bob")
		require.NoError(t, err)
		require.Equal(t, "bob", ended.EndedBy)
		require.False(t, ended.Active(time.Now()))
		require.Empty(t, d.services.Orders.Silenced(alert))
		_, err = d.EndSilence(t.Context(), made.ID, "bob")
		require.ErrorIs(t, err, policy.ErrRefused)

		_, err = d.Silence(t.Context(), quiet(nodeA))
		require.NoError(t, err)
		require.Len(t, d.Orders().Silences, 2)
		time.Sleep(2 * time.Hour)
		require.Empty(t, d.services.Orders.Silenced(alert), "it has ended by itself")
		require.NoError(t, d.Resume(t.Context(), "bob"))
		require.Len(t, d.Orders().Silences, 1, "what ended long ago is forgotten at the next order")
	})
}

func TestSilencesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, prom.Policy{})
		d := w.dispatcher()
		last := policy.Silence{}
		for i := range policy.MaxSilences {
			var err error
			last, err = d.Silence(t.Context(), quiet(fmt.Sprint("n", i)))
			require.NoError(t, err)
		}
		_, err := d.Silence(t.Context(), quiet(nodeA))
		require.ErrorIs(t, err, policy.ErrRefused)
		require.ErrorContains(t, err, "64 silences are active, at most 64 may be: delete one")
		_, err = d.EndSilence(t.Context(), last.ID, "bob")
		require.NoError(t, err)
		long := quiet(nodeA)
		for range policy.MaxMatchers {
			long.Matchers = append(long.Matchers, `a="`+strings.Repeat("x", 4000)+`"`)
		}
		_, err = d.Silence(t.Context(), long)
		require.ErrorContains(t, err, "the silences take more than 65536 bytes together")
		_, err = d.Silence(t.Context(), quiet(nodeA))
		require.NoError(t, err)
	})
}

// What cannot be read on the Lease might be a silence of everything: nothing is done until somebody mends it.
func TestSilencesThatCannotBeReadPauseEverything(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ text, want string }{
		"no JSON":      {`node=n1`, "invalid character"},
		"no matcher":   {`[{"id":"1","matchers":["node"],"endsAt":"2099-01-01T00:00:00Z"}]`, `silence "1": matcher "node"`},
		"no pattern":   {`[{"id":"1","matchers":["node=~\"(\""],"endsAt":"2099-01-01T00:00:00Z"}]`, `silence "1": matcher`},
		"everything":   {`[{"id":"1","matchers":["a=~\".*\""],"endsAt":"2099-01-01T00:00:00Z"}]`, `silence "1": no matcher asks for a label that is there`},
		"no end":       {`[{"id":"1","matchers":["node=\"n1\""]}]`, `silence "1": endsAt is missing`},
		"no time":      {`[{"id":"1","matchers":["node=\"n1\""],"endsAt":"tomorrow"}]`, "parsing time"},
		"no id":        {`[{"matchers":["node=\"n1\""],"endsAt":"2099-01-01T00:00:00Z"}]`, `its id "" is empty or used twice`},
		"the id twice": {`[{"id":"1","matchers":["a=\"b\""],"endsAt":"2099-01-01T00:00:00Z"},{"id":"1","matchers":["a=\"b\""],"endsAt":"2099-01-01T00:00:00Z"}]`, `its id "1" is empty or used twice`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, client := orderStore("me", "me", map[string]string{SilencesAnnotation: tt.text})
			orders, err := store.Read(t.Context())
			require.NoError(t, err)
			require.Contains(t, orders.Pause.Reason, "annotation aegis.io/silences: ")
			require.Contains(t, orders.Pause.Reason, tt.want)
			require.ErrorIs(t, store.Update(t.Context(), func(*policy.Orders) error { return nil }), ErrOrders)
			written, err := client.CoordinationV1().Leases("monitoring").Get(t.Context(), ticket.Self, metav1.GetOptions{})
			require.NoError(t, err)
			require.Equal(t, tt.text, written.Annotations[SilencesAnnotation], "it is not written over")
		})
	}
}

// A silence that comes between the answer of the sources and the cordon keeps the node in service.
func TestASilenceComesBeforeTheCordon(t *testing.T) {
	t.Parallel()
	at := time.Now()
	confirmed := prom.Finding{Evidence: prom.EvidenceFiring, Permission: prom.PermissionGranted, At: at}
	silenced := confirmed
	silenced.Permission = prom.PermissionSilenced
	for name, tt := range map[string]struct {
		last prom.Finding
		told bool
	}{
		"the same answer":           {confirmed, false},
		"the same answer, silenced": {silenced, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := &fakeSource{}
			source.set(tt.last)
			g := &gate{services: environment{Services: Services{Source: source}}, confirmed: at.Add(time.Hour)}
			require.Equal(t, tt.told, g.toldSince() != nil)
		})
	}
}
