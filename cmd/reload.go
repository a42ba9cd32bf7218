package cmd

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/web"
)

// liveConfig is what can change while the process runs: the catalogue and the settings. All else needs a restart.
type liveConfig struct {
	file       string
	rules      *rules.Store
	procedures sop.Procedures
	web        *web.Front
	settings   atomic.Pointer[policy.Settings]

	mu sync.Mutex
	// seen digests the files as they were last loaded, or found broken.
	seen       [sha256.Size]byte
	conditions []string

	successful, successTime prometheus.Gauge
}

func newLiveConfig(file string, cfg config, catalogue *rules.Catalogue, procedures sop.Procedures, front *web.Front, reg prometheus.Registerer) (*liveConfig, error) {
	settings, err := cfg.settings()
	if err != nil {
		return nil, err
	}
	factory := promauto.With(reg)
	l := &liveConfig{
		file:       file,
		rules:      rules.NewStore(catalogue),
		procedures: procedures,
		web:        front,
		conditions: cfg.Conditions,
		successful: factory.NewGauge(prometheus.GaugeOpts{
			Name: "aegis_config_last_reload_successful",
			Help: "Whether the last reload of the configuration succeeded (1) or left the old one in place (0).",
		}),
		successTime: factory.NewGauge(prometheus.GaugeOpts{
			Name: "aegis_config_last_reload_success_timestamp_seconds",
			Help: "Time of the last successful load of the configuration, in seconds since the epoch.",
		}),
	}
	l.settings.Store(&settings)
	l.seen = l.digest()
	l.loaded()
	return l, nil
}

func (l *liveConfig) current() policy.Settings { return *l.settings.Load() }

func (l *liveConfig) loaded() {
	l.successful.Set(1)
	l.successTime.Set(float64(time.Now().Unix()))
}

// changed reports whether a file has another content than when it was last looked at.
func (l *liveConfig) changed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.digest()
	changed := now != l.seen
	l.seen = now
	return changed
}

// digest takes the content of all files into one sum. A file that cannot be read counts with its error.
func (l *liveConfig) digest() [sha256.Size]byte {
	var content []byte
	for _, name := range slices.Concat([]string{l.file}, l.conditions, l.web.Files()) {
		if name == "" {
			continue
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			raw = []byte(err.Error())
		}
		content = fmt.Appendf(content, "%d %s\n%s", len(raw), name, raw)
	}
	return sha256.Sum256(content)
}

// load reads everything anew and swaps it in. A bad file changes nothing, but renewed certificates do not wait until somebody
// has repaired aegis.yaml. It reports whether there are another catalogue and other settings.
func (l *liveConfig) load() (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = l.digest()
	webErr := l.web.Reload()
	err := l.loadConfig()
	if webErr != nil || err != nil {
		l.successful.Set(0)
		return err == nil, errors.Join(webErr, err)
	}
	l.seen = l.digest() // Other files may have been named.
	l.loaded()
	return true, nil
}

// loadAll reads an aegis.yaml and the files that it names. What starts can be reloaded, since both read the same.
func loadAll(file string, procedures sop.Procedures) (config, *rules.Catalogue, error) {
	cfg, err := loadConfig(file)
	if err != nil {
		return cfg, nil, err
	}
	catalogue, err := loadCatalogue(rules.Options{Files: cfg.Conditions, Mode: cfg.Mode, Preset: cfg.Preset}, procedures)
	if err != nil {
		return cfg, nil, err
	}
	return cfg, catalogue, checkSources(file, cfg, catalogue)
}

func (l *liveConfig) loadConfig() error {
	cfg, catalogue, err := loadAll(l.file, l.procedures)
	if err != nil {
		return err
	}
	settings, err := cfg.settings()
	if err != nil {
		return err
	}
	l.conditions = cfg.Conditions
	l.rules.Swap(catalogue)
	l.settings.Store(&settings)
	return nil
}

// reload takes a changed configuration into use, for the conditions that are queued already as well.
func (a *app) reload() error {
	swapped, err := a.config.load()
	if !swapped {
		return err
	}
	a.queue.Reprioritise(a.config.rules.Current().Renew)
	a.dispatcher.Reconsider()
	a.logger.Info("configuration loaded", "conditions", len(a.config.rules.Current().Conditions()))
	return err
}
