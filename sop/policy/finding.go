package policy

import (
	"time"

	"aegis.io/aegis/rules/prom"
)

// freshAlert is how long the word of a webhook stands for itself while the sources cannot be asked, and a confirmation is good for.
const freshAlert = 2 * time.Minute

// Judge turns the word of the sources into the verdict on a disruptive step.
func Judge(f prom.Finding) Verdict {
	reason := func(text string) string {
		if f.Reason == "" {
			return text
		}
		return text + ": " + f.Reason
	}
	switch {
	case f.Permission == prom.PermissionSilenced:
		return Verdict{VerdictSilenced, reason("the alert is silenced")}
	case f.Permission == prom.PermissionAmbiguous:
		return Verdict{VerdictAmbiguous, reason("it is not known whether the alert is about this cluster")}
	case f.Evidence == prom.EvidenceUnknown:
		return Verdict{VerdictUnverifiable, reason("Prometheus gives no reliable answer")}
	case f.Permission == prom.PermissionUnknown:
		return Verdict{VerdictUnverifiable, reason("Alertmanager gives no reliable answer")}
	case f.Evidence == prom.EvidencePending:
		return Verdict{VerdictUnconfirmed, reason("the condition has not held for long enough yet")}
	case f.Evidence == prom.EvidenceAbsent:
		return Verdict{VerdictUnconfirmed, reason("Prometheus does not report the condition")}
	case f.Permission == prom.PermissionIsolate:
		return Verdict{VerdictUnverifiable, reason("the node may be isolated and nothing more until Alertmanager answers")}
	case f.Permission == prom.PermissionUnlisted:
		return Verdict{VerdictUnconfirmed, reason("no Alertmanager lists the alert")}
	default:
		return Verdict{VerdictExecute, "the condition is confirmed"}
	}
}

// Withdrawn reports whether the condition is gone at both sources. A silence that goes on after its alert keeps no node from
// returning to service.
func Withdrawn(f prom.Finding) bool {
	return f.Evidence == prom.EvidenceAbsent && (f.Permission == prom.PermissionUnlisted || f.Unlisted)
}

// fresh reports whether the webhook has just come in. It is enough to isolate the node when the sources cannot be asked, never more
// than that.
func fresh(s Situation) bool {
	return s.Status.Origin == prom.OriginAlert && s.Now.Sub(s.Status.LastSeen) < freshAlert
}

// says returns what the sources have against an act, if that is the verdict on what they say.
func says(name VerdictName, s Situation) string {
	if v := Judge(*s.Finding); v.Name == name {
		return v.Reason
	}
	return ""
}

func silenced(s Situation) string { return says(VerdictSilenced, s) }

func ambiguous(s Situation) string { return says(VerdictAmbiguous, s) }

// silentBefore lets a webhook stand for sources that cannot be asked, and Prometheus for an Alertmanager that has been away for as
// long as people have set. One that is silent later takes back no confirmation.
func silentBefore(s Situation) string {
	alone := s.Finding.Evidence == prom.EvidenceFiring && s.Finding.Permission == prom.PermissionIsolate
	if alone || fresh(s) || !s.Confirmed.IsZero() {
		return ""
	}
	return says(VerdictUnverifiable, s)
}

// unconfirmedBefore lets a webhook stand for an Alertmanager that does not list its alert yet.
func unconfirmedBefore(s Situation) string {
	if s.Finding.Evidence == prom.EvidenceFiring && s.Finding.Permission == prom.PermissionUnlisted && fresh(s) {
		return ""
	}
	return says(VerdictUnconfirmed, s)
}

func silentNow(s Situation) string { return says(VerdictUnverifiable, s) }

// unconfirmedNow lets what a check of Aegis found on the node itself outweigh an alert that is gone, but no silence, and no Alertmanager
// that is away.
func unconfirmedNow(s Situation) string {
	if s.Suspicion != "" && s.Finding.Permission != prom.PermissionIsolate {
		return ""
	}
	return says(VerdictUnconfirmed, s)
}

// tooBrief asks for a condition that has held for long enough without a break. A node that a check of Aegis found broken needs none.
// Where Prometheus does not tell since when it holds, its alert has fired for that long.
func tooBrief(s Situation) string {
	since := s.Finding.Since
	if since.IsZero() {
		since = s.Status.FirstSeen
	}
	confirmed := since.Add(s.Status.Policy.ConfirmFor)
	if s.Suspicion != "" || !s.Now.Before(confirmed) {
		return ""
	}
	return "the condition must hold without a break until " + confirmed.UTC().Format(time.RFC3339)
}

// confirmedLongAgo doubts a confirmation that is older than what it confirmed can be expected to last.
func confirmedLongAgo(s Situation) string {
	if s.Confirmed.IsZero() || s.Now.Sub(s.Confirmed) <= freshAlert {
		return ""
	}
	return "the sources confirmed the condition too long ago, and the API server has taken no write since"
}
