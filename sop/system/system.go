// Package system holds the procedures for conditions of the kernel.
package system

import (
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// Panic is for a node that has come back from a kernel panic: keep the traces, and return it if it is fit.
func Panic() sop.SOP { return sop.NewProcedure(playbook.ExamineThenReturn) }

// HighLoad is for a load that says little by itself.
func HighLoad() sop.SOP { return sop.NewNotice(playbook.Note) }
