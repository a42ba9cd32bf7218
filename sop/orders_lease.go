package sop

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
)

// Somebody who deletes the Lease, or puts another one in its place, has ordered nothing. What made Aegis do less goes on; what made it do more
// is ordered again by whoever wants it, since the process that remembers it may not have heard how it ended.

// remembered is what an annotation said, and on which Lease.
type remembered struct {
	lease types.UID
	text  string
}

func orderAnnotations() []string {
	return []string{PausedAnnotation, ModesAnnotation, StormsAnnotation, SilencesAnnotation}
}

// See remembers the orders on the Lease as it was read, also by a process that stands by.
func (s *OrderStore) See(lease *coordinationv1.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range orderAnnotations() {
		if !s.lost(key, lease) {
			s.memory[key] = remembered{lease.UID, lease.Annotations[key]}
		}
	}
}

// lost reports whether the annotation stood on a Lease before this one, which has never had it. The lock is held.
func (s *OrderStore) lost(key string, lease *coordinationv1.Lease) bool {
	m := s.memory[key]
	return m.text != "" && m.lease != lease.UID && lease.Annotations[key] == ""
}

// restore writes the orders that do less on a Lease that was made anew without them. Nothing is decided before that: an error is a reason to
// wait. Where nothing is left of an annotation it is written without entries, which tells the other replicas that somebody has looked.
func (s *OrderStore) restore(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	wanted := make(map[string]string)
	s.mu.Lock()
	for _, key := range orderAnnotations() {
		if s.lost(key, lease) {
			wanted[key] = s.memory[key].text
		}
	}
	s.mu.Unlock()
	if len(wanted) == 0 {
		s.See(lease)
		return lease, nil
	}
	var told []string
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		text, left, err := s.less(key, wanted[key])
		if err != nil {
			return nil, err
		}
		if wanted[key] = text; len(left) > 0 {
			key += " without " + strings.Join(left, " and ")
		}
		told = append(told, key)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": lease.ResourceVersion, "annotations": wanted}})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOrders, err)
	}
	written, err := s.client().Patch(ctx, lease.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "aegis"})
	if err != nil {
		return nil, fmt.Errorf("%w not written on the Lease that was made anew: %w", ErrOrders, err)
	}
	s.See(written)
	if s.options.Restored != nil {
		s.options.Restored(told)
	}
	return written, nil
}

// less returns what of the annotation makes Aegis do less, and which entries it has left out. What cannot be read pauses everything.
func (s *OrderStore) less(key, text string) (string, []string, error) {
	orders, err := parseOrders(map[string]string{key: text})
	if err != nil {
		return text, nil, nil //nolint:nilerr // It is read again from the Lease, and says there what is wrong.
	}
	var left []string
	for _, condition := range slices.Sorted(maps.Keys(orders.Modes)) {
		if mode := orders.Modes[condition].Mode; !s.lowers(condition, mode) {
			left = append(left, condition+"="+string(mode))
			delete(orders.Modes, condition)
		}
	}
	orders.Storms = slices.DeleteFunc(orders.Storms, func(storm policy.Storm) bool {
		if storm.Released != nil {
			left = append(left, fmt.Sprintf("the release of %s in pool %s", storm.Condition, storm.Pool))
		}
		return storm.Released != nil
	})
	if len(left) == 0 {
		return text, nil, nil
	}
	var kept any = orders.Modes
	if key == StormsAnnotation {
		kept = orders.Storms
	}
	raw, err := json.Marshal(kept)
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", ErrOrders, err)
	}
	return string(raw), left, nil
}

// lowers reports whether the mode that was ordered does not make Aegis do more than the configuration has it do.
func (s *OrderStore) lowers(condition string, mode prom.Mode) bool {
	s.mu.Lock()
	modeOf := s.configured
	s.mu.Unlock()
	configured := prom.Mode("")
	if modeOf != nil {
		configured = modeOf(condition)
	}
	if configured == "" {
		return !mode.Acts()
	}
	return mode != prom.ModeAuto && !configured.Lower(mode)
}
