package sop

import (
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/rules/prom"
)

// What the driver of a GPU asks for. It says so with XID 154, whose text is only in the kernel log: a diagnosis reads it there.

// recoveryClass maps what the driver asks for to what is done.
func recoveryClass(recovery string) prom.XIDClass {
	switch recovery {
	case protocol.RecoveryNone:
		return prom.XIDIgnore
	case protocol.RecoveryReset, protocol.RecoveryDrainAndReset:
		return prom.XIDReset
	case protocol.RecoveryReboot:
		return prom.XIDReboot
	}
	// Drain P2P, and whatever drivers will say in the years to come.
	return prom.XIDCheck
}

// Recovery returns what the driver of the GPU asks for, as the diagnosis of this incident has read it. Empty means that it asks for
// nothing, or that nobody knows.
func (b *ApiBridge) Recovery() prom.XIDClass { return b.executor.recovery() }

func (e *journaled) recovery() prom.XIDClass {
	t := e.journal.ticket()
	if t == nil || t.Recovery == "" {
		return ""
	}
	return recoveryClass(t.Recovery)
}
