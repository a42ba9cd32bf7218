package sop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// PowerStateAnnotation is set on a Node by whoever can see its power supply, such as a BMC integration. The value off@ with the time at
// which the power was seen off is proof that nothing has run on the node since.
const PowerStateAnnotation = "aegis.io/power-state"

// machine is what can be seen of the node of an incident, past any cache where that matters.
type machine struct {
	*scene
	// leaseSeen is since when the Lease of the node shows the renewal leaseRenewed.
	leaseSeen, leaseRenewed time.Time
	// leaseWritten is when the API server took that renewal, zero where it does not tell.
	leaseWritten time.Time
}

// liveNode reads the node from the API server, past any cache.
func (m *machine) liveNode(ctx context.Context) (*corev1.Node, error) {
	node, err := m.services.Kube.CoreV1().Nodes().Get(ctx, m.node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, ticket.ErrNodeGone
	}
	if err != nil {
		return nil, fmt.Errorf("get node %s: %w", m.node, err)
	}
	if node.UID != m.journal.record.Node.UID {
		return nil, ticket.ErrRecreated
	}
	return node, nil
}

// currentBoot returns the boot that a healthcheck is to find: the node's own word, else the ticket's.
func (m *machine) currentBoot(ctx context.Context) string {
	node, err := m.liveNode(ctx)
	if err != nil {
		return m.journal.bootID()
	}
	return node.Status.NodeInfo.BootID
}

// nodeToWaitFor returns the node as the cache has it. Once the time is up the API server has the last word.
func (m *machine) nodeToWaitFor(ctx context.Context, late bool) (*corev1.Node, error) {
	cached, err := m.services.Nodes.Get(m.node)
	if err != nil {
		return nil, ticket.ErrNodeGone
	}
	if policy.IsReady(cached) || !late {
		return cached, nil
	}
	live, err := m.liveNode(ctx)
	switch {
	case errors.Is(err, ticket.ErrNodeGone), errors.Is(err, ticket.ErrRecreated):
		return nil, err
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return cached, nil //nolint:nilerr // Both know nothing better than the cache.
	}
	return live, nil
}

// leaseStale reports whether the kubelet has stopped renewing the Lease of the node: for a while, by our own clock, it has been
// the same. The clock of the node may be wrong.
func (m *machine) leaseStale(ctx context.Context) (bool, string) {
	lease, err := m.services.Kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, m.node, metav1.GetOptions{})
	if err != nil {
		return false, fmt.Sprintf("the Lease of the node cannot be read: %v", err)
	}
	if lease.Spec.RenewTime == nil {
		return false, "the Lease of the node has no renewal time"
	}
	if renewed := lease.Spec.RenewTime.Time; m.leaseSeen.IsZero() || !renewed.Equal(m.leaseRenewed) {
		m.leaseRenewed, m.leaseSeen = renewed, m.services.Clock.Now()
	}
	m.leaseWritten = time.Time{}
	for _, e := range lease.ManagedFields {
		if e.Time != nil && e.Time.After(m.leaseWritten) {
			m.leaseWritten = e.Time.Time
		}
	}
	age := m.services.Clock.Since(m.leaseSeen)
	text := fmt.Sprintf("the Lease of the node has not been renewed for %s", age.Round(time.Second))
	return age >= m.services.Timing.LeaseStale, text
}

// provenDown reports whether nothing can be running on the node: its power is reported off, its kubelet is not ready, and
// its Lease is not renewed. A node that is merely not ready may be cut off from the network and working.
func (m *machine) provenDown(ctx context.Context) (bool, string) {
	node, err := m.liveNode(ctx)
	if err != nil {
		return false, err.Error()
	}
	off, why := m.poweredOff(node)
	switch {
	case why != "":
		return false, why
	case policy.IsReady(node):
		return false, "the node is ready"
	}
	stale, why := m.leaseStale(ctx)
	if alive := m.lastAlive(node); stale && !off.After(alive) {
		// The proof is from before the node last gave a sign of life.
		return false, fmt.Sprintf("annotation %s says that the power was off at %s, but the node gave a sign of life at %s",
			PowerStateAnnotation, off.UTC().Format(time.RFC3339), alive.UTC().Format(time.RFC3339))
	}
	return stale, "its power is reported off, it is not ready, and " + why
}

// lastAlive returns when the node last gave a sign of life, by whichever clock says so latest: that of the node in its Lease, which may be far
// behind, that of the API server which took the renewal, and that of whoever has found since that the kubelet is silent.
func (m *machine) lastAlive(node *corev1.Node) time.Time {
	last := m.leaseRenewed
	if m.leaseWritten.After(last) {
		last = m.leaseWritten
	}
	for _, c := range node.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		if silent := c.LastTransitionTime.Add(-m.services.Timing.LeaseStale); silent.After(last) {
			last = silent
		}
	}
	return last
}

const (
	powerOff = "off"
	// mostAhead is by how much the clock of whoever watches the power may be ahead.
	mostAhead = time.Minute
)

// poweredOff returns when the power of the node was seen off, or why that is not known. Without a time in the value, it is that at which
// the API server took the annotation, provided that its writer has written nothing else to the node since.
func (m *machine) poweredOff(node *corev1.Node) (at time.Time, why string) {
	power := node.Annotations[PowerStateAnnotation]
	state, text, timed := strings.Cut(power, "@")
	if state != powerOff {
		return at, fmt.Sprintf("annotation %s is %.80q", PowerStateAnnotation, power)
	}
	if !timed {
		note := ticket.NoteOf(node, PowerStateAnnotation)
		if note.At.IsZero() || note.Cordons || note.Others {
			return at, fmt.Sprintf("nothing tells when annotation %s was set, want off@ and the time, such as off@2026-01-02T15:04:05Z", PowerStateAnnotation)
		}
		return note.At, ""
	}
	at, err := time.Parse(time.RFC3339, text)
	switch {
	case err != nil:
		return at, fmt.Sprintf("annotation %s is %.80q, want off@ and the time, such as off@2026-01-02T15:04:05Z", PowerStateAnnotation, power)
	case at.After(m.services.Clock.Now().Add(mostAhead)):
		return at, fmt.Sprintf("annotation %s is %.80q, a time that is to come", PowerStateAnnotation, power)
	}
	return at, ""
}

// awaitProvenDown waits until the node is proven down. A process that has just taken over has to watch its Lease for a while.
func (m *machine) awaitProvenDown(ctx context.Context) (why string, err error) {
	deadline := m.services.Clock.Now().Add(2 * m.services.Timing.LeaseStale)
	err = m.poll(ctx, func(ctx context.Context) (bool, error) {
		var down bool
		if down, why = m.provenDown(ctx); !down && m.services.Clock.Now().After(deadline) {
			return false, failed("no longer proven down: %s", why)
		}
		return down, nil
	})
	return why, err
}

// workloadPods lists the pods on the node that are workload and wanted, the critical ones last.
func (m *machine) workloadPods(ctx context.Context, wanted func(*corev1.Pod) bool) ([]corev1.Pod, error) {
	list, err := m.services.Kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.nodeName", m.node).String(),
	})
	if err != nil {
		return nil, fmt.Errorf("list pods of node %s: %w", m.node, err)
	}
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !isWorkload(&p, m.services.jobsNamespace()) || !wanted(&p) })
	slices.SortFunc(pods, func(x, y corev1.Pod) int {
		critical := map[bool]int{true: 1}
		return cmp.Or(critical[isCritical(&x)]-critical[isCritical(&y)],
			cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	return pods, nil
}

// gpusTaken reports whether every GPU of the node is held by a pod.
func (m *machine) gpusTaken(ctx context.Context) (bool, error) {
	node, err := m.liveNode(ctx)
	if err != nil {
		return false, err
	}
	pods, err := m.workloadPods(ctx, holdsGPU)
	if err != nil {
		return false, err
	}
	free := make(map[corev1.ResourceName]int64)
	for name, quantity := range node.Status.Allocatable {
		if isGPU(name) {
			free[name] = quantity.Value()
		}
	}
	for i := range pods {
		for _, c := range pods[i].Spec.Containers {
			for name, quantity := range c.Resources.Limits {
				free[name] -= quantity.Value()
			}
		}
	}
	for name, left := range free {
		if isGPU(name) && left > 0 {
			return false, nil
		}
	}
	return len(pods) > 0, nil
}
