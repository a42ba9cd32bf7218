package prom

import "slices"

// Modes returns the modes, from the least to the most that Aegis may do.
func Modes() []Mode { return []Mode{ModeOff, ModeObserve, ModeApprove, ModeAuto} }

// Known reports whether the mode is one of Modes.
func (m Mode) Known() bool { return slices.Contains(Modes(), m) }

// Acts reports whether repairs are carried out in the mode, after an approval or without one.
func (m Mode) Acts() bool { return m == ModeApprove || m == ModeAuto }

// Lower reports whether Aegis does less in the mode than in the other one.
func (m Mode) Lower(other Mode) bool { return slices.Index(Modes(), m) < slices.Index(Modes(), other) }
