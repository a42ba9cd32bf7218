package jobs

import (
	"regexp"
	"strings"

	"aegis.io/aegis/jobs/protocol"
)

const (
	// olderRecovery begins the detail of a diagnosis in which the driver asks for something.
	olderRecovery = "recovery action: "
	// olderRefusal begins the detail of an operation that was not begun.
	olderRefusal = "refused: "
)

// olderAction is one GPU in the detail of a diagnosis, with what its driver asks for.
var olderAction = regexp.MustCompile(`GPU [0-9a-f:]+: ([A-Za-z0-9 ]+)`)

// completeOlder fills in what the report of an older image says in its detail alone. While an installation is upgraded, a node may
// still have that image.
func completeOlder(r *protocol.Report) {
	if told, found := strings.CutPrefix(r.Detail, olderRecovery); found && r.Recovery == "" && r.Action == protocol.ActionDiagnose {
		for _, m := range olderAction.FindAllStringSubmatch(told, -1) {
			r.Recovery = protocol.MostRecovery(r.Recovery, strings.TrimSpace(m[1]))
		}
	}
	if why, found := strings.CutPrefix(r.Detail, olderRefusal); found && len(r.Refusals) == 0 && r.Result == protocol.ResultFailed {
		r.Refusals = []string{why}
	}
}
