package nodesim_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"aegis.io/aegis/e2e/build"
	"aegis.io/aegis/e2e/cluster"
	"aegis.io/aegis/e2e/nodesim"
)

const (
	soon = 30 * time.Second
	tick = 100 * time.Millisecond
)

func TestMain(m *testing.M) {
	// The pods of node operations run this binary in place of Aegis.
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		os.Exit(operate(os.Args[1]))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	_, err := build.Run(context.Background(), build.Options{
		Out:  os.Stderr,
		Only: []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "hosttool"},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// operate does what an operation does: it runs tools of the host inside the host's root.
func operate(action string) int {
	tool := func(args ...string) (string, error) {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: os.Getenv("AEGIS_HOST_ROOT")}
		cmd.Dir = "/"
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	switch action {
	case "reboot", "shutdown":
		verb := map[string]string{"reboot": "reboot", "shutdown": "poweroff"}[action]
		if out, err := tool("/usr/bin/systemctl", verb); err != nil {
			fmt.Println(out, err)
			return 70
		}
		// The host takes this process with it.
		<-make(chan int)
	case "healthcheck":
		out, err := tool("/usr/bin/nvidia-smi", "-L")
		boot, bootErr := os.ReadFile(filepath.Join(os.Getenv("AEGIS_HOST_ROOT"), "proc/sys/kernel/random/boot_id"))
		fmt.Printf("%s%v %v\n", out, err, bootErr)
		report := map[string]string{"result": "passed", "bootId": strings.TrimSpace(string(boot)), "detail": fmt.Sprint(strings.Count(out, "GPU "), " GPUs")}
		if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
			return 70
		}
		if strings.Count(out, "UUID") != 8 {
			return 2
		}
	}
	return 0
}

type fixture struct {
	*cluster.Cluster
	sim *nodesim.Sim
}

func start(t *testing.T, nodes ...cluster.Node) fixture {
	t.Helper()
	dir := t.TempDir()
	c, err := cluster.Start(t.Context(), cluster.Options{BinDir: "../../bin", Dir: dir})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Stop()) })
	require.NoError(t, c.GrantAegis(t.Context()))
	self, err := os.Executable()
	require.NoError(t, err)
	sim, err := nodesim.Start(t.Context(), nodesim.Options{
		Client: c.Client(), Dir: dir, AegisOp: self, HostTool: "../../bin/hosttool", BootTime: 2 * time.Second, LeaseDuration: 4 * time.Second,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sim.Stop()) })
	require.NoError(t, c.AddNodes(t.Context(), nodes))
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	require.NoError(t, c.WaitNodesReady(ctx))
	return fixture{c, sim}
}

// operation runs a node operation as Aegis does: with the Job template of the product.
func (f fixture) operation(t *testing.T, node, template, name string) string {
	t.Helper()
	manifest, err := os.ReadFile("../../jobs/" + template + "_node.yaml")
	require.NoError(t, err)
	text := strings.NewReplacer("set-by-aegis", node, "name: aegis-"+template+"-node", "name: "+name).Replace(string(manifest))
	require.NoError(t, f.ApplyYAML(t.Context(), []byte(text)))
	return name
}

// outcome waits for the end of the Job and returns it with the end of its container.
func (f fixture) outcome(t *testing.T, job string) (batchv1.JobConditionType, *corev1.ContainerStateTerminated) {
	t.Helper()
	var condition batchv1.JobConditionType
	require.Eventually(t, func() bool {
		j, err := f.Client().BatchV1().Jobs("monitoring").Get(t.Context(), job, metav1.GetOptions{})
		if err != nil {
			return false
		}
		for _, c := range j.Status.Conditions {
			if c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed {
				condition = c.Type
			}
		}
		return condition != ""
	}, soon, tick, "the end of %s", job)
	pods, err := f.Client().CoreV1().Pods("monitoring").List(t.Context(), metav1.ListOptions{LabelSelector: "job-name=" + job})
	require.NoError(t, err)
	require.Len(t, pods.Items, 1)
	require.NotNil(t, pods.Items[0].Status.ContainerStatuses[0].State.Terminated)
	return condition, pods.Items[0].Status.ContainerStatuses[0].State.Terminated
}

func (f fixture) node(t *testing.T, name string) *corev1.Node {
	t.Helper()
	n, err := f.Client().CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	require.NoError(t, err)
	return n
}

func ready(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

func (f fixture) metrics(t *testing.T, job string) string {
	t.Helper()
	resp, err := http.Get(f.sim.Exporters()[job])
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	return string(text)
}

// TestHosts shares one cluster, which takes seconds to start; every test has nodes of its own.
func TestHosts(t *testing.T) {
	t.Parallel()
	var nodes []cluster.Node
	for _, name := range []string{"boot-1", "boot-2", "check", "dark", "plugin", "control"} {
		nodes = append(nodes, cluster.Node{Name: name, GPUs: 8})
	}
	f := start(t, nodes...)
	t.Run("a reboot ends the boot and fixes what it can", f.testReboot)
	t.Run("a healthcheck sees the host", f.testHealthcheck)
	t.Run("a shutdown leaves a stale lease and frozen pods", f.testShutdown)
	t.Run("a new pod fixes the device plugin", f.testDevicePlugin)
	t.Run("the control server", f.testControlServer)
}

func (f fixture) testReboot(t *testing.T) {
	before := f.node(t, "boot-1").Status.NodeInfo.BootID
	require.NotEmpty(t, before)
	require.NoError(t, f.sim.Inject("boot-1", nodesim.Injection{Fault: nodesim.GPULost, GPU: 3}))
	require.NoError(t, f.sim.Inject("boot-1", nodesim.Injection{Fault: nodesim.GPUHot, GPU: 1}))
	// Counted, because the text itself would bury the message of a failure.
	temperatures := func(node string) int {
		return len(regexp.MustCompile(`DCGM_FI_DEV_GPU_TEMP{[^}]*Hostname="`+node+`"`).FindAllString(f.metrics(t, "dcgm-exporter"), -1))
	}
	require.Equal(t, 7, temperatures("boot-1"))
	require.Equal(t, 8, temperatures("boot-2"))

	condition, end := f.outcome(t, f.operation(t, "boot-1", "restart", "reboot"))
	require.Equal(t, batchv1.JobFailed, condition)
	require.Equal(t, "Unknown", end.Reason)
	require.EqualValues(t, 255, end.ExitCode)
	after := f.node(t, "boot-1")
	require.NotEqual(t, before, after.Status.NodeInfo.BootID)
	require.Equal(t, corev1.ConditionTrue, ready(after))

	state, err := f.sim.State("boot-1")
	require.NoError(t, err)
	require.Equal(t, 2, state.Boots)
	require.Len(t, state.Ops, 1)
	require.Equal(t, "reboot", state.Ops[0].Action)
	require.Len(t, state.Faults, 1)
	require.Equal(t, nodesim.GPUHot, state.Faults[0].Fault)
	other, err := f.sim.State("boot-2")
	require.NoError(t, err)
	require.Equal(t, 1, other.Boots)
}

func (f fixture) testHealthcheck(t *testing.T) {
	condition, end := f.outcome(t, f.operation(t, "check", "healthcheck", "first"))
	require.Equal(t, batchv1.JobComplete, condition)
	var report struct{ Result, BootID, Detail string }
	require.NoError(t, json.Unmarshal([]byte(end.Message), &report), "the message %q", end.Message)
	require.Equal(t, f.node(t, "check").Status.NodeInfo.BootID, report.BootID)

	require.NoError(t, f.sim.Inject("check", nodesim.Injection{Fault: nodesim.GPULost, GPU: 7}))
	condition, end = f.outcome(t, f.operation(t, "check", "healthcheck", "second"))
	require.Equal(t, batchv1.JobFailed, condition)
	require.EqualValues(t, 2, end.ExitCode)
	require.Equal(t, "Error", end.Reason)
}

func (f fixture) testShutdown(t *testing.T) {
	trainer(t, f.Client(), "dark")
	f.operation(t, "dark", "shutdown", "shutdown")
	require.Eventually(t, func() bool { return ready(f.node(t, "dark")) == corev1.ConditionUnknown }, soon, tick)
	lease, err := f.Client().CoordinationV1().Leases("kube-node-lease").Get(t.Context(), "dark", metav1.GetOptions{})
	require.NoError(t, err)
	require.Greater(t, time.Since(lease.Spec.RenewTime.Time), time.Duration(*lease.Spec.LeaseDurationSeconds)*time.Second)

	require.NoError(t, f.Client().CoreV1().Pods("default").Delete(t.Context(), "trainer", metav1.DeleteOptions{}))
	require.NotContains(t, f.metrics(t, "node-exporter"), `node_boot_time_seconds{node="dark"}`)
	pod, err := f.Client().CoreV1().Pods("default").Get(t.Context(), "trainer", metav1.GetOptions{})
	require.NoError(t, err, "a pod stays while its host is off")
	require.NotNil(t, pod.DeletionTimestamp)

	require.NoError(t, f.sim.Power("dark", true))
	require.Eventually(t, func() bool { return ready(f.node(t, "dark")) == corev1.ConditionTrue }, soon, tick)
	require.Eventually(t, func() bool {
		_, err := f.Client().CoreV1().Pods("default").Get(t.Context(), "trainer", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}, soon, tick, "the pod ends once its host is back")
}

func trainer(t *testing.T, client kubernetes.Interface, node string) {
	t.Helper()
	pods := client.CoreV1().Pods("default")
	_, err := pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "trainer"},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "trainer"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		p, err := pods.Get(t.Context(), "trainer", metav1.GetOptions{})
		return err == nil && p.Status.Phase == corev1.PodRunning
	}, soon, tick)
}

func (f fixture) testDevicePlugin(t *testing.T) {
	allocatable := func() int64 {
		gpus := f.node(t, "plugin").Status.Allocatable[cluster.GPUResource]
		return gpus.Value()
	}
	plugin := func(name string) {
		_, err := f.Client().CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": "nvidia-device-plugin-ds"}},
			Spec:       corev1.PodSpec{NodeName: "plugin", Containers: []corev1.Container{{Name: "c", Image: "plugin"}}},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	plugin("old")
	require.Eventually(t, func() bool {
		p, err := f.Client().CoreV1().Pods("default").Get(t.Context(), "old", metav1.GetOptions{})
		return err == nil && p.Status.Phase == corev1.PodRunning
	}, soon, tick)
	require.NoError(t, f.sim.Inject("plugin", nodesim.Injection{Fault: nodesim.DevicePluginDown}))
	require.Eventually(t, func() bool { return allocatable() == 0 }, soon, tick)
	require.Contains(t, f.metrics(t, "kube-state-metrics"), `kube_node_status_allocatable{node="plugin",resource="nvidia_com_gpu",unit="integer"} 0`)
	plugin("new")
	require.Eventually(t, func() bool { return allocatable() == 8 }, soon, tick)
}

func (f fixture) testControlServer(t *testing.T) {
	post := func(path string, form url.Values) int {
		resp, err := http.PostForm(f.sim.URL()+path, form)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	form := func(pairs ...string) url.Values {
		v := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v
	}
	require.Equal(t, 204, post("/inject", form("node", "control", "fault", "xid-95", "gpu", "1", "fixedBy", "never")))
	require.Equal(t, 400, post("/inject", form("node", "control", "fault", "no-such-fault")))
	require.Equal(t, 400, post("/inject", form("node", "control", "fault", "xid-95", "gpu", "8")))
	require.Equal(t, 400, post("/inject", form("node", "other", "fault", "xid-95")))
	require.Contains(t, f.metrics(t, "dcgm-exporter"), `DCGM_EXP_XID_ERRORS_TOTAL{gpu="1"`)
	state, err := f.sim.State("control")
	require.NoError(t, err)
	require.Equal(t, nodesim.FixedByNever, state.Faults[0].FixedBy)
	require.Equal(t, 204, post("/clear", form("node", "control")))
	state, err = f.sim.State("control")
	require.NoError(t, err)
	require.Empty(t, state.Faults)
}
