// Package network holds the procedures for conditions of Ethernet links.
package network

import "aegis.io/aegis/sop"

// LinkDown is for one dead link of a bond that still works: tell the network team and leave the node in service.
func LinkDown() sop.SOP { return sop.NewProcedure(sop.Note) }
