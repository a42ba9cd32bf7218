package sop

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/clock"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// The annotations of the Lease of Aegis that hold the orders. People may edit them with kubectl.
const (
	// PausedAnnotation is there while everything is paused. Its value says why: JSON, or any text.
	PausedAnnotation = "aegis.io/paused"
	// ModesAnnotation holds the modes that were set while Aegis runs, as JSON by condition.
	ModesAnnotation = "aegis.io/modes"
	// StormsAnnotation holds the storms that go on, as JSON.
	StormsAnnotation = "aegis.io/storms"
	// SilencesAnnotation holds the silences of Aegis' own, as JSON.
	SilencesAnnotation = "aegis.io/silences"
)

// ErrOrders is wrapped by the error about orders that cannot be read or written.
var ErrOrders = errors.New("orders on the Lease")

// OrderStoreOptions say where the orders are kept.
type OrderStoreOptions struct {
	// Client reads and writes the Lease.
	Client coordinationclient.LeasesGetter
	// Namespace and Name are those of the Lease.
	Namespace, Name string
	// Identity returns who this process is in the election. Empty means that there is no election.
	Identity func() string
	// Restored hears which annotations were written again on a Lease that somebody had deleted, and what of them was left out. Nil means
	// that nobody does.
	Restored func(annotations []string)
	// Clock tells the time and waits. Nil means the wall clock.
	Clock clock.Clock
}

// OrderStore keeps the orders on the Lease of the leader election, where the next leader finds them. It is safe for concurrent
// use.
type OrderStore struct {
	options OrderStoreOptions
	clock   clock.Clock

	mu       sync.Mutex
	last     policy.Orders   // By the names that are written.
	silences []parsedSilence // Those of last.
	names    ticket.Names    // Nil while nobody knows the catalogue.
	// configured returns the mode of a condition without orders, and none of one that the catalogue does not know. It is nil with names.
	configured func(condition string) prom.Mode
	read       time.Time
	// memory is what each annotation of the Lease said last.
	memory map[string]remembered
}

// NewOrderStore returns a store that knows no orders until they are read.
func NewOrderStore(o OrderStoreOptions) *OrderStore {
	return &OrderStore{options: o, clock: cmp.Or[clock.Clock](o.Clock, clock.RealClock{}), memory: make(map[string]remembered)}
}

// Last returns the orders as they were last read, by the names that the catalogue has now.
func (s *OrderStore) Last() policy.Orders {
	s.mu.Lock()
	last := s.last.Clone()
	s.mu.Unlock()
	return s.named(last)
}

// Read reads the orders anew. It also proves that this process leads: ErrLeaseLost says that another one holds the Lease.
func (s *OrderStore) Read(ctx context.Context) (policy.Orders, error) {
	lease, err := s.lease(ctx)
	if err != nil {
		return policy.Orders{}, err
	}
	if lease, err = s.restore(ctx, lease); err != nil {
		return policy.Orders{}, err
	}
	return s.take(lease), nil
}

// take remembers the orders on the Lease. Those that cannot be read are a pause: what holds nothing up goes on.
func (s *OrderStore) take(lease *coordinationv1.Lease) policy.Orders {
	orders, err := parseOrders(lease.Annotations)
	if err != nil {
		orders = policy.Orders{Pause: &policy.Order{Reason: err.Error()}}
	}
	silences := parseSilences(orders.Silences)
	s.mu.Lock()
	s.last, s.silences, s.read = orders, silences, s.clock.Now()
	s.mu.Unlock()
	return s.named(orders.Clone())
}

// Confirm makes sure that this process leads, or did so not longer ago than that. One that was frozen for a while may have lost the
// Lease without knowing. An API server that does not answer proves nothing, and will take no write either.
func (s *OrderStore) Confirm(ctx context.Context, ago time.Duration) error {
	s.mu.Lock()
	fresh := s.clock.Since(s.read) < ago
	s.mu.Unlock()
	if fresh {
		return nil
	}
	if _, err := s.Read(ctx); errors.Is(err, ErrLeaseLost) {
		return err
	}
	return nil
}

// Update changes the orders in a write that fails if somebody else changes the Lease in between, and is then decided anew.
func (s *OrderStore) Update(ctx context.Context, change func(*policy.Orders) error) error {
	const tries = 10
	var err error
	for range tries {
		if err = s.update(ctx, change); !apierrors.IsConflict(err) {
			return err
		}
		if err := sleep(ctx, s.clock, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w are being changed by somebody else: %w", ErrOrders, err)
}

func (s *OrderStore) update(ctx context.Context, change func(*policy.Orders) error) error {
	lease, err := s.lease(ctx)
	if err != nil {
		return err
	}
	if lease, err = s.restore(ctx, lease); err != nil {
		return err
	}
	orders, err := parseOrders(lease.Annotations)
	if err != nil {
		return err
	}
	orders = s.named(orders)
	if err := change(&orders); err != nil {
		return err
	}
	now := s.clock.Now()
	orders.Silences = slices.DeleteFunc(orders.Silences, func(silence policy.Silence) bool { return !silence.Remembered(now) })
	patch, err := orderPatch(lease, orders)
	if err != nil || patch == nil {
		return err
	}
	written, err := s.client().Patch(ctx, lease.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "aegis"})
	if err != nil {
		return fmt.Errorf("%w not written: %w", ErrOrders, err)
	}
	s.See(written)
	s.take(written)
	return nil
}

func (s *OrderStore) client() coordinationclient.LeaseInterface {
	return s.options.Client.Leases(s.options.Namespace)
}

// lease reads the Lease. Without an election nobody else makes it.
func (s *OrderStore) lease(ctx context.Context) (*coordinationv1.Lease, error) {
	identity := s.options.Identity()
	lease, err := s.client().Get(ctx, s.options.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && identity == "" {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: s.options.Namespace, Name: s.options.Name}}
		lease, err = s.client().Create(ctx, lease, metav1.CreateOptions{FieldManager: "aegis"})
	}
	if err != nil {
		return nil, fmt.Errorf("%w not read: %w", ErrOrders, err)
	}
	if holder := lease.Spec.HolderIdentity; identity != "" && (holder == nil || *holder != identity) {
		return nil, fmt.Errorf("%w to another replica", ErrLeaseLost)
	}
	return lease, nil
}

// parseOrders reads the annotations.
func parseOrders(annotations map[string]string) (policy.Orders, error) {
	orders := policy.Orders{Pause: parsePause(annotations[PausedAnnotation])}
	err := errors.Join(
		parseOrder(annotations, ModesAnnotation, &orders.Modes),
		parseOrder(annotations, StormsAnnotation, &orders.Storms),
		parseOrder(annotations, SilencesAnnotation, &orders.Silences),
	)
	if wrong := policy.CheckSilences(orders.Silences); wrong != nil {
		err = errors.Join(err, fmt.Errorf("annotation %s: %w", SilencesAnnotation, wrong))
	}
	for _, name := range slices.Sorted(maps.Keys(orders.Modes)) {
		if mode := orders.Modes[name].Mode; !mode.Known() {
			err = errors.Join(err, fmt.Errorf("annotation %s: %s has the mode %q: use off, observe, approve or auto", ModesAnnotation, name, mode))
		}
	}
	if err != nil {
		return policy.Orders{}, fmt.Errorf("%w: %w", ErrOrders, err)
	}
	return orders, nil
}

// parsePause takes any text for a pause, except what a person would write to end one.
func parsePause(text string) *policy.Order {
	if text == "" || text == "false" {
		return nil
	}
	order := new(policy.Order)
	if json.Unmarshal([]byte(text), order) != nil {
		return &policy.Order{Reason: text}
	}
	return order
}

func parseOrder[T any](annotations map[string]string, key string, into *T) error {
	text := annotations[key]
	if text == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("annotation %s: %w", key, err)
	}
	return nil
}

// orderPatch returns the merge patch that writes the orders, nil if they are written already. It carries the version that it is
// meant for.
func orderPatch(lease *coordinationv1.Lease, orders policy.Orders) ([]byte, error) {
	wanted, err := orderTexts(orders)
	if err != nil {
		return nil, err
	}
	changed := make(map[string]*string)
	for key, text := range wanted {
		if text == lease.Annotations[key] {
			continue
		}
		changed[key] = nil
		if text != "" {
			changed[key] = &text
		}
	}
	if len(changed) == 0 {
		return nil, nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": lease.ResourceVersion, "annotations": changed},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOrders, err)
	}
	return patch, nil
}

// orderTexts returns the annotations of the orders. Empty ones are removed.
func orderTexts(o policy.Orders) (map[string]string, error) {
	texts := make(map[string]string)
	for key, value := range map[string]struct {
		empty bool
		value any
	}{
		PausedAnnotation: {o.Pause == nil, o.Pause},
		ModesAnnotation:  {len(o.Modes) == 0, o.Modes},
		StormsAnnotation: {len(o.Storms) == 0, o.Storms},

		SilencesAnnotation: {len(o.Silences) == 0, o.Silences},
	} {
		texts[key] = ""
		if value.empty {
			continue
		}
		text, err := json.Marshal(value.value)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrOrders, err)
		}
		texts[key] = string(text)
	}
	return texts, nil
}
