package sop

import (
	"regexp"
	"strings"

	"aegis.io/aegis/rules/prom"
)

// What the driver of a GPU asks for. It says so with XID 154, whose text is only in the kernel log: a diagnosis reads it there.

// recoveryMark begins the part of a diagnosis that says what the driver asks for.
const recoveryMark = "recovery action: "

// recoveryAction is one GPU with its action, as the diagnosis tells it.
var recoveryAction = regexp.MustCompile(`GPU [0-9a-f:]+: ([A-Za-z0-9 ]+)`)

// recoveryClass maps the driver's texts to what is done. Of several GPUs the one that needs most decides.
func recoveryClass(text string) (class prom.XIDClass, strength int) {
	switch text {
	case "None":
		return prom.XIDIgnore, 1
	case "GPU Reset Required", "Drain and Reset":
		return prom.XIDReset, 3
	case "Node Reboot Required":
		return prom.XIDReboot, 4
	}
	// Drain P2P, and whatever drivers will say in the years to come.
	return prom.XIDCheck, 2
}

// recoveryIn returns what the driver asks for, as its text. Empty means that it asks for nothing, or that nobody knows.
func recoveryIn(diagnosis string) string {
	_, told, found := strings.Cut(diagnosis, recoveryMark)
	if !found {
		return ""
	}
	text, most := "", 0
	for _, m := range recoveryAction.FindAllStringSubmatch(told, -1) {
		action := strings.TrimSpace(m[1])
		if _, strength := recoveryClass(action); strength > most {
			text, most = action, strength
		}
	}
	return text
}

// Recovery returns what the driver of the GPU asks for, as the diagnosis of this incident has read it. Empty means that it asks for
// nothing, or that nobody knows.
func (b *ApiBridge) Recovery() prom.XIDClass {
	t := b.journal.ticket()
	if b.plan != nil || t == nil || t.Recovery == "" {
		return ""
	}
	class, _ := recoveryClass(t.Recovery)
	return class
}
