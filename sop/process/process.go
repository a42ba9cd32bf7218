// Package process holds the procedures for conditions of processes.
package process

import (
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// Stuck is for processes that only a boot can end: boot the node when its jobs have ended.
func Stuck() sop.SOP { return sop.NewProcedure(playbook.RebootLadder) }
