package sop

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
)

// The marks of a node, for schedulers and device plugins that are to avoid what is broken. They say what is known, and change
// nothing by themselves.
const (
	// DeviceErrorsAnnotation maps the type of device to the devices in error, as JSON: {"gpu": ["0", "3"], "ib": "all"}.
	DeviceErrorsAnnotation = "aegis.io/device-errors"
	// LoadAffectedLabel is "true" while workload on the node suffers.
	LoadAffectedLabel = "aegis.io/load-affected"
)

// markAfter is how long a condition has to be known before it is marked. By then a rule that is wrong has shown on how many nodes it is.
const markAfter = 30 * time.Second

// knownSince holds since when this process knows each condition. When one began does not count: Alertmanager waits before it tells of
// a group, and then tells of the nodes one after the other.
type knownSince map[prom.Key]time.Time

// lasting reports whether the condition has been known for long enough.
func (s knownSince) lasting(k prom.Key, now time.Time) bool {
	since, known := s[k]
	return known && now.Sub(since) >= markAfter
}

// allDevices stands for every device of a type.
const allDevices = "all"

// marks are what a node says of its devices.
type marks struct {
	devices  map[string][]string
	affected bool
}

// keepMarks keeps the marks of all nodes true. It writes only what has changed, and only while this process leads.
func (d *Dispatcher) keepMarks(ctx context.Context) error {
	var seen knownSince
	for sleep(ctx, d.services.Clock, d.services.Timing.Hold) == nil {
		nodes, err := d.services.Nodes.List(labels.Everything())
		if err != nil {
			d.services.Logger.ErrorContext(ctx, "nodes not listed, marks not written", "err", err)
			continue
		}
		seen = d.learnStatuses(nodes, seen)
		for _, node := range nodes {
			if err := d.mark(ctx, node, seen); err != nil && ctx.Err() == nil {
				d.services.Logger.WarnContext(ctx, "node not marked, trying again", "node", node.Name, "err", err)
			}
		}
	}
	return nil
}

// learnStatuses returns since when each condition of the nodes is known, which it was before or is now.
func (d *Dispatcher) learnStatuses(nodes []*corev1.Node, before knownSince) knownSince {
	seen := make(knownSince)
	for _, node := range nodes {
		for _, s := range d.services.Conditions.Statuses(node.Name) {
			since, known := before[s.Key()]
			if !known {
				since = d.services.Clock.Now()
			}
			seen[s.Key()] = since
		}
	}
	return seen
}

// mark writes the marks of one node, unless it has them.
func (d *Dispatcher) mark(ctx context.Context, node *corev1.Node, seen knownSince) error {
	if policy.Excluded(node) || policy.IsControlPlane(node) && !d.services.Settings().ManageControlPlane {
		return nil
	}
	node = d.latest(node)
	want, text, err := d.changed(node, seen)
	if text == nil || err != nil {
		return err
	}
	// What is about to be written may be the beginning of a storm that nobody has noticed yet.
	d.storms.look()
	if want, text, err = d.changed(node, seen); text == nil || err != nil {
		return err
	}
	// The UID is a precondition: another machine may have the name by now.
	patch := map[string]any{"metadata": map[string]any{
		"uid":         node.UID,
		"annotations": map[string]any{DeviceErrorsAnnotation: orNull(*text)},
		"labels":      map[string]any{LoadAffectedLabel: orNull(map[bool]string{true: "true"}[want.affected])},
	}}
	body, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encode marks: %w", err)
	}
	marked, err := d.services.Kube.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: "aegis"})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write marks: %w", err)
	}
	d.wrote(marked)
	d.services.Logger.InfoContext(ctx, "node marked", "node", node.Name, "device_errors", *text, "load_affected", want.affected)
	return nil
}

// changed returns the marks that the node is to have and has not. The text is nil when it has them.
func (d *Dispatcher) changed(node *corev1.Node, seen knownSince) (marks, *string, error) {
	want := d.marksOf(node, seen)
	text, err := want.text()
	same := node.Annotations[DeviceErrorsAnnotation] == text && (node.Labels[LoadAffectedLabel] == "true") == want.affected
	if err != nil || same {
		return want, nil, err
	}
	return want, &text, nil
}

// orNull removes what is empty from the node.
func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// marksOf returns the marks that the node is to have.
func (d *Dispatcher) marksOf(node *corev1.Node, seen knownSince) marks {
	pool := d.services.Settings().PoolOf(node).Name
	now := parseMarks(node)
	want := marks{devices: make(map[string][]string)}
	for _, s := range d.services.statuses(node.Name) {
		// A cordon is no fault.
		noFault := prom.BandOf(s.Priority) == prom.BandMustIgnore || prom.BandOf(s.Priority) == prom.BandCordon
		if s.Contested || noFault || !s.Policy.Mode.Acts() || d.storms.holds(s.Condition, pool) != "" {
			continue
		}
		ids := devicesOf(s)
		// A mark needs the word of the sources. One that is there stays until the condition is gone, also while they are silent.
		known := now.has(s.Type, ids) || len(ids) == 0 && s.AffectsLoad && now.affected
		if !known && (!seen.lasting(s.Key(), d.services.Clock.Now()) || policy.Judge(d.services.Source.Last(s.Key())).Name != policy.VerdictExecute) {
			continue
		}
		want.add(s.Type, ids)
		want.affected = want.affected || s.AffectsLoad
	}
	return want
}

// devicesOf names the devices that the status is about. Empty means that it is about none.
func devicesOf(s prom.AegisNodeStatus) []string {
	switch {
	case s.DeviceMode == prom.DeviceNone:
		return nil
	case s.DeviceMode == prom.DeviceAll, s.ID == "":
		return []string{allDevices}
	case s.DeviceMode == prom.DeviceMask:
		return devicesOfMask(s.ID)
	}
	return []string{s.ID}
}

// devicesOfMask returns the positions of the ones, from 0. What is no mask stands for all devices.
func devicesOfMask(mask string) []string {
	var ids []string
	for k, bit := range mask {
		switch bit {
		case '1':
			ids = append(ids, strconv.Itoa(k))
		case '0':
		default:
			return []string{allDevices}
		}
	}
	if ids == nil {
		return []string{allDevices}
	}
	return ids
}

func (m marks) add(kind string, ids []string) {
	for _, id := range ids {
		if !slices.Contains(m.devices[kind], id) {
			m.devices[kind] = append(m.devices[kind], id)
		}
	}
}

// has reports whether the marks name all the devices.
func (m marks) has(kind string, ids []string) bool {
	marked := m.devices[kind]
	if len(ids) == 0 || len(marked) == 0 {
		return false
	}
	return slices.Contains(marked, allDevices) || !slices.ContainsFunc(ids, func(id string) bool { return !slices.Contains(marked, id) })
}

// text returns the annotation, empty when no device is in error.
func (m marks) text() (string, error) {
	if len(m.devices) == 0 {
		return "", nil
	}
	out := make(map[string]any, len(m.devices))
	for kind, ids := range m.devices {
		if slices.Contains(ids, allDevices) {
			out[kind] = allDevices
			continue
		}
		slices.Sort(ids)
		out[kind] = ids
	}
	text, err := json.Marshal(out)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", DeviceErrorsAnnotation, err)
	}
	return string(text), nil
}

// parseMarks reads the marks of a node. What cannot be read is written anew.
func parseMarks(node *corev1.Node) marks {
	m := marks{devices: make(map[string][]string), affected: node.Labels[LoadAffectedLabel] == "true"}
	var raw map[string]json.RawMessage
	if json.Unmarshal([]byte(node.Annotations[DeviceErrorsAnnotation]), &raw) != nil {
		return m
	}
	for kind, value := range raw {
		var ids []string
		if json.Unmarshal(value, &ids) != nil {
			ids = []string{allDevices}
		}
		m.devices[kind] = ids
	}
	return m
}
