package policy

import (
	"errors"

	"aegis.io/aegis/rules/prom"
)

var (
	// ErrRefused says that a request or an order was refused, as things are; the text says why.
	ErrRefused = errors.New("refused")
	// ErrNoStorm says that there is no such storm.
	ErrNoStorm = errors.New("there is no such storm")
)

// HealRequest asks for the repair of a condition on a node, whether or not an alert reports it.
type HealRequest struct {
	// Status is the condition, as the catalogue knows it.
	Status prom.AegisNodeStatus
	// By is who asks, as their credentials say.
	By string
	// Reason is why, in the words of who asks.
	Reason string
	// DryRun asks for the plan only.
	DryRun bool
}

// HealResult is the answer to a request.
type HealResult struct {
	// Ticket is the ID of the ticket that was opened. Empty when none was.
	Ticket  string
	Verdict Verdict
	// Plan lists the steps if all goes well.
	Plan []string
	// Skipped says what would stand against the repair if nobody had asked for it.
	Skipped []string
}

// NodeOrder is an order for one node.
type NodeOrder struct {
	Node string
	// Condition and Device say what an approval is for. The other orders are about the open ticket and leave them empty.
	Condition, Device string
	// By is who orders, as their credentials say. Reason is in their words.
	By, Reason string
}

// Of says what was done, by whom, and why.
func (o NodeOrder) Of(what string) string { return Order{By: o.By, Reason: o.Reason}.Of(what) }
