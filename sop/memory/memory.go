// Package memory holds the procedures for conditions of memory.
package memory

import "aegis.io/aegis/sop"

// Pressure is for a node that runs out of memory: keep new pods away until the pressure has gone.
func Pressure() sop.SOP { return sop.NewProcedure(sop.RelievePressure) }
