package cmd

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"aegis.io/aegis/queue"
	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/strict"
)

const (
	// maxSources bounds how many queries each pass asks.
	maxSources = 100
	// defaultConditionLabel names the condition where a source says neither the condition nor the label.
	defaultConditionLabel = "condition"
)

// sourceName is what a label of a metric and a line of people can hold.
var sourceName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,62}$`)

// sourceConfig is a query that finds conditions.
type sourceConfig struct {
	Name   string        `yaml:"name"`
	Query  string        `yaml:"query"`
	Alive  string        `yaml:"alive"`
	Server serverConfig  `yaml:",inline"`
	Canary string        `yaml:"canary"`
	MaxAge time.Duration `yaml:"maxAge"`

	NodeLabel      string `yaml:"nodeLabel"`
	Condition      string `yaml:"condition"`
	ConditionLabel string `yaml:"conditionLabel"`
	DeviceLabel    string `yaml:"deviceLabel"`

	Above   *float64      `yaml:"above"`
	Below   *float64      `yaml:"below"`
	Clear   *float64      `yaml:"clear"`
	Present bool          `yaml:"present"`
	For     time.Duration `yaml:"for"`
}

// conditionLabel returns the label that names the condition, empty when the source does.
func (s sourceConfig) conditionLabel() string {
	if s.Condition != "" {
		return ""
	}
	return cmp.Or(s.ConditionLabel, defaultConditionLabel)
}

func (s sourceConfig) threshold() queue.Threshold {
	return queue.Threshold{Above: s.Above, Below: s.Below, Clear: s.Clear, Present: s.Present, For: s.For}
}

// validateSources says what is wrong with the sources, except for what only the catalogue knows.
func (c config) validateSources() error {
	var errs []error
	if len(c.Sources) > maxSources {
		errs = append(errs, mistakef("sources", "has %d entries, at most %d are read: one query may find many conditions", len(c.Sources), maxSources))
	}
	seen := make(map[string]int)
	for i, s := range c.Sources {
		at := fmt.Sprintf("sources[%d]", i)
		first, again := seen[s.Name]
		switch {
		case s.Name == "":
			errs = append(errs, mistakef(at+".name", "is missing"))
		case !sourceName.MatchString(s.Name):
			errs = append(errs, mistakef(at+".name", "%s must begin with a letter, have letters, digits, _ and - only, and at most 63 of them", strict.Quote(s.Name)))
		case again:
			errs = append(errs, mistakef(at+".name", "%s is the name of sources[%d] already", strict.Quote(s.Name), first))
		default:
			seen[s.Name] = i
		}
		errs = append(errs, s.validateServer(at, len(c.Prometheus.all()) > 0), s.validateThreshold(at), s.validateQuery(at, c.NodeLabels))
	}
	return errors.Join(errs...)
}

func (s sourceConfig) validateServer(at string, shared bool) error {
	errs := []error{s.Server.validate(at, false)}
	if s.MaxAge < 0 {
		errs = append(errs, mistakef(at+".maxAge", "%s is negative", s.MaxAge))
	}
	if s.Server.URL != "" {
		return errors.Join(errs...)
	}
	if !shared {
		errs = append(errs, mistakef(at+".url", "is missing, and there is no prometheus.url to ask instead"))
	}
	for _, field := range []struct {
		name string
		set  bool
	}{
		{"tokenFile", s.Server.TokenFile != ""}, {"httpConfig", s.Server.HTTPConfig != nil}, {"canary", s.Canary != ""},
	} {
		if field.set {
			errs = append(errs, mistakef(at+"."+field.name, "belongs to a server of its own: set url as well, or leave it to the section prometheus"))
		}
	}
	return errors.Join(errs...)
}

func (s sourceConfig) validateThreshold(at string) error {
	var errs []error
	if s.For < 0 {
		errs = append(errs, mistakef(at+".for", "%s is negative", s.For))
	}
	switch {
	case s.Above != nil && s.Below != nil:
		errs = append(errs, mistakef(at+".below", "excludes above: use two sources"))
	case s.Present && (s.Above != nil || s.Below != nil):
		errs = append(errs, mistakef(at+".present", "takes each value for a fault, so there is nothing to be above or below"))
	case s.Clear == nil:
	case s.Above == nil && s.Below == nil:
		errs = append(errs, mistakef(at+".clear", "needs a bound: set above or below"))
	case s.Above != nil && *s.Clear > *s.Above:
		errs = append(errs, mistakef(at+".clear", "is %g, must be at most %g: a fault above that is over once the value is lower", *s.Clear, *s.Above))
	case s.Below != nil && *s.Clear < *s.Below:
		errs = append(errs, mistakef(at+".clear", "is %g, must be at least %g: a fault below that is over once the value is higher", *s.Clear, *s.Below))
	}
	return errors.Join(errs...)
}

// validateQuery checks the queries. The node labels are those of aegis.yaml.
func (s sourceConfig) validateQuery(at string, nodeLabels []string) error {
	var errs []error
	if s.Condition != "" && s.ConditionLabel != "" {
		errs = append(errs, mistakef(at+".conditionLabel", "excludes condition: a source has one condition, or a label that names it"))
	}
	names := s.nodeNames(nodeLabels)
	query, err := source.ParseExpression(s.Query)
	switch {
	case err != nil:
		errs = append(errs, mistakef(at+".query", "%v", err))
	case s.Alive == "" && query.Filters():
		errs = append(errs, mistakef(at+".query", "has a series only while its comparison holds, so nothing proves that a fault is over: "+
			"leave the comparison to above or below, or name a query alive"))
	default:
		errs = append(errs, lost(at+".query", query, names...))
		for _, label := range []string{s.conditionLabel(), s.DeviceLabel} {
			if label != "" {
				errs = append(errs, lost(at+".query", query, label))
			}
		}
	}
	if s.Alive == "" {
		return errors.Join(errs...)
	}
	alive, err := source.ParseExpression(s.Alive)
	if err != nil {
		return errors.Join(append(errs, mistakef(at+".alive", "%v", err))...)
	}
	return errors.Join(append(errs, lost(at+".alive", alive, names...))...)
}

// nodeNames returns the labels that may name the node.
func (s sourceConfig) nodeNames(configured []string) []string {
	if s.NodeLabel != "" {
		return []string{s.NodeLabel}
	}
	if configured == nil {
		configured = rules.DefaultNodeLabels()
	}
	return append([]string{"node"}, configured...)
}

// lost says which part of the query takes away the label, or all of those of which one is needed.
func lost(field string, e source.Expression, needed ...string) error {
	var where string
	for i, label := range needed {
		part, loses := e.Loses(label)
		if !loses {
			return nil
		}
		if i == 0 {
			where = part
		}
	}
	if len(needed) == 1 {
		return mistakef(field, "loses the label %s in %s: keep it there", strict.Quote(needed[0]), where)
	}
	return mistakef(field, "loses each label that may name the node (%s) in %s: keep one of them there", strings.Join(needed, ", "), where)
}

// checkSources says which sources name conditions that the catalogue does not have.
func checkSources(file string, c config, catalogue *rules.Catalogue) error {
	if file == "" || len(c.Sources) == 0 {
		return nil
	}
	raw, err := strict.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	d := strict.NewDecoder(file)
	d.Aliases = true
	d.Document(raw, "")
	var names []string
	for _, known := range catalogue.Conditions() {
		names = append(names, known.Name)
	}
	for i, s := range c.Sources {
		if s.Condition == "" {
			continue
		}
		if _, known := catalogue.Lookup(s.Condition); !known {
			d.FailAt(fmt.Sprintf("sources[%d].condition", i), "sources[%d].condition %s is unknown, %s", i, strict.Quote(s.Condition), strict.Hint(s.Condition, names))
		}
	}
	return d.Err()
}

// inspections returns the sources as the passes read them.
func (c config) inspections() ([]queue.Inspection, error) {
	var all []queue.Inspection
	for _, s := range c.Sources {
		i, err := c.inspection(s)
		if err != nil {
			return nil, fmt.Errorf("source %s: %w", s.Name, err)
		}
		all = append(all, i)
	}
	return all, nil
}

func (c config) inspection(s sourceConfig) (queue.Inspection, error) {
	server := source.PrometheusOptions{URL: s.Server.URL, HTTP: s.Server.http(), Canary: s.Canary, Cluster: c.cluster(), MaxAge: cmp.Or(s.MaxAge, c.Prometheus.MaxAge)}
	if s.Server.URL == "" {
		first := c.Prometheus.all()[0] // There is one, or the configuration had been refused.
		server.URL, server.HTTP, server.Canary = first.Server.URL, first.Server.http(), first.Canary
	}
	o := source.QueryOptions{Server: server}
	var err error
	if o.Query, err = source.ParseExpression(s.Query); err != nil {
		return queue.Inspection{}, fmt.Errorf("query %w", err)
	}
	if s.Alive != "" {
		alive, err := source.ParseExpression(s.Alive)
		if err != nil {
			return queue.Inspection{}, fmt.Errorf("alive %w", err)
		}
		o.Alive = &alive
	}
	query, err := source.NewQuery(o)
	if err != nil {
		return queue.Inspection{}, err
	}
	return queue.Inspection{
		Name: s.Name, Query: s.Query, Source: query, Condition: s.Condition, ConditionLabel: s.conditionLabel(), NodeLabel: s.NodeLabel,
		DeviceLabel: s.DeviceLabel, Threshold: s.threshold(), Forget: server.MaxAge, Cluster: c.cluster(),
	}, nil
}
