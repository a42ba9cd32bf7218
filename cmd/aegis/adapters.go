package main

import (
	"context"
	"time"

	"aegis.io/aegis/queue"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
)

// nodeQueue hands the queue's items to the dispatcher, which does not know the queue's types.
type nodeQueue struct{ *queue.Queue }

func (q nodeQueue) Next(ctx context.Context) (string, []prom.AegisNodeStatus, error) {
	item, err := q.Queue.Next(ctx)
	return item.Node, item.Statuses, err
}

// currentCatalogue is the catalogue as it was last loaded.
type currentCatalogue struct{ store *rules.Store }

func (c currentCatalogue) Status(node, condition, device string, xid int) prom.AegisNodeStatus {
	return c.store.Current().StatusOfXID(node, condition, device, xid)
}

func (c currentCatalogue) HiddenBy(now time.Time, status prom.AegisNodeStatus, others []prom.AegisNodeStatus) string {
	return c.store.Current().HiddenBy(now, status, others)
}
