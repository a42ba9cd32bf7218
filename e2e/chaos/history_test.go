package chaos

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/ticket"
)

// version is a Node as one write has left it.
type version struct {
	at       time.Time
	revision uint64
	// byAegis says who wrote it, patch what was asked for.
	byAegis bool
	patch   []byte
	node    *corev1.Node
	record  ticket.Record
}

func (v version) own() bool {
	note := v.node.Annotations[ticket.OwnerAnnotation]
	return v.node.Spec.Unschedulable && len(note) > len(ticket.Self) && note[:len(ticket.Self)+1] == ticket.Self+"/"
}

func (v version) cordonedByPeople() bool { return v.node.Spec.Unschedulable && !v.own() }

func (v version) excluded() bool { return v.node.Labels[disableLabel] == "true" }

func (v version) withPeople() bool {
	t := v.record.Ticket
	return v.record.Broken != nil || t != nil && t.Open() && !t.Owned()
}

func (v version) ready() bool {
	for _, c := range v.node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (v version) outOfService() bool { return v.node.Spec.Unschedulable || !v.ready() }

// sets reports whether the patch of Aegis asks for that value of spec.unschedulable.
func (v version) sets(unschedulable bool) bool {
	var operations []struct {
		Op, Path string
		Value    any
	}
	if !v.byAegis || json.Unmarshal(v.patch, &operations) != nil {
		return false
	}
	for _, o := range operations {
		if o.Op != "test" && o.Path == "/spec/unschedulable" && o.Value == unschedulable {
			return true
		}
	}
	return false
}

// act is something that Aegis did to what runs on a node.
type act struct {
	at   time.Time
	node string
	// what is the action of a Job, or eviction; name is that of the Job or the pod.
	what, name string
	// incident and attempt are those of a Job.
	incident, attempt string
}

// destructive reports whether the act may destroy running work.
func (a act) destructive() bool { return a.what != "healthcheck" && a.what != "diagnose" }

// history is what the API server says that happened.
type history struct {
	// all holds the versions of all nodes in their order, nodes those of each.
	all   []version
	nodes map[string][]version
	acts  []act
	// withdrawn are when Aegis deleted Jobs, by their names.
	withdrawn map[string][]time.Time
	// denied are the requests for which Aegis has no right.
	denied []cluster.AuditEvent
}

// readHistory makes a history of the audit log. Where the API server was killed the log may lack a write, but the next
// version of the node shows what it did.
func readHistory(t *testing.T, events []cluster.AuditEvent, places *podPlaces) history {
	t.Helper()
	h := history{nodes: make(map[string][]version), withdrawn: make(map[string][]time.Time)}
	for i := range events {
		e := &events[i]
		byAegis := e.User == cluster.AegisUser
		switch {
		case byAegis && e.Code == http.StatusForbidden:
			h.denied = append(h.denied, *e)
		case e.Code/100 != 2 || e.DryRun:
		case e.Resource == "nodes" && e.Response != nil && e.Verb != "delete":
			h.all = append(h.all, readVersion(t, e, byAegis))
		case byAegis && e.Verb == "delete" && e.Resource == "jobs":
			h.withdrawn[e.Name] = append(h.withdrawn[e.Name], e.At)
		case byAegis && e.Verb == "create":
			h.readAct(t, e, places)
		}
	}
	slices.SortStableFunc(h.all, func(a, b version) int { return cmp.Compare(a.revision, b.revision) })
	for _, v := range h.all {
		h.nodes[v.node.Name] = append(h.nodes[v.node.Name], v)
	}
	return h
}

// readAct adds what the creation of an object does to a node, if it does anything.
func (h *history) readAct(t *testing.T, e *cluster.AuditEvent, places *podPlaces) {
	t.Helper()
	switch {
	case e.Resource == "jobs":
		h.acts = append(h.acts, readJob(t, e))
	case e.Resource == "pods" && e.Subresource == "eviction":
		h.acts = append(h.acts, act{at: e.At, node: places.of(e.Namespace, e.Name), what: "eviction", name: e.Name})
	}
}

func readVersion(t *testing.T, e *cluster.AuditEvent, byAegis bool) version {
	t.Helper()
	v := version{at: e.At, byAegis: byAegis, patch: e.Request, node: &corev1.Node{}}
	require.NoError(t, json.Unmarshal(e.Response, v.node))
	var err error
	v.revision, err = strconv.ParseUint(v.node.ResourceVersion, 10, 64)
	require.NoError(t, err)
	v.record = ticket.ReadNode(v.node)
	return v
}

func readJob(t *testing.T, e *cluster.AuditEvent) act {
	t.Helper()
	var job batchv1.Job
	require.NoError(t, json.Unmarshal(e.Request, &job))
	return act{
		at: e.At, node: job.Annotations["aegis.io/node"], what: job.Labels["aegis.io/action"], name: job.Name,
		incident: job.Labels["aegis.io/incident"], attempt: job.Labels["aegis.io/attempt"],
	}
}

// since returns from when on the node has been so at that time, without a break.
func (h history) since(node string, at time.Time, so func(version) bool) (time.Time, bool) {
	var from time.Time
	holds := false
	for _, v := range h.nodes[node] {
		if v.at.After(at) {
			break
		}
		if !so(v) {
			holds = false
			continue
		}
		if !holds {
			from, holds = v.at, true
		}
	}
	return from, holds
}

// podPlaces remembers on which node each pod was.
type podPlaces struct {
	mu    sync.Mutex
	nodes map[string]string
}

func (p *podPlaces) of(namespace, name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nodes[namespace+"/"+name]
}

func (p *podPlaces) note(object any) {
	pod, ok := object.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nodes[pod.Namespace+"/"+pod.Name] = pod.Spec.NodeName
}

func watchPods(t *testing.T, client kubernetes.Interface) *podPlaces {
	t.Helper()
	p := &podPlaces{nodes: make(map[string]string)}
	factory := informers.NewSharedInformerFactory(client, 0)
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: p.note, UpdateFunc: func(_, now any) { p.note(now) },
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	return p
}
