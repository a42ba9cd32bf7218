package cases

import "aegis.io/aegis/e2e/aegis"

// The pools of the cases. Each case breaks nodes of its own, so that the limits of one do not hold another.
const (
	poolHung       = "hung"
	poolSick       = "sick"
	poolBlocked    = "blocked"
	poolPeople     = "people"
	poolCrash      = "crash"
	poolAway       = "away"
	poolPrometheus = "prometheus"
	poolAlerts     = "alertmanager"
	poolSilenced   = "silenced"
	poolFamilies   = "families"
	poolRequested  = "requested"
	poolChecked    = "checked"
	poolNotReady   = "notready"
	poolOrders     = "orders"
	poolBudget     = "budget"
	poolDomains    = "domains"
	poolMarks      = "marks"
	poolHealthy    = "healthy"
	poolDashboard  = "dashboard"
	poolCoverage   = "coverage"
)

// pool is a pool of the environment.
type pool struct {
	name string
	// nodes is how many it has: no more than its cases break, because each costs the monitoring time.
	nodes int
}

func pools() []pool {
	return []pool{
		{poolHung, 2},
		{poolSick, 1},
		{poolBlocked, 1},
		{poolPeople, 5},
		{poolCrash, 4},
		{poolAway, 2},
		{poolPrometheus, 1},
		{poolAlerts, 1},
		{poolSilenced, 2},
		{poolFamilies, 5},
		{poolRequested, 2},
		{poolChecked, 3},
		{poolNotReady, 2},
		{poolOrders, 6},
		{poolBudget, nodesOfBudget},
		{poolDomains, len(domains())},
		{poolMarks, 3},
		{poolHealthy, 1},
		{poolDashboard, 2},
		{poolCoverage, 2},
	}
}

// nodesOfBudget is how many nodes the pool has of which only one may be out of service.
const nodesOfBudget = 2

// limits returns the limits of the pool, which hold nothing unless the case is about them: the cases of a pool run side by side,
// which is not to be taken for a storm.
func (p pool) limits() aegis.Pool {
	limits := aegis.Pool{
		Name: p.name, Selector: "aegis.io/pool=" + p.name,
		MaxOutOfServicePercent: new(100), MaxDestructive: new(20), StormPercent: new(100),
	}
	if p.name == poolBudget {
		limits.MaxOutOfService = 1
	}
	return limits
}
