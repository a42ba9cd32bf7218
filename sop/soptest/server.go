package soptest

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	policyclient "k8s.io/client-go/kubernetes/typed/policy/v1"
)

// What the API server does for the calls that the product makes.

// CoreV1 reaches nodes and pods.
func (c *Client) CoreV1() coreclient.CoreV1Interface { return core{c: c} }

// PolicyV1 reaches evictions and disruption budgets.
func (c *Client) PolicyV1() policyclient.PolicyV1Interface { return policy{c: c} }

// CoordinationV1 reaches Leases.
func (c *Client) CoordinationV1() coordinationclient.CoordinationV1Interface {
	return coordination{c: c}
}

type core struct {
	coreclient.CoreV1Interface
	c *Client
}

func (c core) Nodes() coreclient.NodeInterface { return nodes{c: c.c} }
func (c core) Pods(namespace string) coreclient.PodInterface {
	return pods{c: c.c, namespace: namespace}
}

type nodes struct {
	coreclient.NodeInterface
	c *Client
}

func (n nodes) Get(ctx context.Context, name string, _ metav1.GetOptions) (node *corev1.Node, err error) {
	err = n.c.call(ctx, Call{Verb: VerbGet, Resource: "nodes", Name: name}, func(time.Time) error {
		if node = n.c.cluster.Nodes[name]; node == nil {
			return apierrors.NewNotFound(corev1.Resource("nodes"), name)
		}
		return nil
	})
	return node, err
}

func (n nodes) Patch(ctx context.Context, name string, kind types.PatchType, body []byte, _ metav1.PatchOptions, _ ...string) (
	node *corev1.Node, err error,
) {
	err = n.c.call(ctx, Call{Verb: VerbPatch, Resource: "nodes", Name: name, Patch: kind}, func(sent time.Time) error {
		node, err = n.c.patchNode(name, kind, body, sent)
		return err
	})
	if err == nil && n.c.cluster.Observer.NodeAnswered != nil {
		n.c.cluster.Do(func() { n.c.cluster.Observer.NodeAnswered(n.c, node) })
	}
	return node, err
}

// patchNode applies a patch as the API server does, to which a failed test is an invalid request.
func (c *Client) patchNode(name string, kind types.PatchType, body []byte, sent time.Time) (*corev1.Node, error) {
	before := c.cluster.Nodes[name]
	if before == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("nodes"), name)
	}
	after, err := patchedNode(before, kind, body)
	switch {
	case apierrors.IsInvalid(err):
		c.cluster.Logf("p%d patch %s conflicts: %v", c.ID, name, err)
		return nil, err
	case err != nil:
		return nil, err
	case after.UID != before.UID:
		return nil, apierrors.NewConflict(corev1.Resource("nodes"), name, errors.New("it is another node"))
	}
	c.tell(kind, before, after, sent)
	manage(before, after, ManagerAegis)
	c.cluster.put(after)
	c.cluster.journaled(before, after)
	return after, nil
}

// tell lets the observer judge a patch before it takes effect.
func (c *Client) tell(kind types.PatchType, before, after *corev1.Node, sent time.Time) {
	o := c.cluster.Observer
	switch {
	case kind == types.MergePatchType && o.NodeMerged != nil:
		o.NodeMerged(c, before, after)
	case kind == types.JSONPatchType && o.NodeWritten != nil:
		o.NodeWritten(c, before, after, sent)
	}
}

// patchedNode returns what the patch makes of the node, through the versioned JSON as the API server does.
func patchedNode(before *corev1.Node, kind types.PatchType, body []byte) (*corev1.Node, error) {
	text, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	if text, err = patched(text, kind, body); err != nil {
		return nil, err
	}
	after := new(corev1.Node)
	return after, json.Unmarshal(text, after)
}

// patched applies the patch to an object.
func patched(object []byte, kind types.PatchType, body []byte) ([]byte, error) {
	if kind == types.MergePatchType {
		after, err := jsonpatch.MergePatch(object, body)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return after, nil
	}
	patch, err := jsonpatch.DecodePatch(body)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	after, err := patch.Apply(object)
	if err != nil {
		invalid := apierrors.NewInvalid(schema.GroupKind{Kind: "Node"}, "", nil)
		invalid.ErrStatus.Message = err.Error()
		return nil, invalid
	}
	return after, nil
}

type pods struct {
	coreclient.PodInterface
	c         *Client
	namespace string
}

func (p pods) Get(ctx context.Context, name string, _ metav1.GetOptions) (pod *corev1.Pod, err error) {
	err = p.c.call(ctx, Call{Verb: VerbGet, Resource: "pods", Name: p.nodeOf(name)}, func(time.Time) error {
		pod, err = p.find(name)
		return err
	})
	return pod, err
}

func (p pods) List(ctx context.Context, o metav1.ListOptions) (list *corev1.PodList, err error) {
	field, err := fields.ParseSelector(o.FieldSelector)
	if err != nil {
		return nil, err
	}
	label, err := labels.Parse(o.LabelSelector)
	if err != nil {
		return nil, err
	}
	node, bound := field.RequiresExactMatch("spec.nodeName")
	about := node
	if job, ofJob := label.RequiresExactMatch(batchv1.JobNameLabel); ofJob {
		about = p.c.cluster.aboutJob(job)
	}
	err = p.c.call(ctx, Call{Verb: VerbList, Resource: "pods", Name: about}, func(time.Time) error {
		list = &corev1.PodList{}
		for _, key := range slices.Sorted(maps.Keys(p.c.cluster.Pods)) {
			pod := p.c.cluster.Pods[key]
			in := p.namespace == "" || p.namespace == pod.Namespace
			if in && (!bound || pod.Spec.NodeName == node) && label.Matches(labels.Set(pod.Labels)) {
				list.Items = append(list.Items, *pod)
			}
		}
		return nil
	})
	return list, err
}

// Delete ends a pod. If it is that of a DaemonSet, that replaces it.
func (p pods) Delete(ctx context.Context, name string, o metav1.DeleteOptions) error {
	return p.c.call(ctx, Call{Verb: VerbDelete, Resource: "pods", Name: p.nodeOf(name)}, func(time.Time) error {
		pod, err := p.doomed(name, o)
		if err != nil {
			return err
		}
		if p.c.cluster.Observer.PodDeleted != nil {
			p.c.cluster.Observer.PodDeleted(p.c, pod)
		}
		p.c.cluster.DeletePod(pod.Namespace, name)
		if isDaemon(pod) {
			p.c.cluster.ReplacePod(pod.Spec.NodeName)
		}
		return nil
	})
}

// doomed returns the pod that the options let go.
func (p pods) doomed(name string, o metav1.DeleteOptions) (*corev1.Pod, error) {
	pod, err := p.find(name)
	if err != nil {
		return nil, err
	}
	if o.Preconditions != nil && o.Preconditions.UID != nil && *o.Preconditions.UID != pod.UID {
		return nil, apierrors.NewConflict(corev1.Resource("pods"), name, errors.New("another pod has the name"))
	}
	return pod, nil
}

func (p pods) find(name string) (*corev1.Pod, error) {
	pod, found := p.c.cluster.Pods[podKey(p.namespace, name)]
	if !found {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	return pod, nil
}

// nodeOf returns the node of the pod, empty when there is no such pod.
func (p pods) nodeOf(name string) (node string) {
	p.c.cluster.Do(func() {
		if pod, err := p.find(name); err == nil {
			node = pod.Spec.NodeName
		}
	})
	return node
}

type policy struct {
	policyclient.PolicyV1Interface
	c *Client
}

func (p policy) Evictions(namespace string) policyclient.EvictionInterface {
	return evictions{pods: pods{c: p.c, namespace: namespace}}
}

func (p policy) PodDisruptionBudgets(namespace string) policyclient.PodDisruptionBudgetInterface {
	return budgets{c: p.c, namespace: namespace}
}

type evictions struct {
	policyclient.EvictionInterface
	pods pods
}

// Evict ends a pod at once, unless a disruption budget holds it.
func (e evictions) Evict(ctx context.Context, eviction *policyv1.Eviction) error {
	c := e.pods.c
	return c.call(ctx, Call{Verb: VerbEvict, Resource: "pods", Name: e.pods.nodeOf(eviction.Name)}, func(time.Time) error {
		options := metav1.DeleteOptions{}
		if eviction.DeleteOptions != nil {
			options = *eviction.DeleteOptions
		}
		pod, err := e.pods.doomed(eviction.Name, options)
		switch {
		case err != nil:
			return err
		case pod.Labels[HeldLabel] != "":
			return apierrors.NewTooManyRequests("the disruption budget needs it", 1)
		}
		if c.cluster.Observer.PodEvicted != nil {
			c.cluster.Observer.PodEvicted(c, pod)
		}
		c.cluster.DeletePod(pod.Namespace, pod.Name)
		return nil
	})
}

type budgets struct {
	policyclient.PodDisruptionBudgetInterface
	c         *Client
	namespace string
}

func (b budgets) List(ctx context.Context, _ metav1.ListOptions) (list *policyv1.PodDisruptionBudgetList, err error) {
	err = b.c.call(ctx, Call{Verb: VerbList, Resource: "poddisruptionbudgets", Name: ""}, func(time.Time) error {
		list = &policyv1.PodDisruptionBudgetList{}
		for i := range b.c.cluster.Budgets {
			if budget := &b.c.cluster.Budgets[i]; b.namespace == "" || budget.Namespace == b.namespace {
				list.Items = append(list.Items, *budget.DeepCopy())
			}
		}
		return nil
	})
	return list, err
}

type coordination struct {
	coordinationclient.CoordinationV1Interface
	c        *Client
	election bool
}

func (c coordination) Leases(string) coordinationclient.LeaseInterface {
	return leases{c: c.c, election: c.election}
}

// Election reaches the Leases as an elector does. What it reads of orders there, nobody learns.
func (c *Client) Election() coordinationclient.LeasesGetter {
	return coordination{c: c, election: true}
}

type leases struct {
	coordinationclient.LeaseInterface
	c        *Client
	election bool
}

// Get returns the Lease of the election, or that of a node, which its kubelet renews while it is ready.
func (l leases) Get(ctx context.Context, name string, _ metav1.GetOptions) (lease *coordinationv1.Lease, err error) {
	c := l.c.cluster
	err = l.c.call(ctx, Call{Verb: VerbGet, Resource: "leases", Name: l.about(name)}, func(time.Time) error {
		lease, err = c.lease(name)
		return err
	})
	if err == nil && name == c.options.Election && !l.election && c.Observer.LeaseRead != nil {
		c.Do(func() { c.Observer.LeaseRead(l.c, lease) })
	}
	return lease, err
}

// about names the calls about a Lease. Those of an elector are of a kind of their own: it may be cut off for itself.
func (l leases) about(name string) string {
	if l.election {
		return "election"
	}
	return name
}

func (c *Cluster) lease(name string) (*coordinationv1.Lease, error) {
	if name == c.options.Election && c.Lease != nil {
		return c.Lease.DeepCopy(), nil
	}
	if lease := c.NodeLeases[name]; lease != nil {
		return lease.DeepCopy(), nil
	}
	node := c.Nodes[name]
	if node == nil {
		return nil, apierrors.NewNotFound(coordinationv1.Resource("leases"), name)
	}
	renewed := time.Now()
	if since, silent := c.silentSince[name]; silent {
		renewed = since
	}
	return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: renewed}}}, nil
}

// Create makes the Lease of the election, where nobody has.
func (l leases) Create(ctx context.Context, want *coordinationv1.Lease, _ metav1.CreateOptions) (lease *coordinationv1.Lease, err error) {
	c := l.c.cluster
	err = l.c.call(ctx, Call{Verb: VerbCreate, Resource: "leases", Name: l.about(want.Name)}, func(time.Time) error {
		if c.Lease != nil {
			return apierrors.NewAlreadyExists(coordinationv1.Resource("leases"), want.Name)
		}
		made := want.DeepCopy()
		made.UID = types.UID("lease-" + versionText(c.version))
		c.putLease(made)
		lease = c.Lease.DeepCopy()
		return nil
	})
	return lease, err
}

// Update writes the Lease of the election, if it is meant for the present version.
func (l leases) Update(ctx context.Context, want *coordinationv1.Lease, _ metav1.UpdateOptions) (lease *coordinationv1.Lease, err error) {
	c := l.c.cluster
	err = l.c.call(ctx, Call{Verb: VerbUpdate, Resource: "leases", Name: l.about(want.Name)}, func(time.Time) error {
		switch {
		case c.Lease == nil:
			return apierrors.NewNotFound(coordinationv1.Resource("leases"), want.Name)
		case want.ResourceVersion != c.Lease.ResourceVersion, want.UID != c.Lease.UID:
			return apierrors.NewConflict(coordinationv1.Resource("leases"), want.Name, errors.New("it has changed"))
		}
		c.putLease(want.DeepCopy())
		lease = c.Lease.DeepCopy()
		return nil
	})
	return lease, err
}

// Patch writes orders on the Lease of the election.
func (l leases) Patch(ctx context.Context, name string, kind types.PatchType, body []byte, _ metav1.PatchOptions, _ ...string) (
	lease *coordinationv1.Lease, err error,
) {
	err = l.c.call(ctx, Call{Verb: VerbPatch, Resource: "leases", Name: name, Patch: kind}, func(time.Time) error {
		lease, err = l.c.cluster.patchLease(body)
		return err
	})
	return lease, err
}

// patchLease applies a merge patch to the Lease of the election, if it is meant for the present version.
func (c *Cluster) patchLease(body []byte) (*coordinationv1.Lease, error) {
	if c.Lease == nil {
		return nil, apierrors.NewNotFound(coordinationv1.Resource("leases"), c.options.Election)
	}
	var patch coordinationv1.Lease
	if err := json.Unmarshal(body, &patch); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if patch.ResourceVersion != c.Lease.ResourceVersion {
		return nil, apierrors.NewConflict(coordinationv1.Resource("leases"), c.Lease.Name, errors.New("it has changed"))
	}
	before, err := json.Marshal(c.Lease)
	if err != nil {
		return nil, err
	}
	after, err := patched(before, types.MergePatchType, body)
	if err != nil {
		return nil, err
	}
	lease := new(coordinationv1.Lease)
	if err := json.Unmarshal(after, lease); err != nil {
		return nil, err
	}
	c.putLease(lease)
	return lease.DeepCopy(), nil
}
