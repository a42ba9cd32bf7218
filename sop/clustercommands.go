package sop

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
)

// What people order for the whole cluster, and how it reaches what is going on.

// Pause holds everything that may disturb workload, on every node, until Resume.
func (d *Dispatcher) Pause(ctx context.Context, o policy.Order) error {
	o.At = d.services.Clock.Now().UTC().Truncate(time.Second)
	return d.order(ctx, "pause", o, func(orders *policy.Orders) error {
		orders.Pause = &o
		return nil
	})
}

// Resume ends a pause. One that the configuration orders stays.
func (d *Dispatcher) Resume(ctx context.Context, by string) error {
	return d.order(ctx, "resume", policy.Order{By: by}, func(orders *policy.Orders) error {
		orders.Pause = nil
		return nil
	})
}

// SetMode sets how far Aegis goes with a condition, whatever is configured.
func (d *Dispatcher) SetMode(ctx context.Context, condition string, mode prom.Mode, o policy.Order) error {
	o.At = d.services.Clock.Now().UTC().Truncate(time.Second)
	return d.order(ctx, "mode "+string(mode)+" for "+condition, o, func(orders *policy.Orders) error {
		if orders.Modes == nil {
			orders.Modes = make(map[string]policy.ModeOrder)
		}
		orders.Modes[condition] = policy.ModeOrder{Mode: mode, Order: o}
		return nil
	})
}

// ResetMode gives a condition its configured mode again.
func (d *Dispatcher) ResetMode(ctx context.Context, condition, by string) error {
	return d.order(ctx, "configured mode for "+condition, policy.Order{By: by}, func(orders *policy.Orders) error {
		delete(orders.Modes, condition)
		return nil
	})
}

// Orders returns what is ordered now.
func (d *Dispatcher) Orders() policy.Orders { return d.services.Orders.Last() }

// Storms returns the storms that go on.
func (d *Dispatcher) Storms() []policy.Storm { return d.storms.current() }

// ReleaseStorm lets the repairs of a condition go on in spite of its storm. The error is policy.ErrNoStorm if there is none.
func (d *Dispatcher) ReleaseStorm(ctx context.Context, condition, pool string, o policy.Order) error {
	o.At = d.services.Clock.Now().UTC().Truncate(time.Second)
	is := func(s policy.Storm) bool { return s.Is(condition, pool) }
	if !slices.ContainsFunc(d.storms.current(), is) {
		return fmt.Errorf("%w: %s in %s", policy.ErrNoStorm, condition, policy.Pool{Name: pool}.Title())
	}
	err := d.order(ctx, "release of storm "+condition+" in "+policy.Pool{Name: pool}.Title(), o, func(orders *policy.Orders) error {
		orders.Storms = joined(d.storms.current(), orders.Storms)
		i := slices.IndexFunc(orders.Storms, is)
		if i < 0 {
			return fmt.Errorf("%w: %s in %s", policy.ErrNoStorm, condition, policy.Pool{Name: pool}.Title())
		}
		orders.Storms[i].Released = &o
		return nil
	})
	if err == nil {
		d.storms.release(condition, pool, o)
	}
	return err
}

// order writes an order on the Lease and has it take effect.
func (d *Dispatcher) order(ctx context.Context, what string, o policy.Order, change func(*policy.Orders) error) error {
	if err := d.services.Orders.Update(ctx, change); err != nil {
		return err
	}
	d.services.Logger.InfoContext(ctx, "order accepted", "order", what, "by", o.By, "reason", o.Reason)
	d.followOrders()
	return nil
}

// followOrders has the orders looked at soon.
func (d *Dispatcher) followOrders() {
	select {
	case d.ordered <- struct{}{}:
	default: // They will be looked at already.
	}
}

// learnOrders waits until the orders are known: nothing is decided without them.
func (d *Dispatcher) learnOrders(ctx context.Context) error {
	for {
		_, err := d.services.Orders.Read(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, ErrLeaseLost) {
			return err
		}
		d.services.Logger.WarnContext(ctx, "orders not read, waiting", "err", err)
		if err := sleep(ctx, d.services.Clock, d.services.Timing.Poll); err != nil {
			return err
		}
	}
}

// keepOrders follows the orders, which people may also edit on the Lease, and writes the storms down. When the Lease is another
// replica's, all work ends at once: the election may notice it only later.
func (d *Dispatcher) keepOrders(ctx context.Context) error {
	ticker := d.services.Clock.NewTicker(d.services.Timing.Hold)
	defer ticker.Stop()
	known := d.services.Orders.Last()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		case <-d.ordered:
		}
		err := d.follow(ctx, &known)
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, ErrLeaseLost):
			return err
		default:
			d.services.Logger.WarnContext(ctx, "orders not followed, trying again", "err", err)
		}
	}
}

// follow reads the orders, adds the storms, and has every node looked at again if something is another than what was known.
func (d *Dispatcher) follow(ctx context.Context, known *policy.Orders) error {
	orders, err := d.services.Orders.Read(ctx)
	if err != nil {
		return err
	}
	d.storms.look()
	if err := d.recordStorms(ctx, orders.Storms); err != nil {
		return err
	}
	now := d.services.Orders.Last()
	if !reflect.DeepEqual(*known, now) {
		d.Reconsider()
	}
	*known = now
	return nil
}

// recordStorms writes the storms down and tells of those that have begun or ended, once each.
func (d *Dispatcher) recordStorms(ctx context.Context, written []policy.Storm) error {
	active := d.storms.current()
	if slices.EqualFunc(active, written, sameStorm) {
		return nil
	}
	err := d.services.Orders.Update(ctx, func(o *policy.Orders) error {
		o.Storms = slices.DeleteFunc(joined(active, o.Storms), func(s policy.Storm) bool { return !known(active, s) })
		return nil
	})
	if err != nil {
		return err
	}
	for _, s := range active {
		if !known(written, s) {
			d.announce(ctx, s, "AegisStorm", "its repair is held: "+s.Why())
		}
	}
	for _, s := range written {
		if !known(active, s) {
			d.announce(ctx, s, "AegisStormOver", "the storm in "+policy.Pool{Name: s.Pool}.Title()+" is over")
		}
	}
	return nil
}

func sameStorm(a, b policy.Storm) bool {
	return a.Is(b.Condition, b.Pool) && (a.Released == nil) == (b.Released == nil)
}

func known(list []policy.Storm, s policy.Storm) bool {
	return slices.ContainsFunc(list, func(other policy.Storm) bool { return other.Is(s.Condition, s.Pool) })
}

// announce tells of a storm as an Event of the Lease: it is no matter of a single node.
func (d *Dispatcher) announce(ctx context.Context, s policy.Storm, reason, text string) {
	d.services.Logger.WarnContext(ctx, "storm", "condition", s.Condition, "pool", s.Pool, "reason", text)
	lease := d.services.Orders.options
	object := &corev1.ObjectReference{Kind: "Lease", APIVersion: "coordination.k8s.io/v1", Namespace: lease.Namespace, Name: lease.Name}
	d.services.Recorder.Eventf(object, corev1.EventTypeWarning, reason, "%s: %s", s.Condition, text)
}

// Reconsider has every node looked at on which there is something to decide, because what decisions rest on has changed.
func (d *Dispatcher) Reconsider() {
	d.services.limits.wake()
	nodes, err := d.services.Nodes.List(labels.Everything())
	if err != nil {
		d.services.Logger.Error("nodes not listed from the cache", "err", err)
		return
	}
	for _, node := range nodes {
		if NeedsVisit(node, d.services.Settings()) || len(d.services.Conditions.Statuses(node.Name)) > 0 {
			d.queue.Enqueue(node.Name)
		}
	}
}

// enter notes that a procedure runs on the node, so that it can be ended at once when people take the node.
func (d *Dispatcher) enter(node string, cancel context.CancelCauseFunc) (leave func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active[node] = cancel
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.active, node)
	}
}

// interrupt ends the procedure that runs on the node, if one does.
func (d *Dispatcher) interrupt(node string, cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if cancel, found := d.active[node]; found {
		cancel(cause)
	}
}
