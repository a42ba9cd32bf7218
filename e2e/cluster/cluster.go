// Package cluster runs a real Kubernetes control plane on the loopback interface: etcd, kube-apiserver,
// kube-controller-manager and kube-scheduler, and kwok for the pods of nodes that do not exist.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"aegis.io/aegis/e2e/internal/proc"
)

const (
	// startTimeout bounds the start of all programs together.
	startTimeout = 3 * time.Minute
	// defaultMonitorGrace is short, so that a test sees a dead node soon, and still several heartbeats long.
	defaultMonitorGrace = 8 * time.Second
)

// Options says where the cluster lives.
type Options struct {
	// BinDir holds the programs that package build has built.
	BinDir string
	// Dir takes data, logs and kubeconfigs.
	Dir string
	// NodeMonitorGrace is how long a node may be silent before it is Unknown. The default is 8s.
	NodeMonitorGrace time.Duration
	// Log takes what is done. The default discards it.
	Log *slog.Logger
}

// Cluster is a running control plane.
type Cluster struct {
	// URL is that of the API server.
	URL string
	// KubeconfigAdmin is the file for a cluster administrator, KubeconfigAegis the one for the service account of Aegis.
	KubeconfigAdmin, KubeconfigAegis string
	// AuditLog is the API server's audit log, one JSON object a line.
	AuditLog string
	// Dir is the folder that was given.
	Dir string

	o      Options
	etcd   string
	files  files
	ports  ports
	http   *http.Client
	config *rest.Config
	client kubernetes.Interface

	mu       sync.Mutex
	nodes    int
	children map[string]*proc.Process
	// order is the one in which the programs were started.
	order []string
}

type ports struct{ etcd, etcdPeer, apiserver int }

// Start starts the control plane and returns when it serves and schedules. Stop must be called.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.NodeMonitorGrace <= 0 {
		o.NodeMonitorGrace = defaultMonitorGrace
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c, err := prepare(o)
	if err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start cluster: %w", err), c.Stop())
	}
	return c, nil
}

// prepare writes every file and connects the client; nothing runs yet.
func prepare(o Options) (*Cluster, error) {
	free, err := proc.FreePorts(3)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		o:        o,
		Dir:      o.Dir,
		ports:    ports{etcd: free[0], etcdPeer: free[1], apiserver: free[2]},
		children: map[string]*proc.Process{},
	}
	c.URL = fmt.Sprintf("https://127.0.0.1:%d", c.ports.apiserver)
	c.etcd = fmt.Sprintf("http://127.0.0.1:%d", c.ports.etcd)
	if c.files, err = writeFiles(o.Dir, c.URL); err != nil {
		return nil, err
	}
	c.KubeconfigAdmin, c.KubeconfigAegis, c.AuditLog = c.files.kubeconfigAdmin, c.files.kubeconfigAegis, c.files.audit
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	if err := c.startControllers(); err != nil {
		return err
	}
	return c.waitForControllers(ctx)
}

func (c *Cluster) startEtcd(ctx context.Context) error {
	peer := fmt.Sprintf("http://127.0.0.1:%d", c.ports.etcdPeer)
	p, err := c.run("etcd",
		"--name=e2e", "--data-dir="+filepath.Join(c.Dir, "etcd"),
		"--listen-client-urls="+c.etcd, "--advertise-client-urls="+c.etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=e2e="+peer,
		// A crash of the machine may lose the data; nobody would miss it.
		"--unsafe-no-fsync", "--log-level=warn")
	if err != nil {
		return err
	}
	return p.WaitReady(ctx, proc.OK(http.DefaultClient, c.etcd+"/readyz"))
}

// StartAPIServer starts kube-apiserver on the port and the data that it had, and returns when it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	p, err := c.run("kube-apiserver",
		"--etcd-servers="+c.etcd,
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", c.ports.apiserver), "--cert-dir="+c.files.certs,
		"--service-account-key-file="+c.files.keyPublic, "--service-account-signing-key-file="+c.files.keyPrivate,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16",
		"--token-auth-file="+c.files.tokens, "--authorization-mode=RBAC", "--allow-privileged",
		"--audit-policy-file="+c.files.auditPolicy, "--audit-log-path="+c.AuditLog, "--audit-log-maxsize=1024",
		// Nobody waits for watchers to leave when a test takes the API server away.
		"--shutdown-send-retry-after=false", "--endpoint-reconciler-type=none")
	if err != nil {
		return err
	}
	if err := p.WaitReady(ctx, c.ready); err != nil {
		return err
	}
	return c.connect()
}

// ready asks the API server, whose certificate exists only once it has started.
func (c *Cluster) ready(ctx context.Context) error {
	if c.http == nil {
		client, err := trusting(c.files.ca)
		if err != nil {
			return err
		}
		c.http = client
	}
	return proc.OK(c.http, c.URL+"/readyz")(ctx)
}

func (c *Cluster) connect() error {
	if c.client != nil {
		return nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.KubeconfigAdmin)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	// The tests must not wait for themselves.
	config.QPS = -1
	c.config = config
	typed := rest.CopyConfig(config)
	typed.ContentType, typed.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	if c.client, err = kubernetes.NewForConfig(typed); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

func (c *Cluster) startControllers() error {
	kubeconfig := "--kubeconfig=" + c.KubeconfigAdmin
	_, cm := c.run("kube-controller-manager", kubeconfig,
		"--service-account-private-key-file="+c.files.keyPrivate, "--use-service-account-credentials=false",
		"--leader-elect=false", "--secure-port=0", "--controllers=*,-nodeipam",
		"--node-monitor-period=1s", fmt.Sprintf("--node-monitor-grace-period=%s", c.o.NodeMonitorGrace),
		"--kube-api-qps=500", "--kube-api-burst=1000")
	_, scheduler := c.run("kube-scheduler", kubeconfig,
		"--leader-elect=false", "--secure-port=0", "--kube-api-qps=500", "--kube-api-burst=1000")
	_, kwok := c.run("kwok", kubeconfig, "--config="+c.files.stages, "--manage-all-nodes",
		// Leases belong to the simulated kubelets, and so do the pods of node operations.
		"--node-lease-duration-seconds=0", "--disregard-status-with-label-selector=app.kubernetes.io/component=op",
		"--server-address=")
	return errors.Join(cm, scheduler, kwok)
}

// waitForControllers waits for what pods need: their service account, which the controller manager makes.
func (c *Cluster) waitForControllers(ctx context.Context) error {
	return c.children["kube-controller-manager"].WaitReady(ctx, func(ctx context.Context) error {
		_, err := c.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			c.o.Log.WarnContext(ctx, "service account not read", "err", err)
		}
		return err
	})
}

// run starts one program; its log is Dir/NAME.log.
func (c *Cluster) run(name string, args ...string) (*proc.Process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.children[name].Running() {
		return nil, fmt.Errorf("%s runs already", name)
	}
	p, err := proc.Start(proc.Options{
		Path: filepath.Join(c.o.BinDir, name),
		Args: args,
		Log:  filepath.Join(c.Dir, name+".log"),
	})
	if err != nil {
		return nil, err
	}
	if _, again := c.children[name]; !again {
		c.order = append(c.order, name)
	}
	c.children[name] = p
	c.o.Log.Info("started", "program", name, "pid", p.PID())
	return p, nil
}

func (c *Cluster) child(name string) *proc.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.children[name]
}

// StopAPIServer ends the API server as an upgrade would.
func (c *Cluster) StopAPIServer() error { return c.child("kube-apiserver").Stop() }

// KillAPIServer ends the API server as a crash would.
func (c *Cluster) KillAPIServer() error { return c.child("kube-apiserver").Kill() }

// PauseController stops the controller manager where it is, so that no Job begins and no end of one is noted; ResumeController lets it go on.
func (c *Cluster) PauseController() error {
	return c.child("kube-controller-manager").Signal(syscall.SIGSTOP)
}

// ResumeController lets the controller manager go on.
func (c *Cluster) ResumeController() error {
	return c.child("kube-controller-manager").Signal(syscall.SIGCONT)
}

// Client returns a client with the rights of an administrator and without a rate limit.
func (c *Cluster) Client() kubernetes.Interface { return c.client }

// RESTConfig returns a copy of the administrator's client configuration.
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.config) }

// Stop ends every program, the last one started first.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for i := len(c.order) - 1; i >= 0; i-- {
		p := c.children[c.order[i]]
		if c.order[i] == "etcd" || c.order[i] == "kube-apiserver" {
			errs = append(errs, p.Stop())
			continue
		}
		// The others hold nothing that is worth a farewell.
		errs = append(errs, p.Kill())
	}
	return errors.Join(errs...)
}

// Namespaces creates the namespaces that do not exist yet.
func (c *Cluster) Namespaces(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := c.ApplyYAML(ctx, []byte("{apiVersion: v1, kind: Namespace, metadata: {name: "+name+"}}")); err != nil {
			return err
		}
	}
	return nil
}

// Logs returns the log file of a program of the control plane.
func (c *Cluster) Logs(name string) string { return filepath.Join(c.Dir, name+".log") }

func writeFile(path string, content []byte) error {
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}
