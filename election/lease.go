package election

import (
	"context"
	"fmt"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

// guarded are the Leases as the elector of client-go reaches them. That one takes a Lease again which it finds vacant or deleted, as if
// nobody could have led in between, and when it resigns it clears the holder whoever that is. Here a Lease that was lost once is lost:
// the term ends, and the next one begins from the start.
type guarded struct {
	coordinationclient.LeasesGetter
	term     *term
	identity string
}

// Leases returns those of the namespace.
func (g guarded) Leases(namespace string) coordinationclient.LeaseInterface {
	return lease{g.LeasesGetter.Leases(namespace), g.term, g.identity}
}

type lease struct {
	coordinationclient.LeaseInterface
	term     *term
	identity string
}

// Get reads the Lease, and finds out whether it is still held.
func (l lease) Get(ctx context.Context, name string, o metav1.GetOptions) (*coordinationv1.Lease, error) {
	read, err := l.LeaseInterface.Get(ctx, name, o)
	switch {
	case apierrors.IsNotFound(err):
		return nil, l.term.found(nil, l.identity, err)
	case err != nil:
		return nil, err
	}
	l.term.tell(read)
	return read, l.term.found(read, l.identity, nil)
}

// tell tells of the Lease.
func (t *term) tell(lease *coordinationv1.Lease) {
	if t.saw != nil {
		t.saw(lease)
	}
}

// Create makes the Lease, unless the term has lost one.
func (l lease) Create(ctx context.Context, wanted *coordinationv1.Lease, o metav1.CreateOptions) (*coordinationv1.Lease, error) {
	if err := l.term.isLost(); err != nil {
		return nil, err
	}
	made, err := l.LeaseInterface.Create(ctx, wanted, o)
	if err == nil {
		l.term.wrote(made, l.identity)
	}
	return made, err
}

// Update writes the Lease, unless the term has lost it.
func (l lease) Update(ctx context.Context, wanted *coordinationv1.Lease, o metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	if err := l.term.isLost(); err != nil {
		return nil, err
	}
	written, err := l.LeaseInterface.Update(ctx, wanted, o)
	if err == nil {
		l.term.tell(written)
		l.term.wrote(written, l.identity)
	}
	return written, err
}

// found judges a Lease that was read, nil if there is none. While the term does not lead, whatever is found is for the elector to judge.
func (t *term) found(read *coordinationv1.Lease, identity string, none error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.lost != nil:
		return t.lost
	case !t.leads:
		return none
	case read == nil:
		return t.loses("it was deleted")
	case read.UID != t.lease:
		return t.loses("it was deleted and made anew")
	case holder(read) == "":
		return t.loses("somebody cleared its holder")
	case holder(read) != identity:
		return t.loses(fmt.Sprintf("%q holds it", holder(read)))
	}
	return nil
}

// wrote notes that the Lease is held, or given up.
func (t *term) wrote(written *coordinationv1.Lease, identity string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leads, t.lease = holder(written) == identity, written.UID
}

func (t *term) isLost() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lost
}

// holder returns who holds the Lease, empty if nobody does.
func holder(l *coordinationv1.Lease) string {
	if l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}
