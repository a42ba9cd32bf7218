package soptest

import (
	"regexp"

	corev1 "k8s.io/api/core/v1"
)

// moment is what waits until a process has made a number of calls about a node, or has journaled there that a step runs.
type moment struct {
	verb  Verb
	calls int
	step  *regexp.Regexp
	do    func()
}

// AfterCall has something happen right after the n-th call from now with the verb about the node: once it was answered, and before
// the process can do anything about it.
func (c *Cluster) AfterCall(node string, verb Verb, n int, do func()) {
	c.held()
	c.moments[node] = append(c.moments[node], &moment{verb: verb, calls: n, do: do})
}

// AfterStep has something happen right after the next step of the action on the node has been journaled.
func (c *Cluster) AfterStep(node, action string, do func()) {
	c.held()
	c.moments[node] = append(c.moments[node], &moment{step: running(action), do: do})
}

// ForgetMoments drops what AfterCall and AfterStep wait for.
func (c *Cluster) ForgetMoments() { clear(c.moments) }

// called lets happen what waits for the call.
func (c *Cluster) called(call Call) {
	for _, m := range c.moments[call.Name] {
		if m.verb != call.Verb {
			continue
		}
		if m.calls--; m.calls == 0 {
			m.do()
		}
	}
}

// journaled lets happen what waits for the step that the write has begun.
func (c *Cluster) journaled(before, after *corev1.Node) {
	for _, m := range c.moments[after.Name] {
		if m.step != nil && underway(after, m.step) && !underway(before, m.step) {
			m.step = nil
			m.do()
		}
	}
}

// running matches a ticket that shows a step of the action as running.
func running(action string) *regexp.Regexp {
	return regexp.MustCompile(`(?m)^\s*- action: ` + regexp.QuoteMeta(action) + `\n\s+status: Running$`)
}

func underway(node *corev1.Node, step *regexp.Regexp) bool {
	return step.MatchString(node.Annotations[TicketAnnotation])
}
