package jobs

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

func TestInspect(t *testing.T) {
	t.Parallel()
	report := Report{Action: ActionHealthcheck, Node: "n1", Result: ResultFailed, Hardware: "gpu", ExitCode: 21, Detail: "row remap failed"}
	waiting := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	job := func(kind batchv1.JobConditionType, reason, message string) *batchv1.Job {
		return &batchv1.Job{Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{
			{Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message},
		}}}
	}
	backoff := job(batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	pod := func(state corev1.ContainerState) *corev1.Pod { return podOf(&batchv1.Job{}, "p", state) }
	with := func(p *corev1.Pod, change func(*corev1.Pod)) *corev1.Pod { change(p); return p }
	for _, tc := range []struct {
		name string
		job  *batchv1.Job
		pod  *corev1.Pod
		want Result
	}{
		{"new", &batchv1.Job{}, nil, Result{Phase: PhaseActive, ExitCode: -1, Message: "no pod yet"}},
		{"suspended", job(batchv1.JobSuspended, "JobSuspended", "by a person"), nil, Result{Phase: PhaseActive, ExitCode: -1, Message: "JobSuspended: by a person"}},
		{"condition that does not hold", &batchv1.Job{Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{
			{Type: batchv1.JobFailed, Status: corev1.ConditionFalse}, {Type: batchv1.JobComplete, Status: corev1.ConditionUnknown},
		}}}, nil, Result{Phase: PhaseActive, ExitCode: -1, Message: "no pod yet"}},
		{"complete", job(batchv1.JobComplete, "", ""), pod(ended(0, "Completed", "")), Result{Phase: PhaseSucceeded, Message: "Completed, exit code 0"}},
		{"about to be complete", job(batchv1.JobSuccessCriteriaMet, "", ""), nil, Result{Phase: PhaseSucceeded, ExitCode: -1, Message: "no pod yet"}},
		{"about to be failed", job(batchv1.JobFailureTarget, batchv1.JobReasonDeadlineExceeded, "too long"), pod(corev1.ContainerState{}), Result{Phase: PhaseFailed, ExitCode: -1, Message: "DeadlineExceeded: too long"}},
		{"report", backoff, pod(ended(21, "Error", encode(t, report))), Result{Phase: PhaseFailed, ExitCode: 21, Report: &report, Message: "row remap failed"}},
		{"report before the condition", &batchv1.Job{}, pod(ended(21, "Error", encode(t, report))), Result{Phase: PhaseActive, ExitCode: 21, Report: &report, Message: "row remap failed"}},
		{"no report", backoff, pod(ended(137, "OOMKilled", "")), Result{Phase: PhaseFailed, ExitCode: 137, Message: "OOMKilled, exit code 137"}},
		{"other words", backoff, pod(ended(128, "StartError", "\n exec: no such file\nmore")), Result{Phase: PhaseFailed, ExitCode: 128, Message: "exec: no such file"}},
		{"exit code that the kubelet made up", backoff, pod(ended(137, "ContainerStatusUnknown", "")), Result{Phase: PhaseFailed, ExitCode: -1, Message: "ContainerStatusUnknown, exit code 137"}},
		{"exit code that the runtime made up", backoff, pod(ended(255, "Unknown", "")), Result{Phase: PhaseFailed, ExitCode: -1, Message: "Unknown, exit code 255"}},
		{"image missing", &batchv1.Job{}, pod(waiting("ErrImagePull", "not found")), Result{Phase: PhaseActive, ExitCode: -1, Message: "ErrImagePull: not found"}},
		{"refused by the kubelet", backoff, with(pod(corev1.ContainerState{}), func(p *corev1.Pod) {
			p.Status.Reason, p.Status.Message = "OutOfcpu", "Pod was rejected"
		}), Result{Phase: PhaseFailed, ExitCode: -1, Message: "OutOfcpu: Pod was rejected"}},
		{"not scheduled", &batchv1.Job{}, with(pod(corev1.ContainerState{}), func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "no node"}}
		}), Result{Phase: PhaseActive, ExitCode: -1, Message: "Unschedulable: no node"}},
		{"another container ended", &batchv1.Job{}, with(pod(ended(3, "Error", "")), func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].Name = "sidecar"
		}), Result{Phase: PhaseActive, ExitCode: -1}},
		{"nothing but the backoff limit", backoff, pod(corev1.ContainerState{}), Result{
			Phase: PhaseFailed, ExitCode: -1, Message: "BackoffLimitExceeded: Job has reached the specified backoff limit",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			res := Result{ExitCode: unknownExitCode}
			res.inspect(tc.job, tc.pod)
			require.Equal(t, tc.want, res)
		})
	}
}

func TestParseReport(t *testing.T) {
	t.Parallel()
	for _, result := range []string{ResultPassed, ResultFailed, ResultSkipped, ResultError} {
		require.Equal(t, &Report{Result: result}, parseReport(`{"result":"`+result+`","later":1}`))
	}
	for _, message := range []string{
		"", "panic: nil", "null", "[]", `"passed"`, `{}`, `{"result":""}`, `{"result":"PASSED"}`, `{"result":"fine"}`, `{"result":1}`,
		`{"result":"passed"`, `{"result":"passed"}{"result":"failed"}`, `{"result":"passed","exitCode":"0"}`,
		`{"result":"passed","detail":"` + strings.Repeat("x", maxReportBytes) + `"}`,
	} {
		require.Nil(t, parseReport(message), "%.80s", message)
	}
}

func TestReportLine(t *testing.T) {
	t.Parallel()
	require.Equal(t, "two", reportLine(&Report{Result: ResultPassed, Detail: "\x00\n two \nthree"}))
	require.Equal(t, "passed", reportLine(&Report{Result: ResultPassed, Detail: " \n"}))
}

func TestReportSurvivesJSON(t *testing.T) {
	t.Parallel()
	want := Report{
		Action: ActionHealthcheck, Node: "n1", BootID: "b1", Result: ResultFailed, Hardware: "gpu", ExitCode: 2, Detail: "d",
		Checks: []Check{{Name: "gpu-count", Hardware: "gpu", Result: ResultFailed, Detail: "1 of 2", Seconds: 0.25}},
	}
	require.Equal(t, &want, parseReport(encode(t, want)))
}

func FuzzParseReport(f *testing.F) {
	for _, seed := range []string{
		"", `{"result":"passed"}`, `{"action":"reboot","result":"failed","exitCode":70,"checks":[{"name":"a","result":"error","seconds":1e9}]}`,
		"{\"result\":\"skipped\",\"detail\":\"\\u0000\\n\\ud800\"}", "\xff\n\x00", strings.Repeat("[", 100000),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message string) {
		line := firstLine(message)
		require.True(t, utf8.ValidString(line))
		require.LessOrEqual(t, utf8.RuneCountInString(line), maxMessageRunes)
		require.NotContains(t, line, "\n")
		report := parseReport(message)
		if report == nil {
			return
		}
		require.NotEmpty(t, reportLine(report))
		text, err := json.Marshal(report)
		require.NoError(t, err)
		if len(text) <= maxReportBytes {
			require.Equal(t, report, parseReport(string(text)))
		}
	})
}
