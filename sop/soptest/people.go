package soptest

import (
	"maps"
	"regexp"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What the product writes on a Node, as people see it.
const (
	// TicketAnnotation holds the open ticket, HistoryAnnotation the past incidents, OwnerAnnotation who has cordoned the node.
	TicketAnnotation  = "aegis.io/ticketing"
	HistoryAnnotation = "aegis.io/ticket-history"
	OwnerAnnotation   = "aegis.io/cordoned-by"
	// RecordAnnotation holds what proves the ticket.
	RecordAnnotation = "aegis.io/record"
	// CheckAnnotation asks for a check of the node.
	CheckAnnotation = "aegis.io/check"
	// PowerAnnotation is where somebody who can see the power supply says whether it is on.
	PowerAnnotation = "aegis.io/power-state"
	// DisableLabel is on nodes that Aegis is to leave alone.
	DisableLabel = "aegis.io/disable"
)

// supervisor is the line of a ticket that says whose it is.
var supervisor = regexp.MustCompile(`(?m)^supervisor: .*$`)

// annotate sets an annotation of the node.
func annotate(node *corev1.Node, key, value string) {
	node.Annotations = cloned(node.Annotations)
	node.Annotations[key] = value
}

// refuse takes back what an admission policy keeps everybody but the product from writing, where the cluster has one.
func (c *Cluster) refuse(before, after *corev1.Node) {
	for _, key := range []string{RecordAnnotation, HistoryAnnotation} {
		was, found := before.Annotations[key]
		if is, stays := after.Annotations[key]; is == was && stays == found {
			continue
		}
		c.Logf("the admission policy refuses a change of %s on %s", key, after.Name)
		after.Annotations = cloned(after.Annotations)
		if after.Annotations[key] = was; !found {
			delete(after.Annotations, key)
		}
	}
}

// cloned returns a copy that can be written to.
func cloned(m map[string]string) map[string]string {
	if m == nil {
		return make(map[string]string)
	}
	return maps.Clone(m)
}

// Cordoned reports whether the node is there and unschedulable.
func (c *Cluster) Cordoned(name string) bool {
	return c.Nodes[name] != nil && c.Nodes[name].Spec.Unschedulable
}

// Cordon has a person cordon a node. It reports whether that changed anything, as all of the following do.
func (c *Cluster) Cordon(name string) bool {
	if c.Nodes[name] == nil || c.Cordoned(name) {
		return false
	}
	c.Logf("person cordons %s", name)
	c.Edit(name, func(n *corev1.Node) { n.Spec.Unschedulable = true })
	return true
}

// RequestCheck has a person ask for a check of a node with kubectl.
func (c *Cluster) RequestCheck(name string) bool {
	if c.Nodes[name] == nil {
		return false
	}
	c.Logf("person requests a check of %s", name)
	c.Edit(name, func(n *corev1.Node) { annotate(n, CheckAnnotation, "requested") })
	return true
}

// Uncordon has a person put a node back into service.
func (c *Cluster) Uncordon(name string) bool {
	if !c.Cordoned(name) {
		return false
	}
	c.Logf("person uncordons %s", name)
	c.Edit(name, func(n *corev1.Node) { n.Spec.Unschedulable = false })
	return true
}

// Claim has a person note on a cordoned node that its cordon is theirs.
func (c *Cluster) Claim(name, who string) bool {
	if !c.Cordoned(name) {
		return false
	}
	c.Logf("person claims the cordon of %s", name)
	c.Edit(name, func(n *corev1.Node) { annotate(n, OwnerAnnotation, who) })
	return true
}

// Supervise has a person edit the supervisor of the ticket on a node.
func (c *Cluster) Supervise(name, who string) bool {
	text, found := c.ticketText(name)
	if !found {
		return false
	}
	c.Logf("person sets the supervisor on %s to %s", name, who)
	text = supervisor.ReplaceAllLiteralString(text, "supervisor: "+who)
	c.Edit(name, func(n *corev1.Node) { annotate(n, TicketAnnotation, text) })
	return true
}

// RemoveTicket has a person remove the ticket of a node.
func (c *Cluster) RemoveTicket(name string) bool {
	if _, found := c.ticketText(name); !found {
		return false
	}
	c.Logf("person removes the ticket on %s", name)
	c.Edit(name, func(n *corev1.Node) { delete(n.Annotations, TicketAnnotation) })
	return true
}

func (c *Cluster) ticketText(name string) (text string, found bool) {
	if c.Nodes[name] == nil {
		return "", false
	}
	text, found = c.Nodes[name].Annotations[TicketAnnotation]
	return text, found
}

// Exclude has a person tell Aegis to leave a node alone, or not any more.
func (c *Cluster) Exclude(name string, excluded bool) bool {
	if c.Nodes[name] == nil {
		return false
	}
	c.Edit(name, func(n *corev1.Node) {
		n.Labels = cloned(n.Labels)
		if n.Labels[DisableLabel] = "true"; !excluded {
			delete(n.Labels, DisableLabel)
		}
	})
	return true
}

// SetPower has somebody who can see the power supply of a node say so: "on" or "off".
func (c *Cluster) SetPower(name, state string) {
	c.Logf("world: the power of %s is %s", name, state)
	if delete(c.off, name); state == powerOff {
		c.off[name] = c.Nodes[name] != nil
		state += "@" + time.Now().UTC().Format(time.RFC3339)
	}
	c.Edit(name, func(n *corev1.Node) { annotate(n, PowerAnnotation, state) })
}

// ClaimPower has somebody write about the power of a node what proves nothing.
func (c *Cluster) ClaimPower(name, text string) {
	c.Logf("person says that the power of %s is %q", name, text)
	c.Edit(name, func(n *corev1.Node) { annotate(n, PowerAnnotation, text) })
}

// SeenOff reports whether the power of the node was said to be off last.
func SeenOff(n *corev1.Node) bool { return strings.HasPrefix(n.Annotations[PowerAnnotation], powerOff) }

// Off reports whether the node is without power.
func (c *Cluster) Off(name string) bool { return c.off[name] }

// powerOff is what a node without power has in the annotation, before the time.
const powerOff = "off"

// Silent lets the kubelet of a node fall silent.
func (c *Cluster) Silent(name string) {
	c.Edit(name, func(n *corev1.Node) { SetReady(n, false) })
}

// Recover makes a node ready again, on another boot if it was without power.
func (c *Cluster) Recover(name string) {
	off := c.off[name]
	delete(c.off, name)
	c.Edit(name, func(n *corev1.Node) {
		if off {
			n.Status.NodeInfo.BootID = BootAfter(n)
		}
		SetReady(n, true)
	})
}

// Reboot has a node boot that Aegis has not told to.
func (c *Cluster) Reboot(name string) {
	c.Logf("world: %s boots by itself", name)
	c.Edit(name, func(n *corev1.Node) { n.Status.NodeInfo.BootID = BootAfter(n) })
}

// EditLease has a person set an annotation of the Lease of the election with kubectl, and reports whether there is one. Empty removes it.
func (c *Cluster) EditLease(key, value string) bool {
	if c.Lease == nil {
		return false
	}
	lease := c.Lease.DeepCopy()
	lease.Annotations = cloned(lease.Annotations)
	if lease.Annotations[key] = value; value == "" {
		delete(lease.Annotations, key)
	}
	c.putLease(lease)
	return true
}

// Elect makes the identity the holder of the Lease of the election, if there is one, as whoever may write it can. Empty clears the holder.
func (c *Cluster) Elect(identity string) {
	if c.Lease == nil {
		return
	}
	lease := c.Lease.DeepCopy()
	lease.Spec.HolderIdentity = &identity
	if lease.Spec.RenewTime != nil {
		lease.Spec.RenewTime = new(metav1.NewMicroTime(time.Now()))
	}
	c.putLease(lease)
}

// DeleteLease has a person delete the Lease of the election, with the orders on it.
func (c *Cluster) DeleteLease() {
	c.held()
	before := c.Lease
	if c.Lease = nil; before == nil {
		return
	}
	c.Logf("person deletes the Lease")
	if c.Observer.LeaseChanged != nil {
		c.Observer.LeaseChanged(before, nil)
	}
}

// Holder returns who holds the Lease of the election, empty if nobody does.
func (c *Cluster) Holder() string {
	if c.Lease == nil || c.Lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *c.Lease.Spec.HolderIdentity
}

func (c *Cluster) putLease(lease *coordinationv1.Lease) {
	c.held()
	c.version++
	lease.ResourceVersion = versionText(c.version)
	before := c.Lease
	c.Lease = lease
	if c.Observer.LeaseChanged != nil {
		c.Observer.LeaseChanged(before, lease)
	}
}
