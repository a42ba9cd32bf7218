package monitoring

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

const (
	// longWindow is where a window stops being the time that a fault has to show, and begins to be a memory: what a node
	// had within a week. Memories are not compressed.
	longWindow = 6 * time.Hour
	// longSubquery is the memory of a subquery, which would otherwise be evaluated for every second of a week, and stepOfLong
	// how fine it is.
	longSubquery = 10 * time.Minute
	stepOfFast   = time.Second
	stepOfLong   = 5 * time.Second
	// shortFor and middleFor are up to where a rule tells of what is out of order itself, and of what follows from that at once.
	// A rule with a longer `for` leaves both the first word.
	shortFor, middleFor = time.Minute, 3 * time.Minute
)

// Compress shortens the times of rules, so that a test need not wait for them. Zero leaves them as they are.
type Compress struct {
	// For is the longest `for` of a rule. A rule that leaves others the first word, with more than shortFor, waits half as long
	// again, and one with more than middleFor twice as long.
	For time.Duration
	// Window is the longest range, offset and `keep_firing_for`. Ranges of six hours and more stay.
	Window time.Duration
}

// FastRules is short enough for a test, and long enough for several scrapes.
func FastRules() Compress { return Compress{For: 2 * time.Second, Window: 15 * time.Second} }

// manifest is a PrometheusRule.
type manifest struct {
	Kind string   `json:"kind"`
	Spec ruleFile `json:"spec"`
}

type ruleFile struct {
	Groups []group `json:"groups"`
}

type group struct {
	Name     string         `json:"name"`
	Interval model.Duration `json:"interval,omitempty"`
	Rules    []rule         `json:"rules"`
}

type rule struct {
	Alert         string            `json:"alert,omitempty"`
	Record        string            `json:"record,omitempty"`
	Expr          string            `json:"expr"`
	For           model.Duration    `json:"for,omitempty"`
	KeepFiringFor model.Duration    `json:"keep_firing_for,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// loadRules reads PrometheusRule manifests from files and folders.
func loadRules(paths []string) (ruleFile, error) {
	var all ruleFile
	for _, p := range paths {
		err := filepath.WalkDir(p, func(file string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(file) != ".yaml" {
				return err
			}
			m, err := loadManifest(file)
			all.Groups = append(all.Groups, m.Spec.Groups...)
			return err
		})
		if err != nil {
			return all, fmt.Errorf("load rules: %w", err)
		}
	}
	return all, nil
}

func loadManifest(file string) (manifest, error) {
	var m manifest
	text, err := os.ReadFile(file)
	if err != nil {
		return m, err
	}
	if err := yaml.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%s: %w", file, err)
	}
	if m.Kind != "PrometheusRule" {
		return m, fmt.Errorf("%s: the kind is %q: must be PrometheusRule", file, m.Kind)
	}
	return m, nil
}

func (f ruleFile) alerts() int {
	n := 0
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				n++
			}
		}
	}
	return n
}

// compressed returns the rules with shorter times.
func (f ruleFile) compressed(c Compress) (ruleFile, error) {
	var out ruleFile
	var errs []error
	for _, g := range f.Groups {
		rules := make([]rule, 0, len(g.Rules))
		for _, r := range g.Rules {
			short, err := r.compressed(c)
			if err != nil {
				errs = append(errs, fmt.Errorf("rule %s%s: %w", r.Alert, r.Record, err))
			}
			rules = append(rules, short)
		}
		if c.For > 0 {
			g.Interval = 0
		}
		g.Rules = rules
		out.Groups = append(out.Groups, g)
	}
	return out, errors.Join(errs...)
}

func (r rule) compressed(c Compress) (rule, error) {
	if c.For > 0 {
		r.For = min(r.For, c.longest(r.For))
	}
	if c.Window <= 0 {
		return r, nil
	}
	r.KeepFiringFor = min(r.KeepFiringFor, model.Duration(c.Window))
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(r.Expr)
	if err != nil {
		return r, err
	}
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		c.shorten(node)
		return nil
	})
	r.Expr = expr.String()
	return r, nil
}

// longest returns what a rule with the given `for` waits at most.
func (c Compress) longest(before model.Duration) model.Duration {
	switch {
	case before > model.Duration(middleFor):
		return model.Duration(2 * c.For)
	case before > model.Duration(shortFor):
		return model.Duration(c.For + c.For/2)
	}
	return model.Duration(c.For)
}

func (c Compress) shorten(node parser.Node) {
	switch n := node.(type) {
	case *parser.MatrixSelector:
		if n.Range < longWindow {
			n.Range = min(n.Range, c.Window)
		}
	case *parser.SubqueryExpr:
		if n.Range < longWindow {
			n.Range, n.Step = min(n.Range, c.Window), min(n.Step, stepOfFast)
		} else {
			n.Range, n.Step = longSubquery, min(n.Step, stepOfLong)
		}
		n.OriginalOffset = min(n.OriginalOffset, c.Window)
	case *parser.VectorSelector:
		n.OriginalOffset = min(n.OriginalOffset, c.Window)
	}
}

// scrapeConfig returns the entry of a job whose targets have the same path. Its exporter serves many hosts and names each in a label.
func scrapeConfig(job string, addresses ...string) string {
	var first *url.URL
	var targets []string
	for _, address := range addresses {
		u, err := url.Parse(address)
		if err != nil {
			// Prometheus reports it with the rest of its configuration.
			u = &url.URL{Host: address}
		}
		if first = cmp.Or(first, u); u.Host != "" {
			targets = append(targets, strconv.Quote(u.Host))
		}
	}
	return fmt.Sprintf("- {job_name: %q, honor_labels: true, metrics_path: %q, scheme: %q, static_configs: [{targets: [%s]}]}\n",
		job, first.Path, cmp.Or(first.Scheme, "http"), strings.Join(targets, ", "))
}
