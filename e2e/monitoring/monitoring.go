// Package monitoring runs Prometheus and Alertmanager on the loopback interface, with the alert rules of the product.
package monitoring

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"aegis.io/aegis/e2e/internal/proc"
)

const (
	startTimeout          = time.Minute
	defaultInterval       = time.Second
	defaultGroupInterval  = time.Second
	defaultRepeatInterval = time.Minute
	defaultGroupWait      = 100 * time.Millisecond
	// defaultResendDelay makes Alertmanager forget an alert four times as long after Prometheus has gone.
	defaultResendDelay = time.Second
)

// Options says what is watched and who is told.
type Options struct {
	// BinDir holds the programs that package build has built.
	BinDir string
	// Dir takes data, configuration and logs.
	Dir string
	// Exporters holds the metrics URL of each scrape job. Labels of the series win over those of the target.
	Exporters map[string]string
	// Aegis holds the URLs of the metrics of the replicas, which one job scrapes.
	Aegis []string
	// Rules names files and folders of PrometheusRule manifests. There must be an alert in them.
	Rules []string
	// ExtraRules is one more rule file, in Prometheus' own format.
	ExtraRules string
	// Compress shortens the times of the rules.
	Compress Compress
	// Webhook is the URL that alerts are sent to. Empty sends them nowhere.
	Webhook string
	// WebhookToken is the bearer token for it. Empty sends none.
	WebhookToken string
	// WebhookTLS holds the files by which Alertmanager proves who it is, and knows the receiver of its webhook. Nil proves nothing.
	WebhookTLS *TLSFiles
	// PrometheusWeb is the web configuration of a Prometheus that speaks TLS, and PrometheusClient a client that it lets in. Without
	// them it serves plain HTTP to everybody.
	PrometheusWeb    string
	PrometheusClient *http.Client
	// Alertmanagers is the number of replicas, which do not know each other. The default is 1, and a negative number means none.
	Alertmanagers int
	// GroupWait, GroupInterval and RepeatInterval are those of the route. The defaults are 100ms, 1s and 1m.
	GroupWait, GroupInterval, RepeatInterval time.Duration
	// ResendDelay is how often Prometheus repeats an alert. The default is 1s.
	ResendDelay time.Duration
	// Interval is the time between two scrapes and between two evaluations of a rule. The default is 1s.
	Interval time.Duration
	// Log takes what is done. The default discards it.
	Log *slog.Logger
}

// TLSFiles are a certificate with its key, and the authority that the other side is trusted by.
type TLSFiles struct{ CA, Cert, Key string }

// Monitoring is a running Prometheus with its Alertmanagers.
type Monitoring struct {
	// PrometheusURL is that of Prometheus, AlertmanagerURLs those of the replicas.
	PrometheusURL    string
	AlertmanagerURLs []string
	// Rules is the number of alerting rules.
	Rules int

	o     Options
	ports []int

	mu            sync.Mutex
	prometheus    *proc.Process
	alertmanagers []*proc.Process
}

// Start starts all of them and returns when they are ready. Stop must be called.
func Start(ctx context.Context, o Options) (*Monitoring, error) {
	o.Alertmanagers = max(cmp.Or(o.Alertmanagers, 1), 0)
	o.Interval = cmp.Or(o.Interval, defaultInterval)
	o.GroupWait = cmp.Or(o.GroupWait, defaultGroupWait)
	o.ResendDelay = cmp.Or(o.ResendDelay, defaultResendDelay)
	o.GroupInterval = cmp.Or(o.GroupInterval, defaultGroupInterval)
	o.RepeatInterval = cmp.Or(o.RepeatInterval, defaultRepeatInterval)
	o.PrometheusClient = cmp.Or(o.PrometheusClient, http.DefaultClient)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ports, err := proc.FreePorts(1 + o.Alertmanagers)
	if err != nil {
		return nil, fmt.Errorf("start monitoring: %w", err)
	}
	m := &Monitoring{o: o, ports: ports, PrometheusURL: address(ports[0]), alertmanagers: make([]*proc.Process, o.Alertmanagers)}
	if o.PrometheusWeb != "" {
		m.PrometheusURL = strings.Replace(m.PrometheusURL, "http:", "https:", 1)
	}
	for _, port := range ports[1:] {
		m.AlertmanagerURLs = append(m.AlertmanagerURLs, address(port))
	}
	if err := m.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start monitoring: %w", err), m.Stop())
	}
	return m, nil
}

func address(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) }

func (m *Monitoring) start(ctx context.Context) error {
	if err := m.writeFiles(); err != nil {
		return err
	}
	for i := range m.alertmanagers {
		if err := m.StartAlertmanager(ctx, i); err != nil {
			return err
		}
	}
	return m.StartPrometheus(ctx)
}

func (m *Monitoring) file(name string) string { return filepath.Join(m.o.Dir, name) }

func (m *Monitoring) writeFiles() error {
	if err := os.MkdirAll(m.o.Dir, 0o755); err != nil {
		return err
	}
	rules, err := loadRules(m.o.Rules)
	if err != nil {
		return err
	}
	if m.Rules = rules.alerts(); m.Rules == 0 {
		return fmt.Errorf("no alert in %v", m.o.Rules)
	}
	rules, err = rules.compressed(m.o.Compress)
	if err != nil {
		return err
	}
	text, err := yaml.Marshal(rules)
	if err != nil {
		return err
	}
	return errors.Join(
		m.write("rules.yaml", string(text)),
		m.write("extra-rules.yaml", cmp.Or(m.o.ExtraRules, "groups: []")),
		m.write("prometheus.yaml", m.prometheusConfig()),
		m.write("prometheus-web.yaml", m.o.PrometheusWeb),
		m.write("alertmanager.yaml", m.alertmanagerConfig()),
	)
}

func (m *Monitoring) write(name, content string) error {
	return os.WriteFile(m.file(name), []byte(content), 0o600)
}

func (m *Monitoring) prometheusConfig() string {
	text := fmt.Sprintf("global: {scrape_interval: %[1]s, scrape_timeout: %[1]s, evaluation_interval: %[1]s}\nrule_files: [%[2]q, %[3]q]\n",
		m.o.Interval, m.file("rules.yaml"), m.file("extra-rules.yaml"))
	if len(m.ports) > 1 {
		text += "alerting:\n  alertmanagers:\n  - static_configs:\n    - targets:\n"
	}
	for _, port := range m.ports[1:] {
		text += fmt.Sprintf("      - 127.0.0.1:%d\n", port)
	}
	text += "scrape_configs:\n"
	for _, job := range slices.Sorted(maps.Keys(m.o.Exporters)) {
		text += scrapeConfig(job, m.o.Exporters[job])
	}
	if len(m.o.Aegis) > 0 {
		text += scrapeConfig("aegis", m.o.Aegis...)
	}
	return text
}

func (m *Monitoring) alertmanagerConfig() string {
	text := fmt.Sprintf("route: {receiver: aegis, group_by: [alertname, node], group_wait: %s, group_interval: %s, repeat_interval: %s}\nreceivers:\n- name: aegis\n",
		m.o.GroupWait, m.o.GroupInterval, m.o.RepeatInterval)
	if m.o.Webhook == "" {
		return text
	}
	text += fmt.Sprintf("  webhook_configs:\n  - url: %q\n    send_resolved: true\n", m.o.Webhook)
	if m.o.WebhookToken != "" {
		text += fmt.Sprintf("    http_config: {authorization: {type: Bearer, credentials: %q}}\n", m.o.WebhookToken)
	}
	if f := m.o.WebhookTLS; f != nil {
		text += fmt.Sprintf("    http_config: {tls_config: {ca_file: %q, cert_file: %q, key_file: %q}}\n", f.CA, f.Cert, f.Key)
	}
	return text
}

// StartPrometheus starts Prometheus on the data that it had.
func (m *Monitoring) StartPrometheus(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.prometheus.Running() {
		return errors.New("prometheus runs already")
	}
	p, err := proc.Start(proc.Options{
		Path: filepath.Join(m.o.BinDir, "prometheus"), Log: m.file("prometheus.log"),
		Args: []string{
			"--config.file=" + m.file("prometheus.yaml"), "--storage.tsdb.path=" + m.file("prometheus"),
			fmt.Sprintf("--web.listen-address=127.0.0.1:%d", m.ports[0]),
			fmt.Sprintf("--rules.alert.resend-delay=%s", m.o.ResendDelay), "--rules.alert.for-grace-period=1s",
			"--web.enable-lifecycle", "--web.config.file=" + m.file("prometheus-web.yaml"),
		},
	})
	if err != nil {
		return err
	}
	m.prometheus = p
	m.o.Log.Info("started", "program", "prometheus", "pid", p.PID())
	return p.WaitReady(ctx, proc.OK(m.o.PrometheusClient, m.PrometheusURL+"/-/ready"))
}

// SetExtraRules replaces the extra rule file and returns when Prometheus has loaded it.
func (m *Monitoring) SetExtraRules(ctx context.Context, rules string) error {
	if err := m.write("extra-rules.yaml", cmp.Or(rules, "groups: []")); err != nil {
		return fmt.Errorf("set extra rules: %w", err)
	}
	if err := call(ctx, m.o.PrometheusClient, http.MethodPost, m.PrometheusURL+"/-/reload", nil, nil); err != nil {
		return fmt.Errorf("set extra rules: %w", err)
	}
	return nil
}

// StopPrometheus ends Prometheus as an upgrade would.
func (m *Monitoring) StopPrometheus() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.prometheus.Stop()
}

// KillPrometheus ends Prometheus as a crash would.
func (m *Monitoring) KillPrometheus() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.prometheus.Kill()
}

// EmptyPrometheus takes away what a Prometheus that does not run has stored.
func (m *Monitoring) EmptyPrometheus() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.prometheus.Running() {
		return errors.New("prometheus runs")
	}
	return os.RemoveAll(m.file("prometheus"))
}

// StartAlertmanager starts a replica on the data that it had.
func (m *Monitoring) StartAlertmanager(ctx context.Context, i int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.alertmanagers[i].Running() {
		return fmt.Errorf("alertmanager %d runs already", i)
	}
	name := fmt.Sprintf("alertmanager-%d", i)
	p, err := proc.Start(proc.Options{
		Path: filepath.Join(m.o.BinDir, "alertmanager"), Log: m.file(name + ".log"),
		Args: []string{
			"--config.file=" + m.file("alertmanager.yaml"), "--storage.path=" + m.file(name),
			fmt.Sprintf("--listen-address=127.0.0.1:%d", m.ports[1+i]),
		},
	})
	if err != nil {
		return err
	}
	m.alertmanagers[i] = p
	m.o.Log.Info("started", "program", name, "pid", p.PID())
	return p.WaitReady(ctx, proc.OK(http.DefaultClient, m.AlertmanagerURLs[i]+"/-/ready"))
}

// StopAlertmanager ends a replica as an upgrade would.
func (m *Monitoring) StopAlertmanager(i int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alertmanagers[i].Stop()
}

// KillAlertmanager ends a replica as a crash would.
func (m *Monitoring) KillAlertmanager(i int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alertmanagers[i].Kill()
}

// Stop ends all of them.
func (m *Monitoring) Stop() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	// There is nothing to save.
	errs := []error{m.prometheus.Kill()}
	for _, a := range m.alertmanagers {
		errs = append(errs, a.Kill())
	}
	return errors.Join(errs...)
}
