// Package network holds the procedures for conditions of Ethernet links.
package network

import (
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/playbook"
)

// LinkDown is for one dead link of a bond that still works: tell the network team and leave the node in service.
func LinkDown() sop.SOP { return sop.NewNotice(playbook.Tell) }

// LinkFlapping is for a link that goes down again and again: no new work, and the network team looks at the cable.
func LinkFlapping() sop.SOP { return sop.NewProcedure(playbook.IsolateAndHandOver) }

// TxTimeout is for an adapter whose transmit queues hang: empty the node and boot it, which loads its firmware anew.
func TxTimeout() sop.SOP { return sop.NewProcedure(playbook.RebootLadder) }

// Watch is for what is mostly a matter of the network around the node.
func Watch() sop.SOP { return sop.NewNotice(playbook.Note) }
