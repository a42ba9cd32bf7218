// Package ib holds the procedures for conditions of InfiniBand.
package ib

import "aegis.io/aegis/sop"

// LinkFlapping is for a link that goes down again and again: let the jobs end, then hand the cable to the network team.
func LinkFlapping() sop.SOP { return sop.NewProcedure(sop.IsolateAndHandOver) }
