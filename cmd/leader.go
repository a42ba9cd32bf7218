package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/util/uuid"

	"aegis.io/aegis/election"
	"aegis.io/aegis/sop"
)

// lead leads in terms until the context ends, with or without an election.
func (a *app) lead(ctx context.Context) error {
	o := election.Options{Work: a.term, RetryPeriod: a.cfg.LeaderElection.RetryPeriod, Ended: a.duty.ended, Saw: a.orders.See, Logger: a.log}
	if *a.cfg.LeaderElection.Enabled {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("leader election: %w", err)
		}
		a.identity = host + "_" + string(uuid.NewUUID())
		o.Client, o.Identity = a.clients.election.CoordinationV1(), a.identity
		o.Namespace, o.Name = a.cfg.LeaderElection.Namespace, a.cfg.LeaderElection.Name
		o.LeaseDuration, o.RenewDeadline = a.cfg.LeaderElection.LeaseDuration, a.cfg.LeaderElection.RenewDeadline
	}
	return election.New(o).Run(ctx)
}

// causeOf says to the procedures why the term is over. Without the Lease nothing may be written any more; with it, what has ended is
// written down.
func causeOf(term context.Context) error {
	switch cause := context.Cause(term); {
	case errors.Is(cause, election.ErrLost):
		return fmt.Errorf("%w: %w", sop.ErrLeaseLost, cause)
	case errors.Is(cause, sop.ErrStopping), errors.Is(cause, sop.ErrLeaseLost):
		return cause
	default:
		return fmt.Errorf("%w: %w", sop.ErrStopping, cause)
	}
}

// reasonOf says to the election why a part has ended.
func reasonOf(err error) error {
	if errors.Is(err, sop.ErrLeaseLost) && !errors.Is(err, election.ErrLost) {
		return fmt.Errorf("%w: %w", election.ErrLost, err)
	}
	return err
}
