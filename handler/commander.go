package handler

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
)

// Commander carries out what people ask for. What returns without an error outlives this process.
type Commander interface {
	NodeCommander
	ClusterCommander
}

// NodeCommander carries out what people ask for one node. Its errors wrap ticket.ErrNodeGone when there is no such node, and
// policy.ErrRefused, ticket.ErrConflict or ticket.ErrRecreated when the state of the node does not allow it.
type NodeCommander interface {
	// Node returns a node with what Aegis wrote last, even if the cache does not show it yet.
	Node(name string) (*corev1.Node, error)
	// Heal journals a repair on its node, or plans it.
	Heal(ctx context.Context, r policy.HealRequest) (policy.HealResult, error)
	// Approve lets the procedure of a condition in mode approve run on the node.
	Approve(ctx context.Context, o policy.NodeOrder) (policy.HealResult, error)
	// Check journals a check of the node, which is returned to service when it passes.
	Check(ctx context.Context, o policy.NodeOrder) (policy.HealResult, error)
	// Cancel ends the incident of the node at once and gives its ticket to who asks.
	Cancel(ctx context.Context, o policy.NodeOrder) error
	// TakeOver gives the open ticket of the node to who asks.
	TakeOver(ctx context.Context, o policy.NodeOrder) error
	// Release gives the open ticket of the node back to Aegis.
	Release(ctx context.Context, o policy.NodeOrder) error
}

// ClusterCommander carries out what people ask for the whole cluster, and tells what is in force.
type ClusterCommander interface {
	// Orders returns what is ordered now.
	Orders() policy.Orders
	// Pause holds everything that may disturb workload.
	Pause(ctx context.Context, o policy.Order) error
	// Resume ends the pause that Pause began.
	Resume(ctx context.Context, by string) error
	// SetMode gives the condition another mode than the configured one.
	SetMode(ctx context.Context, condition string, mode prom.Mode, o policy.Order) error
	// ResetMode gives the condition its configured mode back.
	ResetMode(ctx context.Context, condition, by string) error
	// Silence keeps Aegis from acting on what the silence matches until its end, and returns it as it is kept. The error wraps
	// policy.ErrRefused when there are too many.
	Silence(ctx context.Context, s policy.Silence) (policy.Silence, error)
	// EndSilence ends a silence before its time. The error wraps policy.ErrNoSilence when there is none, and policy.ErrRefused when it
	// has ended.
	EndSilence(ctx context.Context, id, by string) (policy.Silence, error)
	// Storms returns the storms that go on.
	Storms() []policy.Storm
	// Limits returns the limits of all pools, with who has a place in them and who waits for one.
	Limits() ([]policy.LimitState, error)
	// ReleaseStorm lets the condition be repaired in the pool in spite of the storm. The error wraps policy.ErrNoStorm when
	// there is none.
	ReleaseStorm(ctx context.Context, condition, pool string, o policy.Order) error
}

// judged tells from the error of a Commander whether asking again would help.
func judged(node string, err error) error {
	switch {
	case errors.Is(err, ticket.ErrNodeGone):
		return noNode(node)
	case errors.Is(err, policy.ErrRefused), errors.Is(err, ticket.ErrConflict), errors.Is(err, ticket.ErrRecreated):
		return fmt.Errorf("%w: %w", errConflict, err)
	}
	return err
}
