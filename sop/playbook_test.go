package sop

import (
	"context"

	corev1 "k8s.io/api/core/v1"
)

// play is one of the functions of the playbook.
type play = func(ctx context.Context, b *ApiBridge) error

// Playbook is what the tests of this package run of package playbook, which imports this one: TestMain, which
// is in the external test package, fills it in.
var Playbook struct {
	RebootLadder, ResetLadder, IsolateAndHandOver, AwaitReady, VerifyCordoned, RelievePressure, ExamineThenReturn, Exhausted play

	Note, Tell, XID play
	// Remedy applies the named remedy to the isolated node, and climbs if it does not help.
	Remedy func(name string) play
	// RestartDevicePlugin restarts the pod that registers the resource.
	RestartDevicePlugin func(resource corev1.ResourceName) play
}
