package jobs

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"aegis.io/aegis/jobs/protocol"
)

func TestInspect(t *testing.T) {
	t.Parallel()
	report := protocol.Report{Action: protocol.ActionHealthcheck, Node: "n1", Result: protocol.ResultFailed, Hardware: "gpu", ExitCode: 21, Detail: "row remap failed"}
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
			// A pod that has an end to show, or is past waiting, has begun.
			tc.want.Begun = tc.pod != nil && slices.ContainsFunc(tc.pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
				return s.State.Terminated != nil
			})
			require.Equal(t, tc.want, res)
		})
	}
}

func TestParseReport(t *testing.T) {
	t.Parallel()
	for _, result := range []string{protocol.ResultPassed, protocol.ResultFailed, protocol.ResultSkipped, protocol.ResultError} {
		require.Equal(t, &protocol.Report{Result: result}, parseReport(`{"result":"`+result+`","later":1}`))
	}
	for _, message := range []string{
		"", "panic: nil", "null", "[]", `"passed"`, `{}`, `{"result":""}`, `{"result":"PASSED"}`, `{"result":"fine"}`, `{"result":1}`,
		`{"result":"passed"`, `{"result":"passed"}{"result":"failed"}`, `{"result":"passed","exitCode":"0"}`,
		`{"result":"passed","detail":"` + strings.Repeat("x", maxReportBytes) + `"}`,
	} {
		require.Nil(t, parseReport(message), "%.80s", message)
	}
}

// A report of an image that is older than this program says in its detail alone what later ones have fields for.
func TestReportOfAnOlderImage(t *testing.T) {
	t.Parallel()
	for detail, want := range map[string]string{
		"9 of 11 sections collected": "",
		"recovery action: GPU 0000:3b:00: GPU Reset Required; collected 9 of 11":                                 "GPU Reset Required",
		"recovery action: GPU 0000:3b:00: None; collected":                                                       "None",
		"recovery action: GPU 0000:3b:00: None; GPU 0000:86:00: Node Reboot Required; GPU 0000:87:00: Drain P2P": "Node Reboot Required",
		"recovery action: GPU 0000:3b:00: Sacrifice A Goat":                                                      "Sacrifice A Goat",
		"the GPU 0000:3b:00: None says nothing without its mark":                                                 "",
	} {
		report := parseReport(encode(t, protocol.Report{Action: protocol.ActionDiagnose, Result: protocol.ResultPassed, Detail: detail}))
		require.Equal(t, want, report.Recovery, detail)
		require.Equal(t, detail, report.Detail)
		require.Empty(t, parseReport(encode(t, protocol.Report{Action: protocol.ActionHealthcheck, Result: protocol.ResultFailed, Detail: detail})).Recovery)
	}
	const refused = `refused: process 42 (python) computes on GPU-1`
	require.Equal(t, []string{"process 42 (python) computes on GPU-1"},
		parseReport(encode(t, protocol.Report{Action: protocol.ActionRemedy, Result: protocol.ResultFailed, Detail: refused})).Refusals)
	require.Empty(t, parseReport(encode(t, protocol.Report{Action: protocol.ActionRemedy, Result: protocol.ResultPassed, Detail: refused})).Refusals)
}

func TestFieldsOfAReportGoBeforeItsDetail(t *testing.T) {
	t.Parallel()
	report := parseReport(encode(t, protocol.Report{
		Action: protocol.ActionDiagnose, Result: protocol.ResultFailed, Recovery: "None", Refusals: []string{"held"},
		Detail: "recovery action: GPU 0000:3b:00: Node Reboot Required; collected",
	}))
	require.Equal(t, "None", report.Recovery)
	require.Equal(t, []string{"held"}, report.Refusals)
}

func TestConclusive(t *testing.T) {
	t.Parallel()
	for code, want := range map[int32]bool{
		protocol.ExitOK: true, protocol.ExitGPU: true, protocol.ExitNVLink: true, 99: true,
		protocol.ExitUsage: false, protocol.ExitUnknown: false, protocol.ExitSkipped: false, unknownExitCode: false,
	} {
		require.Equal(t, want, Result{ExitCode: code, Report: new(protocol.Report)}.Conclusive(), code)
		require.False(t, Result{ExitCode: code}.Conclusive(), "without a report")
	}
}

func TestReportLine(t *testing.T) {
	t.Parallel()
	require.Equal(t, "two", reportLine(&protocol.Report{Result: protocol.ResultPassed, Detail: "\x00\n two \nthree"}))
	require.Equal(t, "passed", reportLine(&protocol.Report{Result: protocol.ResultPassed, Detail: " \n"}))
}

func TestReportSurvivesJSON(t *testing.T) {
	t.Parallel()
	want := protocol.Report{
		Action: protocol.ActionHealthcheck, Node: "n1", BootID: "b1", Result: protocol.ResultFailed, Hardware: "gpu", ExitCode: 2, Detail: "d",
		Recovery: "Drain P2P", Refusals: []string{"held"},
		Checks: []protocol.Check{{Name: "gpu-count", Hardware: "gpu", Result: protocol.ResultFailed, Detail: "1 of 2", Seconds: 0.25}},
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
