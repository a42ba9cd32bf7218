package nodesim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"aegis.io/aegis/e2e/internal/proc"
)

const (
	opContainer = "op"
	entrypoint  = "/aegis"
	// lostExitCode is what containerd reports for a container that the boot took away.
	lostExitCode = 255
	// maxMessage is what a kubelet keeps of a termination message.
	maxMessage = 4096
	// killAfter is what an operation gets to end when its pod is deleted.
	killAfter = 10 * time.Second
	// sysrqPoll is how often the host looks at the keys that an operation has pressed.
	sysrqPoll = 200 * time.Millisecond
)

// op is an operation that runs or ran.
type op struct {
	Op
	uid     types.UID
	program string
	child   *proc.Process
	message string
	reason  string
	ended   bool
	// told says that it was asked to end.
	told bool
}

// signal reaches the operation and what it has started in its group.
func (o *op) signal(s syscall.Signal) {
	if o.child.Running() {
		// It may end right now; then there is nobody left to tell.
		if err := syscall.Kill(-o.child.PID(), s); err != nil && !errors.Is(err, syscall.ESRCH) {
			o.message = err.Error()
		}
	}
}

func isOp(p *corev1.Pod) bool { return p.Labels["app.kubernetes.io/component"] == opContainer }

// syncOps starts the operations of new pods and reports those that run or have ended.
func (s *Sim) syncOps(ctx context.Context, h *host, pods []*corev1.Pod) error {
	var errs []error
	for _, p := range pods {
		if isOp(p) {
			errs = append(errs, s.syncOp(ctx, h, p))
		}
	}
	return errors.Join(errs...)
}

func (s *Sim) syncOp(ctx context.Context, h *host, p *corev1.Pod) error {
	finished := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	if finished {
		if p.DeletionTimestamp != nil {
			return s.remove(ctx, p)
		}
		return nil
	}
	status := h.opStatus(p)
	if status == nil || status.Phase == p.Status.Phase {
		return nil
	}
	return s.patchPod(ctx, p, status)
}

// opStatus returns what the kubelet has to say of the pod. It starts the operation of a pod that is new.
func (h *host) opStatus(p *corev1.Pod) *corev1.PodStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.current[p.UID]
	switch {
	case o == nil && !h.seen[p.UID] && p.DeletionTimestamp == nil:
		h.startLocked(p)
		return nil
	case o == nil && !h.seen[p.UID]:
		// Deleted before it began.
		return ended(p, 137, "Error", "", p.CreationTimestamp.Time, time.Now())
	case o == nil:
		return ended(p, lostExitCode, "Unknown", "", p.CreationTimestamp.Time, h.bootAt)
	case o.ended:
		return ended(p, int32(o.ExitCode), o.reason, o.message, o.Started, o.Ended)
	case p.DeletionTimestamp != nil && !o.told:
		o.told = true
		o.signal(syscall.SIGTERM)
		h.sim.after(killAfter, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			o.signal(syscall.SIGKILL)
		})
	}
	if o.child == nil {
		return nil
	}
	return running(p, o.Started)
}

func (h *host) startLocked(p *corev1.Pod) {
	h.seen[p.UID] = true
	o := &op{uid: p.UID, Op: Op{Pod: p.Name, Started: time.Now(), Log: filepath.Join(h.sim.options.Dir, "ops", p.Name+".log")}}
	var env []string
	for _, c := range p.Spec.Containers {
		if c.Name != opContainer {
			continue
		}
		for _, arg := range commandOf(&c) {
			// What a kubelet does to an escaped dollar.
			o.Args = append(o.Args, strings.ReplaceAll(arg, "$$", "$"))
		}
		for _, e := range c.Env {
			env = append(env, e.Name+"="+e.Value)
		}
	}
	if len(o.Args) > 0 {
		o.program, o.Args = o.Args[0], o.Args[1:]
	}
	o.Action = actionOf(o.Args)
	h.current[p.UID] = o
	h.ops = append(h.ops, o)
	h.noteLocked("operation %s", strings.Join(o.Args, " "))
	boot := h.bootID
	h.sim.running.Go(func() { h.run(o, env, boot) })
}

// commandOf returns what the container runs: its image has the entry point of Aegis.
func commandOf(c *corev1.Container) []string {
	if len(c.Command) == 0 {
		return append([]string{entrypoint}, c.Args...)
	}
	return slices.Concat(c.Command, c.Args)
}

// actionOf returns the operation that the arguments ask either program for.
func actionOf(args []string) string {
	if len(args) > 0 && args[0] == "op" {
		args = args[1:]
	}
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// binary returns the program of the image that is at the path.
func (s *Sim) binary(program string) (string, error) {
	switch program {
	case entrypoint:
		return s.options.Aegis, nil
	case "/aegis-op":
		return s.options.AegisOp, nil
	}
	return "", fmt.Errorf("exec: %q: no such file in the image", program)
}

// run is the container: it ends when the operation, the host or the simulation does.
func (h *host) run(o *op, env []string, boot string) {
	child, err := h.launch(o, env, boot)
	if err == nil {
		h.watch(child)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	o.Ended, o.ended = time.Now(), true
	switch {
	case err != nil:
		o.ExitCode, o.reason, o.message = 128, "StartError", err.Error()
	default:
		o.ExitCode, o.reason = exit(child.Err())
		o.message = terminationMessage(o.Log)
	}
	h.noteLocked("operation %s ended with %d", o.Action, o.ExitCode)
	h.sim.wake(h.name)
}

func (h *host) launch(o *op, env []string, boot string) (*proc.Process, error) {
	program, err := h.sim.binary(o.program)
	if err != nil {
		return nil, err
	}
	dir, err := h.prepareRoot()
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.power != PowerOn || h.bootID != boot || h.sim.ctx.Err() != nil {
		return nil, errors.New("the host went down")
	}
	// The pod mounts the root of the host somewhere; here it is where it is.
	o.child, err = proc.Start(proc.Options{
		Path: program, Args: o.Args, Log: o.Log,
		Env: append(env, "AEGIS_HOST_ROOT="+dir, "NODE_NAME="+h.name),
	})
	h.sim.wake(h.name)
	return o.child, err
}

// watch waits for the end of the operation and for keys that it presses.
func (h *host) watch(child *proc.Process) {
	tick := time.NewTicker(sysrqPoll)
	defer tick.Stop()
	for {
		select {
		case <-child.Done():
			return
		case <-h.sim.ctx.Done():
			if err := child.Kill(); err != nil {
				h.sim.log.Error("operation not killed", "node", h.name, "err", err)
			}
			return
		case <-tick.C:
			h.pollSysrq()
		}
	}
}

// exit returns the exit code that a container runtime makes of the end of a process.
func exit(err error) (code int, reason string) {
	var e *exec.ExitError
	switch {
	case err == nil:
		return 0, "Completed"
	case !errors.As(err, &e):
		return 128, "Error"
	}
	if status, ok := e.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), "Error"
	}
	return e.ExitCode(), "Error"
}

// terminationMessage returns the report of the operation, which it writes to its output, too.
func terminationMessage(log string) string {
	text, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	for i := len(lines) - 1; i >= 0; i-- {
		if json.Valid(lines[i]) && bytes.HasPrefix(lines[i], []byte("{")) {
			return string(lines[i][:min(len(lines[i]), maxMessage)])
		}
	}
	return ""
}

func running(p *corev1.Pod, at time.Time) *corev1.PodStatus {
	return podStatus(p, corev1.PodRunning, corev1.ConditionTrue, at, corev1.ContainerState{
		Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(at)},
	})
}

func ended(p *corev1.Pod, code int32, reason, message string, from, to time.Time) *corev1.PodStatus {
	phase := corev1.PodSucceeded
	if code != 0 {
		phase = corev1.PodFailed
	}
	return podStatus(p, phase, corev1.ConditionFalse, from, corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{
			ExitCode: code, Reason: reason, Message: message, StartedAt: metav1.NewTime(from), FinishedAt: metav1.NewTime(to),
			ContainerID: "containerd://" + string(p.UID),
		},
	})
}

func podStatus(p *corev1.Pod, phase corev1.PodPhase, ready corev1.ConditionStatus, start time.Time, state corev1.ContainerState) *corev1.PodStatus {
	now := metav1.Now()
	begin := metav1.NewTime(start)
	status := &corev1.PodStatus{Phase: phase, StartTime: &begin}
	for _, t := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady} {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: t, Status: ready, LastTransitionTime: now})
	}
	for _, c := range p.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, State: state, Ready: ready == corev1.ConditionTrue,
			ContainerID: "containerd://" + string(p.UID),
		})
	}
	return status
}

type podPatch struct {
	Metadata struct {
		UID types.UID `json:"uid"`
	} `json:"metadata"`
	Status *corev1.PodStatus `json:"status"`
}

func (s *Sim) patchPod(ctx context.Context, p *corev1.Pod, status *corev1.PodStatus) error {
	patch := podPatch{Status: status}
	patch.Metadata.UID = p.UID
	body, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("report pod: %w", err)
	}
	_, err = s.options.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("report pod %s: %w", p.Name, err)
	}
	return nil
}

// remove takes away the object of a pod that was deleted and has ended.
func (s *Sim) remove(ctx context.Context, p *corev1.Pod) error {
	err := s.options.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64(0)), Preconditions: &metav1.Preconditions{UID: &p.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove pod %s: %w", p.Name, err)
	}
	return nil
}
