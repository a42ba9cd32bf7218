package cmd

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"aegis.io/aegis/handler"
	"aegis.io/aegis/queue"
	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/strict"
	"aegis.io/aegis/ticket"
)

// config is aegis.yaml. docs/configuration.md explains each field.
type config struct {
	Mode               prom.Mode            `yaml:"mode"`
	Preset             string               `yaml:"preset"`
	Paused             bool                 `yaml:"paused"`
	ManageControlPlane bool                 `yaml:"manageControlPlane"`
	Cluster            string               `yaml:"cluster"`
	ClusterLabel       string               `yaml:"clusterLabel"`
	NodeLabels         []string             `yaml:"nodeLabels"`
	Conditions         []string             `yaml:"conditions"`
	Prometheus         prometheusConfig     `yaml:"prometheus"`
	Alertmanagers      []alertmanagerConfig `yaml:"alertmanagers"`
	Permission         queue.Permitter      `yaml:"permission"`
	WhenAway           queue.AwayChoice     `yaml:"whenAlertmanagerIsAway"`
	AwayAfter          time.Duration        `yaml:"alertmanagerAwayAfter"`
	Sources            []sourceConfig       `yaml:"sources"`
	ResyncInterval     time.Duration        `yaml:"resyncInterval"`
	HoldInterval       time.Duration        `yaml:"holdInterval"`
	PollInterval       time.Duration        `yaml:"pollInterval"`
	Jobs               jobsConfig           `yaml:"jobs"`
	LeaderElection     leaderConfig         `yaml:"leaderElection"`
	IntakeTaints       []taintConfig        `yaml:"intakeTaints"`
	Pools              []poolConfig         `yaml:"pools"`
	Limits             limitsConfig         `yaml:"limits"`
	Auth               authConfig           `yaml:"auth"`
}

type prometheusConfig struct {
	Server  serverConfig       `yaml:",inline"`
	Canary  string             `yaml:"canary"`
	MaxAge  time.Duration      `yaml:"maxAge"`
	Servers []prometheusServer `yaml:"servers"`
}

// prometheusServer is one more Prometheus. Each sees all nodes, or some of them.
type prometheusServer struct {
	Server serverConfig `yaml:",inline"`
	Canary string       `yaml:"canary"`
}

// labelName is a name of a label that PromQL takes without quotes.
var labelName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// cluster says which alerts are of this cluster.
func (c config) cluster() prom.Cluster { return prom.Cluster{Label: c.ClusterLabel, Name: c.Cluster} }

// canaries returns the names of the alerts that fire at each Prometheus all the time.
func (c config) canaries() []string {
	names := []string{source.DefaultCanary}
	for _, p := range c.Prometheus.all() {
		names = append(names, p.Canary)
	}
	for _, s := range c.Sources {
		names = append(names, s.Canary)
	}
	return names
}

// all returns every server, each with its canary: the one that the section itself names comes first.
func (p prometheusConfig) all() []prometheusServer {
	var all []prometheusServer
	if p.Server.URL != "" {
		all = append(all, prometheusServer{Server: p.Server, Canary: p.Canary})
	}
	for _, s := range p.Servers {
		s.Canary = cmp.Or(s.Canary, p.Canary)
		all = append(all, s)
	}
	return all
}

// validate says what is wrong with the servers.
func (p prometheusConfig) validate() error {
	errs := []error{p.Server.validate("prometheus", false)}
	known := map[string]string{p.Server.URL: "prometheus.url"}
	for i, s := range p.Servers {
		field := fmt.Sprintf("prometheus.servers[%d]", i)
		errs = append(errs, s.Server.validate(field, true))
		if other, again := known[s.Server.URL]; again && s.Server.URL != "" {
			errs = append(errs, mistakef(field+".url", "is that of %s already", other))
		}
		known[s.Server.URL] = field + ".url"
	}
	return errors.Join(errs...)
}

type alertmanagerConfig struct {
	Server serverConfig `yaml:",inline"`
}

// serverConfig says where a server is and how it is reached.
type serverConfig struct {
	URL        string             `yaml:"url"`
	TokenFile  string             `yaml:"tokenFile"`
	HTTPConfig *source.HTTPConfig `yaml:"httpConfig"`
}

type jobsConfig struct {
	Namespace      string        `yaml:"namespace"`
	Image          string        `yaml:"image"`
	ServiceAccount string        `yaml:"serviceAccount"`
	Templates      string        `yaml:"templates"`
	PollInterval   time.Duration `yaml:"pollInterval"`
}

type leaderConfig struct {
	Enabled       *bool         `yaml:"enabled"`
	Namespace     string        `yaml:"namespace"`
	Name          string        `yaml:"name"`
	LeaseDuration time.Duration `yaml:"leaseDuration"`
	RenewDeadline time.Duration `yaml:"renewDeadline"`
	RetryPeriod   time.Duration `yaml:"retryPeriod"`
	MaxDueAge     time.Duration `yaml:"maxDueAge"`
}

type poolConfig struct {
	Name                   string `yaml:"name"`
	Selector               string `yaml:"selector"`
	MaxOutOfServicePercent *int   `yaml:"maxOutOfServicePercent"`
	MaxOutOfService        int    `yaml:"maxOutOfService"`
	MaxDestructive         *int   `yaml:"maxDestructive"`
	Profile                string `yaml:"profile"`

	StormPercent *int           `yaml:"stormPercent"`
	StormNodes   int            `yaml:"stormNodes"`
	StormWindow  *time.Duration `yaml:"stormWindow"`
	StormRelease *time.Duration `yaml:"stormRelease"`

	MaxIncidents   *int           `yaml:"maxIncidents"`
	MaxRepeats     *int           `yaml:"maxRepeats"`
	IncidentWindow *time.Duration `yaml:"incidentWindow"`

	MaintenanceWindows []windowConfig `yaml:"maintenanceWindows"`

	IntakeTaints []taintConfig `yaml:"intakeTaints"`
}

// limitsConfig bounds all nodes together.
type limitsConfig struct {
	MaxOutOfServicePercent *int           `yaml:"maxOutOfServicePercent"`
	MaxOutOfService        int            `yaml:"maxOutOfService"`
	MaxDestructivePercent  *int           `yaml:"maxDestructivePercent"`
	MaxDestructive         int            `yaml:"maxDestructive"`
	StormPercent           *int           `yaml:"stormPercent"`
	StormNodes             int            `yaml:"stormNodes"`
	StormWindow            *time.Duration `yaml:"stormWindow"`
	StormRelease           *time.Duration `yaml:"stormRelease"`
}

type windowConfig struct {
	Days     []string `yaml:"days"`
	From     string   `yaml:"from"`
	To       string   `yaml:"to"`
	TimeZone string   `yaml:"timeZone"`
}

type authConfig struct {
	Tokens       []tokenConfig `yaml:"tokens"`
	Users        []grantConfig `yaml:"users"`
	Certificates []grantConfig `yaml:"certificates"`
	// AllowLoopback lets requests from this host write where there are no tokens, users and certificates.
	AllowLoopback bool `yaml:"allowLoopback"`
}

type grantConfig struct {
	Name  string         `yaml:"name"`
	Roles []handler.Role `yaml:"roles"`
}

// namesOf returns whom the grants are for.
func namesOf(grants []grantConfig) []string {
	var all []string
	for _, g := range grants {
		all = append(all, g.Name)
	}
	return all
}

type tokenConfig struct {
	File  string         `yaml:"file"`
	Roles []handler.Role `yaml:"roles"`
}

// leastDueAge is how long a decision may be due at the least until the leader resigns.
const leastDueAge = 20 * time.Second

// mistake is what is wrong with a field, such as pools[1].selector, for a reason that the field's type does not know.
type mistake struct{ field, text string }

func (m *mistake) Error() string { return m.field + " " + m.text }

func mistakef(field, format string, args ...any) error {
	return &mistake{field, fmt.Sprintf(format, args...)}
}

// loadConfig reads aegis.yaml, fills in the defaults, and says everything that is wrong with it at once. Relative paths in
// the file are relative to it. An empty name means the defaults alone.
func loadConfig(name string) (config, error) {
	var c config
	if name == "" {
		return c.withDefaults(), nil
	}
	raw, err := strict.ReadFile(name)
	if err != nil {
		return config{}, fmt.Errorf("%s: %w", name, err)
	}
	return decodeConfig(name, raw)
}

func decodeConfig(name string, raw []byte) (config, error) {
	var c config
	d := strict.NewDecoder(name)
	d.Aliases = true
	if root, ok := d.Document(raw, ""); ok {
		d.Decode(root, &c)
	}
	c.resolvePaths(filepath.Dir(name))
	c = c.withDefaults()
	place(d, c.validate())
	return c, d.Err()
}

// place notes each mistake at its field.
func place(d *strict.Decoder, err error) {
	switch err := err.(type) { //nolint:errorlint // Takes the tree of joined errors apart.
	case nil:
	case interface{ Unwrap() []error }:
		for _, inner := range err.Unwrap() {
			place(d, inner)
		}
	case *mistake:
		d.FailAt(err.field, "%v", err)
	default:
		d.FailAt("", "%v", err)
	}
}

func (c *config) resolvePaths(dir string) {
	resolve := func(path *string) {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(dir, *path)
		}
	}
	for i := range c.Conditions {
		resolve(&c.Conditions[i])
	}
	resolve(&c.Jobs.Templates)
	c.Prometheus.Server.resolvePaths(dir)
	for i := range c.Prometheus.Servers {
		c.Prometheus.Servers[i].Server.resolvePaths(dir)
	}
	for i := range c.Alertmanagers {
		c.Alertmanagers[i].Server.resolvePaths(dir)
	}
	for i := range c.Sources {
		c.Sources[i].Server.resolvePaths(dir)
	}
	for i := range c.Auth.Tokens {
		resolve(&c.Auth.Tokens[i].File)
	}
}

func (s *serverConfig) resolvePaths(dir string) {
	if s.TokenFile != "" && !filepath.IsAbs(s.TokenFile) {
		s.TokenFile = filepath.Join(dir, s.TokenFile)
	}
	if s.HTTPConfig != nil {
		s.HTTPConfig.SetDirectory(dir)
	}
}

func (c config) withDefaults() config {
	timing := sop.DefaultTiming()
	c.Mode = cmp.Or(c.Mode, prom.ModeObserve)
	c.Permission = cmp.Or(c.Permission, queue.PermitAlertmanager)
	c.WhenAway = cmp.Or(c.WhenAway, queue.AwayHold)
	c.AwayAfter = cmp.Or(c.AwayAfter, queue.DefaultAwayAfter)
	c.HoldInterval = cmp.Or(c.HoldInterval, timing.Hold)
	c.PollInterval = cmp.Or(c.PollInterval, timing.Poll)
	c.Jobs.Namespace = cmp.Or(c.Jobs.Namespace, "monitoring")
	c.Jobs.Image = cmp.Or(c.Jobs.Image, "aegis:latest")
	c.Jobs.ServiceAccount = cmp.Or(c.Jobs.ServiceAccount, "aegis-op")
	c.Jobs.PollInterval = cmp.Or(c.Jobs.PollInterval, timing.Poll)
	c.LeaderElection.Namespace = cmp.Or(c.LeaderElection.Namespace, c.Jobs.Namespace)
	c.LeaderElection.Name = cmp.Or(c.LeaderElection.Name, "aegis")
	c.LeaderElection.LeaseDuration = cmp.Or(c.LeaderElection.LeaseDuration, 15*time.Second)
	c.LeaderElection.RenewDeadline = cmp.Or(c.LeaderElection.RenewDeadline, 10*time.Second)
	c.LeaderElection.RetryPeriod = cmp.Or(c.LeaderElection.RetryPeriod, 2*time.Second)
	c.LeaderElection.MaxDueAge = cmp.Or(c.LeaderElection.MaxDueAge, time.Minute)
	if c.LeaderElection.Enabled == nil {
		c.LeaderElection.Enabled = new(true)
	}
	return c
}

func (c config) validate() error {
	var errs []error
	if !c.Mode.Known() {
		errs = append(errs, mistakef("mode", "%q is unknown, %s", c.Mode, strict.Hint(string(c.Mode), prom.Modes())))
	}
	if c.Preset != "" && c.knownPreset() == "" {
		errs = append(errs, mistakef("preset", "%q is unknown, %s", c.Preset, strict.Hint(c.Preset, rules.Presets())))
	}
	if c.ClusterLabel != "" && !labelName.MatchString(c.ClusterLabel) {
		errs = append(errs, mistakef("clusterLabel", "%s is no name of a label: it must begin with a letter or _, and have letters, digits and _ only",
			strict.Quote(c.ClusterLabel)))
	}
	errs = append(errs, c.Prometheus.validate())
	for i, a := range c.Alertmanagers {
		errs = append(errs, a.Server.validate(fmt.Sprintf("alertmanagers[%d]", i), true))
	}
	errs = append(errs, c.validatePermission())
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"resyncInterval", c.ResyncInterval},
		{"holdInterval", c.HoldInterval},
		{"pollInterval", c.PollInterval},
		{"jobs.pollInterval", c.Jobs.PollInterval},
		{"prometheus.maxAge", c.Prometheus.MaxAge},
	} {
		if d.value < 0 {
			errs = append(errs, mistakef(d.name, "%s is negative", d.value))
		}
	}
	l := c.LeaderElection
	if l.LeaseDuration <= l.RenewDeadline || l.RenewDeadline <= l.RetryPeriod*6/5 || l.RetryPeriod <= 0 {
		errs = append(errs, mistakef("leaderElection.leaseDuration", "%s must exceed renewDeadline %s, and that 1.2 times retryPeriod %s",
			l.LeaseDuration, l.RenewDeadline, l.RetryPeriod))
	}
	if l.MaxDueAge < leastDueAge {
		errs = append(errs, mistakef("leaderElection.maxDueAge", "%s is less than %s: the first pass over the sources alone may take 15s", l.MaxDueAge, leastDueAge))
	}
	_, err := c.settings()
	return errors.Join(append(errs, c.validateSources(), c.Auth.validate(), err)...)
}

// knownPreset returns the preset, empty when there is none of that name.
func (c config) knownPreset() string {
	if slices.Contains(rules.Presets(), c.Preset) {
		return c.Preset
	}
	return ""
}

func (a authConfig) validate() error {
	var errs []error
	for i, t := range a.Tokens {
		field := fmt.Sprintf("auth.tokens[%d]", i)
		if t.File == "" {
			errs = append(errs, mistakef(field+".file", "is missing"))
		}
		errs = append(errs, checkRoles(field, t.Roles))
	}
	return errors.Join(append(errs, checkGrants("auth.users", a.Users), checkGrants("auth.certificates", a.Certificates))...)
}

func checkGrants(field string, grants []grantConfig) error {
	var errs []error
	seen := make(map[string]bool)
	for i, g := range grants {
		at := fmt.Sprintf("%s[%d]", field, i)
		if g.Name == "" || seen[g.Name] {
			errs = append(errs, mistakef(at+".name", "%q is empty or used twice", g.Name))
		}
		seen[g.Name] = true
		errs = append(errs, checkRoles(at, g.Roles))
	}
	return errors.Join(errs...)
}

func checkRoles(field string, roles []handler.Role) error {
	if len(roles) == 0 {
		return mistakef(field+".roles", "is missing, %s", strict.Hint("", handler.Roles()))
	}
	var errs []error
	for i, role := range roles {
		if !slices.Contains(handler.Roles(), role) {
			errs = append(errs, mistakef(fmt.Sprintf("%s.roles[%d]", field, i), "is the unknown role %q, %s", role, strict.Hint(string(role), handler.Roles())))
		}
	}
	return errors.Join(errs...)
}

// validate says what is wrong with the fields below the one that holds the server.
func (s serverConfig) validate(field string, required bool) error {
	errs := []error{checkURL(field+".url", s.URL, required)}
	if s.HTTPConfig == nil {
		return errors.Join(errs...)
	}
	if s.TokenFile != "" && s.HTTPConfig.Authenticates() {
		errs = append(errs, mistakef(field+".tokenFile", "excludes the credentials of httpConfig"))
	}
	return errors.Join(append(errs, below(field+".httpConfig", s.HTTPConfig.Validate()))...)
}

// below turns what is wrong with an HTTP configuration into mistakes in the fields below the one that holds it.
func below(field string, err error) error {
	var wrong *source.FieldError
	switch joined := err.(type) { //nolint:errorlint // Takes the tree of joined errors apart.
	case nil:
		return nil
	case interface{ Unwrap() []error }:
		var errs []error
		for _, inner := range joined.Unwrap() {
			errs = append(errs, below(field, inner))
		}
		return errors.Join(errs...)
	}
	if !errors.As(err, &wrong) {
		return mistakef(field, "is not valid: %v", err)
	}
	return mistakef(strings.TrimSuffix(field+"."+wrong.Field, "."), "%s", wrong.Text)
}

// http returns how the server is reached.
func (s serverConfig) http() *source.HTTPConfig {
	if s.TokenFile == "" {
		return s.HTTPConfig
	}
	c := source.DefaultHTTPConfig()
	if s.HTTPConfig != nil {
		c = *s.HTTPConfig
	}
	return new(c.WithTokenFile(s.TokenFile))
}

func checkURL(field, text string, required bool) error {
	if text == "" && !required {
		return nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return mistakef(field, "is not a URL such as http://host:9090")
	case u.User != nil:
		return mistakef(field, "must not hold credentials: use httpConfig.basic_auth, with a password_file")
	case u.RawQuery != "" || u.Fragment != "":
		return mistakef(field, "must have neither a query nor a fragment")
	}
	return nil
}

// pools returns the pools in the order of the file.
func (c config) pools() ([]policy.Pool, error) {
	var pools []policy.Pool
	var errs []error
	seen := make(map[string]bool)
	for i, p := range c.Pools {
		field := fmt.Sprintf("pools[%d]", i)
		if p.Name == "" || seen[p.Name] {
			errs = append(errs, mistakef(field+".name", "%q is empty or used twice", p.Name))
		}
		switch p.Name {
		case policy.DefaultName:
			errs = append(errs, mistakef(field+".name", "%q is the name of the nodes that no pool selects", p.Name))
		case policy.ClusterName:
			errs = append(errs, mistakef(field+".name", "%q is the name of all nodes together, whose limits are in limits", p.Name))
		}
		seen[p.Name] = true
		pool, err := p.pool(field)
		pools, errs = append(pools, pool), append(errs, err)
	}
	return pools, errors.Join(errs...)
}

// pool returns the pool with the defaults of one that says nothing.
func (p poolConfig) pool(field string) (policy.Pool, error) {
	pool := policy.DefaultPool()
	pool.Name, pool.Profile = p.Name, cmp.Or(p.Profile, pool.Profile)
	pool.MaxPercent = valueOr(p.MaxOutOfServicePercent, pool.MaxPercent)
	pool.MaxNodes = p.MaxOutOfService
	pool.MaxDestructive = valueOr(p.MaxDestructive, pool.MaxDestructive)
	pool.StormPercent, pool.StormNodes = valueOr(p.StormPercent, pool.StormPercent), p.StormNodes
	pool.StormWindow, pool.StormRelease = valueOr(p.StormWindow, pool.StormWindow), valueOr(p.StormRelease, pool.StormRelease)
	pool.MaxIncidents, pool.MaxRepeats = valueOr(p.MaxIncidents, pool.MaxIncidents), valueOr(p.MaxRepeats, pool.MaxRepeats)
	pool.IncidentWindow = valueOr(p.IncidentWindow, pool.IncidentWindow)
	errs := []error{checkPool(field, pool)}
	var err error
	if pool.Selector, err = labels.Parse(p.Selector); err != nil {
		errs = append(errs, mistakef(field+".selector", "is not a label selector: %v", err))
	}
	for i, w := range p.MaintenanceWindows {
		window, err := policy.ParseWindow(w.Days, w.From, w.To, w.TimeZone)
		if err != nil {
			errs = append(errs, mistakef(fmt.Sprintf("%s.maintenanceWindows[%d]", field, i), "is not a window: %v", err))
		}
		pool.Windows = append(pool.Windows, window)
	}
	pool.IntakeTaints, err = intakeTaints(field+".intakeTaints", p.IntakeTaints)
	return pool, errors.Join(append(errs, err)...)
}

// cluster returns what bounds all nodes together, with the defaults of what is not set.
func (l limitsConfig) cluster() (policy.Pool, error) {
	p := policy.DefaultCluster()
	p.MaxPercent, p.MaxNodes = valueOr(l.MaxOutOfServicePercent, p.MaxPercent), l.MaxOutOfService
	p.MaxDestructivePercent, p.MaxDestructive = valueOr(l.MaxDestructivePercent, p.MaxDestructivePercent), l.MaxDestructive
	p.StormPercent, p.StormNodes = valueOr(l.StormPercent, p.StormPercent), l.StormNodes
	p.StormWindow, p.StormRelease = valueOr(l.StormWindow, p.StormWindow), valueOr(l.StormRelease, p.StormRelease)
	return p, checkRanges("limits", append(sharedLimits(p),
		bound{"maxDestructivePercent", int64(p.MaxDestructivePercent), 0, 100},
		bound{"maxDestructive", int64(p.MaxDestructive), 0, math.MaxInt32},
	))
}

// wideLimits names the limits of pools that allow more than those of the cluster, which hold above them.
func (c config) wideLimits() []string {
	settings, err := c.settings()
	if err != nil {
		return nil
	}
	var wide []string
	for i, p := range settings.Pools {
		if all := settings.Cluster; p.MaxPercent > all.MaxPercent {
			wide = append(wide, fmt.Sprintf("pools[%d].maxOutOfServicePercent is %d: of all nodes together no more than limits.maxOutOfServicePercent %d may be out of service",
				i, p.MaxPercent, all.MaxPercent))
		}
	}
	return wide
}

// bound is a limit and the range that it must be in.
type bound struct {
	name               string
	value, least, most int64
}

// sharedLimits are those of a pool and of the cluster.
func sharedLimits(p policy.Pool) []bound {
	return []bound{
		{"maxOutOfServicePercent", int64(p.MaxPercent), 0, 100},
		{"maxOutOfService", int64(p.MaxNodes), 0, math.MaxInt32},
		{"stormPercent", int64(p.StormPercent), 0, 100},
		{"stormNodes", int64(p.StormNodes), 0, math.MaxInt32},
		{"stormWindow in seconds", int64(p.StormWindow / time.Second), 1, math.MaxInt32},
		{"stormRelease in seconds", int64(p.StormRelease / time.Second), 0, math.MaxInt32},
	}
}

// checkPool names each limit that is out of its range.
func checkPool(field string, p policy.Pool) error {
	err := checkRanges(field, append(sharedLimits(p), []bound{
		{"maxDestructive", int64(p.MaxDestructive), 1, math.MaxInt32},
		{"maxIncidents", int64(p.MaxIncidents), 0, ticket.MaxIncidents},
		{"maxRepeats", int64(p.MaxRepeats), 0, ticket.MaxIncidents},
		{"incidentWindow in seconds", int64(p.IncidentWindow / time.Second), 1, math.MaxInt32},
	}...))
	if p.IncidentWindow <= ticket.DestructiveCounts {
		return err
	}
	return errors.Join(err, mistakef(field+".incidentWindow", "is %v, must be at most %v: the history of a node does not reach back further",
		p.IncidentWindow, ticket.DestructiveCounts))
}

// checkRanges names each limit that is out of its range.
func checkRanges(field string, limits []bound) error {
	var errs []error
	for _, limit := range limits {
		if limit.value < limit.least || limit.value > limit.most {
			name, unit, _ := strings.Cut(limit.name, " ")
			errs = append(errs, mistakef(field+"."+name, "is %s, must be from %d to %d", strings.TrimSpace(fmt.Sprint(limit.value, " ", unit)), limit.least, limit.most))
		}
	}
	return errors.Join(errs...)
}

func valueOr[T any](p *T, fallback T) T {
	if p == nil {
		return fallback
	}
	return *p
}

// settings returns what operators set for all conditions.
func (c config) settings() (policy.Settings, error) {
	intake, err := intakeTaints("intakeTaints", c.IntakeTaints)
	pools, wrong := c.pools()
	cluster, tooFar := c.Limits.cluster()
	if err := errors.Join(err, wrong, tooFar); err != nil {
		return policy.Settings{}, err
	}
	return policy.Settings{Paused: c.Paused, ManageControlPlane: c.ManageControlPlane, IntakeTaints: intake, Pools: pools, Cluster: cluster}, nil
}
