package cases

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
	poolNotReady   = "notready"
	poolOrders     = "orders"
	poolBudget     = "budget"
)

func pools() []string {
	return []string{
		poolHung, poolSick, poolBlocked, poolPeople, poolCrash, poolAway, poolPrometheus, poolAlerts, poolSilenced,
		poolFamilies, poolRequested, poolNotReady, poolOrders, poolBudget,
	}
}

// nodesPerPool is how many nodes each pool has.
const nodesPerPool = 6
