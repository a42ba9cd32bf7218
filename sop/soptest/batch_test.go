package soptest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/sop/soptest"
)

func newRunner(t *testing.T, c *soptest.Cluster) *jobs.Runner {
	t.Helper()
	templates, err := jobs.LoadTemplates("")
	require.NoError(t, err)
	return jobs.NewRunner(jobs.RunnerOptions{Client: c.NewClient(), Templates: templates})
}

func healthcheck() jobs.Request {
	return jobs.Request{Action: protocol.ActionHealthcheck, Node: node, Incident: "t1", Attempt: 1, Args: []string{"--profile", "h200"}, Deadline: time.Hour}
}

// The runner of the product reads of the fake Job controller what it reads of the real one.
func TestTheRunnerFollowsAJob(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		weather soptest.Weather
		state   string
		lasts   time.Duration
		outcome soptest.Outcome
		want    jobs.Phase
		code    int32
		report  bool
	}{
		"passes":                         {want: jobs.PhaseSucceeded, report: true},
		"fails":                          {outcome: soptest.Outcome{Code: 2, Hardware: "gpu"}, want: jobs.PhaseFailed, code: 2, report: true},
		"without its pod":                {weather: soptest.Weather{PodsCollected: 1}, outcome: soptest.Outcome{Code: 2}, want: jobs.PhaseFailed, code: -1},
		"never ends":                     {outcome: soptest.Outcome{Stuck: true}, want: jobs.PhaseFailed, code: -1},
		"suspended for a while":          {state: soptest.JobsSuspended, lasts: 3 * time.Hour, want: jobs.PhaseSucceeded, report: true},
		"without a Job controller first": {state: soptest.JobControllerDown, lasts: 30 * time.Minute, want: jobs.PhaseSucceeded, report: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(soptest.Options{Pace: soptest.Pace{JobRun: soptest.Exactly(time.Minute)}})
				c.Operate = func(*soptest.Job) (soptest.Outcome, bool) { return tc.outcome, true }
				c.Do(func() {
					c.Weather = tc.weather
					if tc.state != "" {
						c.Enter(tc.state)
						c.Later(tc.lasts, func() { c.Leave(tc.state) })
					}
				})
				runner, began := newRunner(t, c), time.Now()
				job, _, err := runner.Ensure(t.Context(), healthcheck())
				require.NoError(t, err)
				_, created, err := runner.Ensure(t.Context(), healthcheck())
				require.NoError(t, err)
				require.False(t, created)
				result, err := runner.Follow(t.Context(), job, func(jobs.Result) error { return nil })
				require.NoError(t, err)
				require.Equal(t, tc.want, result.Phase)
				require.Equal(t, tc.report, result.Report != nil)
				if tc.report || tc.want == jobs.PhaseFailed {
					require.Equal(t, tc.code, result.ExitCode)
				}
				require.GreaterOrEqual(t, time.Since(began), tc.lasts)
			})
		})
	}
}

func TestAForgottenJobIsMissing(t *testing.T) {
	t.Parallel()
	c := newCluster(soptest.Options{})
	runner := newRunner(t, c)
	job, _, err := runner.Ensure(t.Context(), healthcheck())
	require.NoError(t, err)
	c.Do(func() { c.ForgetJob(job) })
	result, err := runner.Status(t.Context(), job)
	require.NoError(t, err)
	require.Equal(t, jobs.PhaseMissing, result.Phase)
}

func TestTheLeaseOfTheElection(t *testing.T) {
	t.Parallel()
	c := newCluster(soptest.Options{Election: "aegis"})
	var holders []string
	c.Observer.LeaseChanged = func(_, after *coordinationv1.Lease) {
		if after != nil {
			holders = append(holders, c.Holder())
		}
	}
	leases := c.NewClient().Election().Leases("monitoring")
	c.Do(func() { c.Elect("a") })
	held, err := leases.Get(t.Context(), "aegis", metav1.GetOptions{})
	require.NoError(t, err)
	c.Do(func() { c.Elect("") })
	_, err = leases.Update(t.Context(), held, metav1.UpdateOptions{})
	require.ErrorContains(t, err, "it has changed")
	c.Do(c.DeleteLease)
	held.Spec.HolderIdentity = new("b")
	_, err = leases.Update(t.Context(), held, metav1.UpdateOptions{})
	require.ErrorContains(t, err, "not found")
	made, err := leases.Create(t.Context(), held, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NotEqual(t, held.UID, made.UID)
	require.Equal(t, []string{"a", "", "b"}, holders)
}

// A process that is stopped sends nothing and sees no answer, whatever it waits for.
func TestAFrozenProcessSeesNoAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(soptest.Options{Pace: soptest.Pace{Call: soptest.Exactly(time.Second)}})
		client := c.NewClient()
		began := time.Now()
		c.Do(func() { c.Later(500*time.Millisecond, func() { client.Freeze(time.Minute) }) })
		_, err := client.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
		require.NoError(t, err)
		require.Equal(t, time.Minute+500*time.Millisecond, time.Since(began))
	})
}
