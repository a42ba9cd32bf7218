package prom

import "slices"

// XID is an error that the NVIDIA driver reports by number, and what is done about it.
type XID struct {
	// Code is the number. Zero is no XID.
	Code int
	// Class says what is done first.
	Class XIDClass
}

// XIDClass says what is done first about an XID.
type XIDClass string

// The classes of XIDs.
const (
	XIDApp       XIDClass = "app"       // The application is at fault; its restart is its owner's.
	XIDIgnore    XIDClass = "ignore"    // It says nothing about the node.
	XIDWatch     XIDClass = "watch"     // It is noted: many of them announce the end of a part.
	XIDReset     XIDClass = "reset"     // The GPU is reset once its pods are gone.
	XIDResetIdle XIDClass = "resetIdle" // The GPU is reset once the node is idle; until then it may go on.
	XIDReboot    XIDClass = "reboot"    // The node is drained and booted.
	XIDDecode    XIDClass = "decode"    // The registers in its log line decide. Nobody reads them, so its condition does: a reset, or a check where the pods stay.
	XIDCheck     XIDClass = "check"     // People look at it. The node is isolated only if its healthcheck fails.
	XIDFollow    XIDClass = "follow"    // What the driver asks for in its log is done.
)

// XIDClasses returns the closed set of classes.
func XIDClasses() []XIDClass {
	return []XIDClass{XIDApp, XIDIgnore, XIDWatch, XIDReset, XIDResetIdle, XIDReboot, XIDDecode, XIDCheck, XIDFollow}
}

// Harmless reports whether nothing is ever done about an XID of the class.
func (c XIDClass) Harmless() bool { return c == XIDApp || c == XIDIgnore }

// strength orders the classes by what is done: the later, the more.
func (c XIDClass) strength() int {
	return slices.Index([]XIDClass{XIDIgnore, XIDApp, XIDWatch, XIDCheck, XIDFollow, XIDResetIdle, XIDDecode, XIDReset, XIDReboot}, c)
}

// Stronger returns the one of two XIDs of the same GPU that decides what is done. One fault shows as several codes within seconds.
func (x XID) Stronger(other XID) XID {
	switch a, b := x.Class.strength(), other.Class.strength(); {
	case x.Code == 0, b > a, b == a && other.Code != 0 && other.Code < x.Code:
		return other
	}
	return x
}
