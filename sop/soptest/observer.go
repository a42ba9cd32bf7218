package soptest

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/rules/prom"
)

// Observer is told what happens in a cluster, at the moment in which it does and with the lock held. It is how a test judges every
// write, whoever made it. What is nil is not told.
type Observer struct {
	// NodeChanged is told what a node has become, whoever wrote it. Before is nil for a new node.
	NodeChanged func(before, after *corev1.Node)
	// NodeDeleted is told of a node that leaves the cluster.
	NodeDeleted func(node *corev1.Node)
	// NodeWritten is told of a JSON patch by a client before it takes effect, and when it was sent; NodeMerged of a merge patch.
	NodeWritten func(by *Client, before, after *corev1.Node, sent time.Time)
	NodeMerged  func(by *Client, before, after *corev1.Node)
	// NodeAnswered is told of the answer to a write of a node that reaches the client.
	NodeAnswered func(by *Client, node *corev1.Node)
	// PodDeleted and PodEvicted are told of a pod that a client ends, before it goes.
	PodDeleted, PodEvicted func(by *Client, pod *corev1.Pod)
	// PodReplaced is called once the DaemonSet has replaced a deleted pod on the node, and the new one is ready.
	PodReplaced func(node string)
	// JobOrdered is told of a Job that a client makes, before it is there; JobEnded how one ended by itself.
	JobOrdered func(by *Client, r jobs.Request)
	JobEnded   func(job *Job)
	// JobForgotten is told of a Job of the product's own runner that is gone, with what was known of it.
	JobForgotten func(job *Job)
	// LeaseChanged is told what the Lease of the election was and has become, nil where there is none; LeaseRead what a client has read of
	// it, other than an elector.
	LeaseChanged func(before, after *coordinationv1.Lease)
	LeaseRead    func(by *Client, lease *coordinationv1.Lease)
	// Called is told of every call of a client that has taken effect.
	Called func(by *Client)
	// FaultChanged is told that a condition has come to hold, or holds no more.
	FaultChanged func(key prom.Key, holds bool)
	// Webhook is told what Alertmanager sends.
	Webhook func(key prom.Key, startsAt time.Time, firing bool)
	// Answered is told what a source says of a condition in an answer: nothing, or an alert.
	Answered func(by *Client, from SourceKind, key prom.Key, alert *prom.Alert)
}
