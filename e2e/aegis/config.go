package aegis

import (
	"fmt"
	"os"
	"time"

	"go.yaml.in/yaml/v3"

	"aegis.io/aegis/rules"
)

// Config is aegis.yaml. What is zero is left out, and has the default of the product.
type Config struct {
	Mode               string         `yaml:"mode,omitempty"`
	Paused             bool           `yaml:"paused,omitempty"`
	ManageControlPlane bool           `yaml:"manageControlPlane,omitempty"`
	Cluster            string         `yaml:"cluster,omitempty"`
	NodeLabels         []string       `yaml:"nodeLabels,omitempty"`
	Conditions         []string       `yaml:"conditions,omitempty"`
	Prometheus         Prometheus     `yaml:"prometheus,omitempty"`
	Alertmanagers      []Alertmanager `yaml:"alertmanagers,omitempty"`
	Permission         string         `yaml:"permission,omitempty"`
	WhenAway           string         `yaml:"whenAlertmanagerIsAway,omitempty"`
	AwayAfter          time.Duration  `yaml:"alertmanagerAwayAfter,omitempty"`
	Sources            []Source       `yaml:"sources,omitempty"`
	ResyncInterval     time.Duration  `yaml:"resyncInterval,omitempty"`
	HoldInterval       time.Duration  `yaml:"holdInterval,omitempty"`
	PollInterval       time.Duration  `yaml:"pollInterval,omitempty"`
	Jobs               Jobs           `yaml:"jobs,omitempty"`
	LeaderElection     LeaderElection `yaml:"leaderElection,omitempty"`
	Pools              []Pool         `yaml:"pools,omitempty"`
	Limits             Limits         `yaml:"limits,omitempty"`
	Auth               Auth           `yaml:"auth,omitempty"`

	// Overlay is the text of conditions.yaml, which overrides the embedded catalogue. Empty writes none. It is not a part
	// of aegis.yaml: Configure puts it into a file of its own and adds that to Conditions.
	Overlay string `yaml:"-"`
	// ConfirmFor replaces that of each condition of the embedded catalogue that has one. Zero leaves them. Overlay wins.
	ConfirmFor time.Duration `yaml:"-"`
}

// Prometheus is the field prometheus of aegis.yaml.
type Prometheus struct {
	URL       string        `yaml:"url,omitempty"`
	TokenFile string        `yaml:"tokenFile,omitempty"`
	Canary    string        `yaml:"canary,omitempty"`
	MaxAge    time.Duration `yaml:"maxAge,omitempty"`
	// HTTPConfig is an <http_config> of Prometheus.
	HTTPConfig map[string]any `yaml:"httpConfig,omitempty"`
}

// Alertmanager is an element of the field alertmanagers of aegis.yaml.
type Alertmanager struct {
	URL       string `yaml:"url"`
	TokenFile string `yaml:"tokenFile,omitempty"`
}

// Source is an element of the field sources of aegis.yaml.
type Source struct {
	Name        string        `yaml:"name"`
	Query       string        `yaml:"query"`
	Alive       string        `yaml:"alive,omitempty"`
	Condition   string        `yaml:"condition,omitempty"`
	NodeLabel   string        `yaml:"nodeLabel,omitempty"`
	DeviceLabel string        `yaml:"deviceLabel,omitempty"`
	Above       *float64      `yaml:"above,omitempty"`
	Clear       *float64      `yaml:"clear,omitempty"`
	For         time.Duration `yaml:"for,omitempty"`
	MaxAge      time.Duration `yaml:"maxAge,omitempty"`
}

// Jobs is the field jobs of aegis.yaml.
type Jobs struct {
	Namespace      string        `yaml:"namespace,omitempty"`
	Image          string        `yaml:"image,omitempty"`
	ServiceAccount string        `yaml:"serviceAccount,omitempty"`
	Templates      string        `yaml:"templates,omitempty"`
	PollInterval   time.Duration `yaml:"pollInterval,omitempty"`
}

// LeaderElection is the field leaderElection of aegis.yaml.
type LeaderElection struct {
	Enabled       *bool         `yaml:"enabled,omitempty"`
	Namespace     string        `yaml:"namespace,omitempty"`
	Name          string        `yaml:"name,omitempty"`
	LeaseDuration time.Duration `yaml:"leaseDuration,omitempty"`
	RenewDeadline time.Duration `yaml:"renewDeadline,omitempty"`
	RetryPeriod   time.Duration `yaml:"retryPeriod,omitempty"`
}

// Pool is an element of the field pools of aegis.yaml.
type Pool struct {
	Name                   string        `yaml:"name"`
	Selector               string        `yaml:"selector,omitempty"`
	MaxOutOfServicePercent *int          `yaml:"maxOutOfServicePercent,omitempty"`
	MaxOutOfService        int           `yaml:"maxOutOfService,omitempty"`
	MaxDestructive         *int          `yaml:"maxDestructive,omitempty"`
	Profile                string        `yaml:"profile,omitempty"`
	StormPercent           *int          `yaml:"stormPercent,omitempty"`
	StormNodes             int           `yaml:"stormNodes,omitempty"`
	StormWindow            time.Duration `yaml:"stormWindow,omitempty"`
	StormRelease           time.Duration `yaml:"stormRelease,omitempty"`
	MaxIncidents           int           `yaml:"maxIncidents,omitempty"`
	IncidentWindow         time.Duration `yaml:"incidentWindow,omitempty"`
}

// Limits is the field limits of aegis.yaml.
type Limits struct {
	MaxOutOfServicePercent *int `yaml:"maxOutOfServicePercent,omitempty"`
	MaxOutOfService        int  `yaml:"maxOutOfService,omitempty"`
	MaxDestructivePercent  *int `yaml:"maxDestructivePercent,omitempty"`
	MaxDestructive         int  `yaml:"maxDestructive,omitempty"`
	StormPercent           *int `yaml:"stormPercent,omitempty"`
	StormNodes             int  `yaml:"stormNodes,omitempty"`
}

// Auth is the field auth of aegis.yaml.
type Auth struct {
	AllowLoopback bool    `yaml:"allowLoopback,omitempty"`
	Tokens        []Token `yaml:"tokens,omitempty"`
	Users         []Grant `yaml:"users,omitempty"`
	Certificates  []Grant `yaml:"certificates,omitempty"`
}

// Grant is an element of the fields auth.users and auth.certificates of aegis.yaml.
type Grant struct {
	Name  string   `yaml:"name"`
	Roles []string `yaml:"roles"`
}

// Token is an element of the field auth.tokens of aegis.yaml.
type Token struct {
	File  string   `yaml:"file"`
	Roles []string `yaml:"roles"`
}

// Fast returns a configuration that acts on its own and looks at everything every second, so that a test need not wait.
func Fast(prometheus string, alertmanagers []string) Config {
	c := Config{
		Mode:           "auto",
		Prometheus:     Prometheus{URL: prometheus},
		ResyncInterval: time.Second,
		HoldInterval:   time.Second,
		PollInterval:   500 * time.Millisecond,
		Jobs:           Jobs{PollInterval: 500 * time.Millisecond},
		ConfirmFor:     time.Second,
		Auth:           Auth{AllowLoopback: true},
		// The tests have a few nodes, and say themselves how many of them may be out of service.
		Limits:         Limits{MaxOutOfServicePercent: new(100), MaxDestructivePercent: new(100), StormPercent: new(100)},
		LeaderElection: LeaderElection{LeaseDuration: 5 * time.Second, RenewDeadline: 4 * time.Second, RetryPeriod: time.Second},
	}
	for _, url := range alertmanagers {
		c.Alertmanagers = append(c.Alertmanagers, Alertmanager{URL: url})
	}
	return c
}

// confirming returns the text of a file that sets confirmFor of each condition that has one.
func confirming(after time.Duration) ([]byte, error) {
	catalogue, err := rules.Load(rules.Options{})
	if err != nil {
		return nil, err
	}
	type policy struct {
		ConfirmFor string `yaml:"confirmFor"`
	}
	type condition struct {
		Name   string
		Policy policy
	}
	var file struct{ Conditions []condition }
	for _, c := range catalogue.Conditions() {
		if c.Policy.ConfirmFor > 0 {
			file.Conditions = append(file.Conditions, condition{c.Name, policy{after.String()}})
		}
	}
	return yaml.Marshal(file)
}

// Configure writes aegis.yaml and, if there is an overlay, conditions.yaml. Aegis reads them when it starts or reloads.
func (a *Aegis) Configure(c Config) error {
	if c.ConfirmFor > 0 {
		text, err := confirming(c.ConfirmFor)
		if err != nil {
			return fmt.Errorf("configure: %w", err)
		}
		if err := os.WriteFile(a.ConfirmFile, text, 0o600); err != nil {
			return fmt.Errorf("configure: %w", err)
		}
		c.Conditions = append([]string{a.ConfirmFile}, c.Conditions...)
	}
	if c.Overlay != "" {
		if err := os.WriteFile(a.ConditionsFile, []byte(c.Overlay), 0o600); err != nil {
			return fmt.Errorf("configure: %w", err)
		}
		c.Conditions = append(c.Conditions[:len(c.Conditions):len(c.Conditions)], a.ConditionsFile)
	}
	text, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	if err := os.WriteFile(a.ConfigFile, text, 0o600); err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	return nil
}
