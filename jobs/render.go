package jobs

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The labels that say which request a Job was made for, and the annotation with the node's name in full.
const (
	labelAction    = "aegis.io/action"
	labelNode      = "aegis.io/node"
	labelIncident  = "aegis.io/incident"
	labelAttempt   = "aegis.io/attempt"
	annotationNode = "aegis.io/node"
)

// RenderOptions holds what the Jobs of one installation have in common.
type RenderOptions struct {
	// Namespace is where the Job goes.
	Namespace string
	// Image runs the operation, unless the template names one of its own. Empty leaves the template as it is.
	Image string
	// ServiceAccount is the pod's, unless the template names one of its own. Empty leaves the template as it is.
	ServiceAccount string
}

// Render returns the Job for the request. Everything is set on a copy of the decoded template, so that a value can only
// ever be a value, whatever it holds.
func (t *Templates) Render(r Request, o RenderOptions) (*batchv1.Job, error) {
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("render job: %w", err)
	}
	job := t.byAction[r.Action].DeepCopy()
	labels := identity(r)
	// Anew, because a template that was exported from a cluster has a UID, an owner and more.
	job.ObjectMeta = metav1.ObjectMeta{
		Name:        r.Name(),
		Namespace:   o.Namespace,
		Labels:      merged(job.Labels, labels),
		Annotations: merged(job.Annotations, map[string]string{annotationNode: r.Node}),
	}
	job.Status = batchv1.JobStatus{}
	if r.Deadline > 0 {
		job.Spec.ActiveDeadlineSeconds = new(seconds(r.Deadline))
	}
	pod := &job.Spec.Template
	pod.Labels = merged(pod.Labels, labels)
	pod.Annotations = merged(pod.Annotations, map[string]string{annotationNode: r.Node})
	renderPod(&pod.Spec, r, o)
	return job, nil
}

func renderPod(pod *corev1.PodSpec, r Request, o RenderOptions) {
	pod.NodeName = r.Node
	if o.ServiceAccount != "" && pod.ServiceAccountName == placeholderServiceAccount {
		pod.ServiceAccountName = o.ServiceAccount
	}
	op := opContainer(pod)
	if o.Image != "" && op.Image == placeholderImage {
		op.Image = o.Image
	}
	for _, arg := range r.Args {
		op.Args = append(op.Args, literal(arg))
	}
	setEnv(op, "NODE_NAME", r.Node)
	setEnv(op, "AEGIS_HOST_ROOT", "/host")
	if !r.NotAfter.IsZero() {
		setEnv(op, protocol.NotAfterVariable, r.NotAfter.UTC().Format(time.RFC3339))
	}
}

// identity returns the labels that tell the Jobs of two requests apart.
func identity(r Request) map[string]string {
	return map[string]string{
		labelAction:   labelValue(r.Action),
		labelNode:     labelValue(r.Node),
		labelIncident: labelValue(r.Incident),
		labelAttempt:  strconv.Itoa(r.Attempt),
	}
}

// literal keeps the kubelet from expanding $(NAME) in an argument: it reads two dollar signs as one.
func literal(arg string) string {
	return strings.ReplaceAll(arg, "$", "$$")
}

// seconds rounds up: a deadline must not become no time at all.
func seconds(d time.Duration) int64 {
	return int64((d-1)/time.Second) + 1
}

func setEnv(c *corev1.Container, name, value string) {
	for i := range c.Env {
		if c.Env[i].Name == name {
			c.Env[i] = corev1.EnvVar{Name: name, Value: value}
			return
		}
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: value})
}

// merged returns a new map; over wins.
func merged(base, over map[string]string) map[string]string {
	m := make(map[string]string, len(base)+len(over))
	maps.Copy(m, base)
	maps.Copy(m, over)
	return m
}
