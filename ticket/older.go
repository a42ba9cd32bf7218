package ticket

import (
	"regexp"
	"strconv"
)

// What a step had found stood in its message alone before it had fields of its own.
var (
	olderHealthcheck = regexp.MustCompile(`^([^()]+) \(exit code (\d{1,3})\)(?:: |$)`)
	olderRestart     = regexp.MustCompile(`^(\S+/\S+) uid (\S+)$`)
)

// completeOlder fills in what a step that an older Aegis wrote says in its message alone: what a failed healthcheck found, and which
// pod a restart that goes on had chosen. Nothing else reads messages.
func (s *Step) completeOlder() {
	switch {
	case s.Action == Healthcheck && s.Status == Failed && s.Findings == (Findings{}):
		if m := olderHealthcheck.FindStringSubmatch(s.Message); m != nil {
			code, err := strconv.Atoi(m[2])
			if err == nil {
				s.Findings = Findings{Code: code, Hardware: m[1]}.clipped()
			}
		}
	case s.Action == RestartPod && s.Status == Running && s.Pod == "" && s.UID == "":
		if m := olderRestart.FindStringSubmatch(s.Message); m != nil {
			s.Pod, s.UID = m[1], m[2]
		}
	}
}
