package jobs

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"aegis.io/aegis/jobs/protocol"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

const (
	// maxMessageRunes keeps a message fit for a ticket and a log line.
	maxMessageRunes = 256
	// maxReportBytes is far above what the kubelet keeps of a termination message.
	maxReportBytes = 64 << 10
)

// inspect fills in what the Job and its newest pod, if any, say.
func (r *Result) inspect(job *batchv1.Job, pod *corev1.Pod) {
	var condition string
	r.Phase, condition = phaseOf(job)
	r.UID = job.UID
	r.NotAfter = notAfter(&job.Spec.Template.Spec)
	r.Begun = job.Status.Failed+job.Status.Succeeded > 0 || pod != nil && started(pod)
	if job.Spec.Suspend != nil && *job.Spec.Suspend && r.Phase == PhaseActive {
		// A controller that queues Jobs does that. The deadline of the Job does not run meanwhile.
		condition = inWords("Suspended", condition)
	}
	if pod == nil {
		r.Message = firstLine(condition)
		if r.Message == "" {
			r.Message = "no pod yet"
		}
		return
	}
	var ended, exit string
	if state := terminated(pod); state != nil {
		r.Report = parseReport(state.Message)
		ended = state.Message
		exit = fmt.Sprintf("%s, exit code %d", state.Reason, state.ExitCode)
		if !slices.Contains(madeUpReasons(), state.Reason) {
			r.ExitCode = state.ExitCode
		}
	}
	if r.Report != nil {
		ended = reportLine(r.Report)
	}
	for _, text := range []string{ended, specific(condition), podLine(pod), exit, condition} {
		if r.Message = firstLine(text); r.Message != "" {
			return
		}
	}
}

// notAfter returns when the operation of the pod may not be begun any more.
func notAfter(pod *corev1.PodSpec) time.Time {
	for _, c := range pod.Containers {
		for _, v := range c.Env {
			if at, err := time.Parse(time.RFC3339, v.Value); c.Name == containerName && v.Name == protocol.NotAfterVariable && err == nil {
				return at
			}
		}
	}
	return time.Time{}
}

// started reports whether a container of the pod may have been started.
func started(pod *corev1.Pod) bool {
	if pod.Status.Phase != corev1.PodPending && pod.Status.Phase != "" {
		return true
	}
	return slices.ContainsFunc(slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses), func(s corev1.ContainerStatus) bool {
		return s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil
	})
}

// phaseOf returns the phase of the Job, and its reason in words where it gives one. One that says both that it has failed and that it
// is complete has failed.
func phaseOf(job *batchv1.Job) (phase Phase, reason string) {
	phase = PhaseActive
	for _, c := range job.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		// The target comes first and is final. The failure itself waits for the pod to end, which a dead node never reports.
		case batchv1.JobFailed, batchv1.JobFailureTarget:
			return PhaseFailed, inWords(c.Reason, c.Message)
		case batchv1.JobComplete, batchv1.JobSuccessCriteriaMet:
			phase, reason = PhaseSucceeded, inWords(c.Reason, c.Message)
		default:
			if phase == PhaseActive {
				reason = inWords(c.Reason, c.Message)
			}
		}
	}
	return phase, reason
}

// specific drops the condition that says no more than that the only pod failed.
func specific(condition string) string {
	if strings.HasPrefix(condition, batchv1.JobReasonBackoffLimitExceeded) {
		return ""
	}
	return condition
}

// madeUpReasons are those under which a container runtime or the kubelet reports a container that it lost sight of, with
// an exit code that the operation never returned. A node that rebooted has such containers.
func madeUpReasons() []string {
	return []string{"ContainerStatusUnknown", "Unknown"}
}

func terminated(pod *corev1.Pod) *corev1.ContainerStateTerminated {
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == containerName {
			return s.State.Terminated
		}
	}
	return nil
}

// podLine says why the pod failed or what it waits for.
func podLine(pod *corev1.Pod) string {
	if pod.Status.Reason != "" {
		return inWords(pod.Status.Reason, pod.Status.Message)
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if w := s.State.Waiting; w != nil {
			return inWords(w.Reason, w.Message)
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return inWords(c.Reason, c.Message)
		}
	}
	return ""
}

// inWords joins a reason and its message, either of which may be empty.
func inWords(reason, message string) string {
	return strings.Trim(reason+": "+message, ": ")
}

// parseReport reads a termination message. A message that is no report is none, whatever else it may be: the kubelet
// writes there too, and so does any image that a template names.
func parseReport(message string) *protocol.Report {
	if len(message) > maxReportBytes {
		return nil
	}
	var report protocol.Report
	if err := json.Unmarshal([]byte(message), &report); err != nil {
		return nil
	}
	switch report.Result {
	case protocol.ResultPassed, protocol.ResultFailed, protocol.ResultSkipped, protocol.ResultError:
		completeOlder(&report)
		return &report
	}
	return nil
}

func reportLine(r *protocol.Report) string {
	if detail := firstLine(r.Detail); detail != "" {
		return detail
	}
	return r.Result
}

// firstLine returns the first line of text that has anything printable in it, without what cannot be printed.
func firstLine(text string) string {
	for line := range strings.Lines(text) {
		line = strings.Map(printable, strings.ToValidUTF8(line, ""))
		if runes := []rune(strings.TrimSpace(line)); len(runes) > 0 {
			return strings.TrimSpace(string(runes[:min(len(runes), maxMessageRunes)]))
		}
	}
	return ""
}

func printable(c rune) rune {
	switch {
	case c == '\t':
		return ' '
	case unicode.IsPrint(c):
		return c
	}
	return -1
}
