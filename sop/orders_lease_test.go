package sop

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/soptest"
	"aegis.io/aegis/ticket"
)

// modeCatalogue knows the modes of conditions, and one that was called Old and is Cautious now.
type modeCatalogue map[string]prom.Mode

func (c modeCatalogue) Status(node, condition, device string, _ int) prom.AegisNodeStatus {
	if condition == "Old" {
		condition = "Cautious"
	}
	return prom.AegisNodeStatus{Node: node, Condition: condition, ID: device, Policy: prom.Policy{Mode: c[condition]}}
}

func (modeCatalogue) InhibitedBy(time.Time, []prom.AegisNodeStatus) func(prom.AegisNodeStatus) string {
	return func(prom.AegisNodeStatus) string { return "" }
}

// replicaWith returns the orders of a process that remembers the Lease that had the orders.
func replicaWith(t *testing.T, client *soptest.Client, remembered map[string]string, told *[]string) *OrderStore {
	t.Helper()
	s := NewOrderStore(OrderStoreOptions{
		Client: client.CoordinationV1(), Namespace: "monitoring", Name: ticket.Self, Identity: func() string { return "me" },
		Restored: func(annotations []string) { *told = append(*told, annotations...) },
	})
	catalogue := modeCatalogue{"Eager": prom.ModeAuto, "Cautious": prom.ModeObserve, "Asking": prom.ModeApprove}
	Services{Orders: s}.renamed(catalogue)
	s.See(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: ticket.Self, UID: "old", Annotations: remembered}})
	return s
}

// Orders outlive the Lease that they stand on as far as they make Aegis do less. What was ordered or ended on the new one counts, annotation
// by annotation.
func TestOrdersThatDoLessOutliveTheLease(t *testing.T) {
	t.Parallel()
	const (
		storm    = `[{"condition":"Eager","pool":"a","since":"2026-11-23T12:00:00Z","nodes":9,"limit":2}]`
		silences = `[{"id":"riser","matchers":["node=\"gpu-1\""],"endsAt":"2096-11-30T08:00:00Z","createdBy":"alice","comment":"swap"}]`
	)
	tests := map[string]struct{ remembered, anew, want map[string]string }{
		"nothing was ordered": {nil, nil, nil},
		"pause, silences and storms": {
			map[string]string{PausedAnnotation: "racks", SilencesAnnotation: silences, StormsAnnotation: storm},
			nil,
			map[string]string{PausedAnnotation: "racks", SilencesAnnotation: silences, StormsAnnotation: storm},
		},
		"a storm on the new Lease does not hide the pause": {
			map[string]string{PausedAnnotation: "racks"},
			map[string]string{StormsAnnotation: storm},
			map[string]string{PausedAnnotation: "racks", StormsAnnotation: storm},
		},
		"what stands on the new Lease counts": {
			map[string]string{PausedAnnotation: "racks", ModesAnnotation: `{"Eager":{"mode":"off"}}`},
			map[string]string{PausedAnnotation: "false", ModesAnnotation: `{"Eager":{"mode":"approve"}}`},
			map[string]string{PausedAnnotation: "false", ModesAnnotation: `{"Eager":{"mode":"approve"}}`},
		},
		"modes that do less, word for word": {
			map[string]string{ModesAnnotation: `{ "Eager": {"mode": "approve", "by": "alice"}, "Asking": {"mode": "observe"}}`},
			nil,
			map[string]string{ModesAnnotation: `{ "Eager": {"mode": "approve", "by": "alice"}, "Asking": {"mode": "observe"}}`},
		},
		"modes that do more than is configured": {
			map[string]string{ModesAnnotation: `{"Eager":{"mode":"off","by":"alice"},"Cautious":{"mode":"approve"},"Asking":{"mode":"auto"},"Unknown":{"mode":"auto"}}`},
			nil,
			map[string]string{ModesAnnotation: `{"Eager":{"mode":"off","by":"alice"}}`},
		},
		"a mode by an old name": {
			map[string]string{ModesAnnotation: `{"Old":{"mode":"approve"}}`},
			nil,
			map[string]string{ModesAnnotation: `{}`},
		},
		"a mode of what the catalogue does not know": {
			map[string]string{ModesAnnotation: `{"Unknown":{"mode":"observe"},"Other":{"mode":"approve"}}`},
			nil,
			map[string]string{ModesAnnotation: `{"Unknown":{"mode":"observe"}}`},
		},
		"storms that were released": {
			map[string]string{StormsAnnotation: `[{"condition":"Eager","pool":"a","since":"2026-11-23T12:00:00Z","nodes":9,"limit":2,"released":{"by":"alice"}}]`},
			nil,
			map[string]string{StormsAnnotation: `[]`},
		},
		"what cannot be read pauses everything": {
			map[string]string{ModesAnnotation: `Eager=off`, StormsAnnotation: `{}`},
			nil,
			map[string]string{ModesAnnotation: `Eager=off`, StormsAnnotation: `{}`},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, client := orderStore("me", "me", tt.anew)
			var told []string
			s := replicaWith(t, client, tt.remembered, &told)
			_, err := s.Read(t.Context())
			require.NoError(t, err)
			lease, err := client.CoordinationV1().Leases("monitoring").Get(t.Context(), ticket.Self, metav1.GetOptions{})
			require.NoError(t, err)
			require.Equal(t, tt.want, lease.Annotations)
			before := len(told)
			_, err = s.Read(t.Context())
			require.NoError(t, err)
			require.Len(t, told, before, "written once")
		})
	}
}

// A replica that stands by takes what becomes of the orders on the new Lease, also that one of them ends there, while another was left out.
func TestOrderThatEndedOnTheNewLeaseStaysEnded(t *testing.T) {
	t.Parallel()
	_, client := orderStore("me", "another", nil)
	var told []string
	remembered := map[string]string{PausedAnnotation: "racks", ModesAnnotation: `{"Cautious":{"mode":"auto"}}`}
	leader, standby := replicaWith(t, client, remembered, &told), replicaWith(t, client, remembered, &told)
	see := func() *coordinationv1.Lease {
		lease, err := client.CoordinationV1().Leases("monitoring").Get(t.Context(), ticket.Self, metav1.GetOptions{})
		require.NoError(t, err)
		standby.See(lease)
		return lease
	}
	require.Empty(t, see().Annotations)
	client.Cluster().Do(func() { client.Cluster().Elect("me") })
	_, err := leader.Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, "racks", see().Annotations[PausedAnnotation])
	require.Equal(t, []string{"aegis.io/modes without Cautious=auto", PausedAnnotation}, told)
	client.Cluster().Do(func() { client.Cluster().EditLease(PausedAnnotation, "") })
	see()
	orders, err := standby.Read(t.Context())
	require.NoError(t, err)
	require.Nil(t, orders.Pause, "its end was an order")
	require.Empty(t, orders.Modes)
	require.Len(t, told, 2)
	require.NotEqual(t, types.UID("old"), see().UID)
}
