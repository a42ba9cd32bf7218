package sop_test

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/sop/soptest"
)

// The large schedules: many nodes in up to ten pools, each with a history of years, over two days. One schedule in fifty is large: what goes
// wrong in it takes a crowd or a long time, and costs as much as thirty small ones.

const (
	simLargeEvery = 50
	simLargeNodes = 40
	// simPast is how many incidents the history of each node of a large cluster has: as many as it keeps.
	simPast = 20
	// simRecountLarge is how often the account of a large cluster is compared with the nodes.
	simRecountLarge = 30 * time.Minute
)

// drawLargeCluster draws many nodes in up to ten pools.
func (s *schedule) drawLargeCluster() {
	pools := 1 + s.rng.IntN(10)
	s.drawPools(pools)
	for i := range simLargeNodes {
		name := fmt.Sprint("n", i)
		s.drawNode(name, pools)
		text := s.past(name)
		s.Do(func() {
			s.EditAs(name, soptest.ManagerAegis, func(n *corev1.Node) { n.Annotations = map[string]string{soptest.HistoryAnnotation: text} })
		})
	}
}

// past returns the history of a node whose incidents ended days to months ago, as the product has written it.
func (s *schedule) past(node string) string {
	var text strings.Builder
	at := s.Start().Add(-time.Duration(simPast+1) * 5 * 24 * time.Hour)
	for i := range simPast {
		at = at.Add(24*time.Hour + s.within(4*24*time.Hour))
		conditions := []string{simReboot, simReset, simRemedy, simIsolate}
		fmt.Fprintf(&text, "- id: past-%s-%d\n  condition: %s\n  opened: %q\n  closed: %q\n  outcome: resolved\n  isolated: true\n  destructive:\n  - reboot %s\n",
			node, i, conditions[s.rng.IntN(len(conditions))], at.UTC().Format(time.RFC3339), at.Add(time.Hour).UTC().Format(time.RFC3339),
			at.Add(20*time.Minute).UTC().Format(time.RFC3339))
	}
	return text.String()
}
