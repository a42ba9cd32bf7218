// Package aegis runs the binary of the product as it runs in a cluster: configured by files, with the rights of its own
// service account, and watched through its metrics.
package aegis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"aegis.io/aegis/e2e/internal/proc"
)

// startTimeout bounds the time until Aegis leads and has synced.
const startTimeout = time.Minute

// Options says where Aegis runs.
type Options struct {
	// BinDir holds the programs that package build has built.
	BinDir string
	// Dir takes configuration and log.
	Dir string
	// Kubeconfig is the file with the rights of Aegis.
	Kubeconfig string
	// Args are more arguments of aegis serve.
	Args []string
	// TLS is how to reach Aegis when the arguments make it speak TLS. Nil means plain HTTP.
	TLS *tls.Config
	// Log takes what is done. The default discards it.
	Log *slog.Logger
}

// Aegis is one replica, whether it runs or not.
type Aegis struct {
	// URL is that of the API, Telemetry that of the metrics and probes.
	URL, Telemetry string
	// LogFile takes the log of every run, one after the other.
	LogFile string
	// ConfigFile and ConditionsFile are what Configure writes.
	ConfigFile, ConditionsFile, ConfirmFile string

	o      Options
	ports  []int
	client *http.Client

	mu    sync.Mutex
	child *proc.Process
}

// New reserves the addresses of a replica. Nothing runs yet.
func New(o Options) (*Aegis, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("new aegis: %w", err)
	}
	ports, err := proc.FreePorts(2)
	if err != nil {
		return nil, fmt.Errorf("new aegis: %w", err)
	}
	scheme, client := "http", http.DefaultClient
	if o.TLS != nil {
		scheme, client = "https", &http.Client{Transport: &http.Transport{TLSClientConfig: o.TLS}}
	}
	return &Aegis{
		URL: fmt.Sprintf("%s://127.0.0.1:%d", scheme, ports[0]), Telemetry: fmt.Sprintf("%s://127.0.0.1:%d", scheme, ports[1]),
		LogFile:    filepath.Join(o.Dir, "aegis.log"),
		ConfigFile: filepath.Join(o.Dir, "aegis.yaml"), ConditionsFile: filepath.Join(o.Dir, "conditions.yaml"),
		ConfirmFile: filepath.Join(o.Dir, "confirm.yaml"),
		o:           o, ports: ports, client: client,
	}, nil
}

// Webhook returns the URL for Alertmanager.
func (a *Aegis) Webhook() string { return a.URL + "/api/v1/alerts" }

// Launch starts Aegis and does not wait for it.
func (a *Aegis) Launch() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.child.Running() {
		return errors.New("aegis runs already")
	}
	p, err := proc.Start(proc.Options{
		Path: filepath.Join(a.o.BinDir, "aegis"), Log: a.LogFile,
		Args: append([]string{
			"serve", "--config=" + a.ConfigFile, "--kubeconfig=" + a.o.Kubeconfig, "--log-format=json",
			fmt.Sprintf("--listen=127.0.0.1:%d", a.ports[0]), fmt.Sprintf("--telemetry-listen=127.0.0.1:%d", a.ports[1]),
		}, a.o.Args...),
	})
	if err != nil {
		return err
	}
	a.child = p
	a.o.Log.Info("started", "program", "aegis", "pid", p.PID())
	return nil
}

// WaitReady waits until Aegis leads and has synced.
func (a *Aegis) WaitReady(ctx context.Context) error {
	p := a.process()
	if p == nil {
		return errors.New("aegis was not started")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return p.WaitReady(ctx, proc.OK(a.client, a.Telemetry+"/-/ready"))
}

// Start starts Aegis and waits until it leads and has synced.
func (a *Aegis) Start(ctx context.Context) error {
	if err := a.Launch(); err != nil {
		return err
	}
	return a.WaitReady(ctx)
}

func (a *Aegis) process() *proc.Process {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.child
}

// Stop ends Aegis as an upgrade does. It is no error that it does not run.
func (a *Aegis) Stop() error { return a.process().Stop() }

// Kill9 ends Aegis as a crash does.
func (a *Aegis) Kill9() error { return a.process().Kill() }

// Restart ends Aegis and starts it again.
func (a *Aegis) Restart(ctx context.Context) error {
	if err := a.Stop(); err != nil {
		return err
	}
	return a.Start(ctx)
}

// Reload has Aegis read its files again, and returns when it has: its API says whether they were good.
func (a *Aegis) Reload(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.URL+"/-/reload", nil)
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		err = fmt.Errorf("reload: %s", resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

// Signal sends Aegis a signal, such as SIGHUP.
func (a *Aegis) Signal(s syscall.Signal) error {
	if !a.Running() {
		return errors.New("aegis does not run")
	}
	return a.process().Signal(s)
}

// Running reports whether Aegis runs.
func (a *Aegis) Running() bool { return a.process().Running() }

// PID returns the process ID of the last run, 0 before the first.
func (a *Aegis) PID() int {
	if p := a.process(); p != nil {
		return p.PID()
	}
	return 0
}

// Metrics reads all metrics, by name.
func (a *Aegis) Metrics(ctx context.Context) (families map[string]*dto.MetricFamily, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.Telemetry+"/metrics", nil)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read metrics: %s", resp.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	if families, err = parser.TextToMetricFamilies(resp.Body); err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	return families, nil
}

// Value returns the sum of the series of a metric that have all the labels: the value of counters and gauges, the number
// of observations of histograms.
func (a *Aegis) Value(ctx context.Context, name string, labels map[string]string) (float64, error) {
	families, err := a.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	family, ok := families[name]
	if !ok {
		return 0, fmt.Errorf("there is no metric %s", name)
	}
	sum := 0.0
	for _, m := range family.GetMetric() {
		if hasAll(m, labels) {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum, nil
}

func hasAll(m *dto.Metric, labels map[string]string) bool {
	for name, value := range labels {
		i := slices.IndexFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == name })
		if i < 0 || m.GetLabel()[i].GetValue() != value {
			return false
		}
	}
	return true
}
