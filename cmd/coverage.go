package cmd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/pager"

	"aegis.io/aegis/coverage"
	"aegis.io/aegis/queue/source"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/strict"
)

// errBlind says that a condition which Aegis repairs by itself would not be seen somewhere. The report says which.
var errBlind = errors.New("a condition in mode auto is blind")

// coverageFlags are the flags of aegis coverage.
type coverageFlags struct {
	prometheus, config, preset string
	kubeconfig                 string
	without                    []string
	output                     string
	timeout                    time.Duration
	files                      []string
}

func parseCoverage(args []string, stderr io.Writer) (coverageFlags, error) {
	var f coverageFlags
	var without string
	set := flag.NewFlagSet("aegis coverage", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.StringVar(&f.prometheus, "prometheus", "", "`URL` of Prometheus; none means those of -config")
	set.StringVar(&f.config, "config", "", "configuration `file` (aegis.yaml) that says how Prometheus is reached and which mode conditions have")
	set.StringVar(&f.preset, "preset", "", "`name` of a preset whose modes are tried instead of that of -config")
	set.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig `file` of the cluster whose nodes have to be seen; none means the nodes that kube-state-metrics knows")
	set.StringVar(&without, "without", "", "`types` of conditions, or conditions, that the cluster does not have, separated by commas, such as ib,roce,gpfs")
	set.StringVar(&f.output, "output", "text", "text or json")
	set.DurationVar(&f.timeout, "timeout", 30*time.Second, "how long one request to Prometheus may take")
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return f, err
		}
		return f, usageErrorf("coverage: %w", err)
	}
	f.files = set.Args()
	for name := range strings.SplitSeq(without, ",") {
		if name = strings.TrimSpace(name); name != "" {
			f.without = append(f.without, name)
		}
	}
	return f, f.validate()
}

// validate says what is wrong with the command line.
func (f coverageFlags) validate() error {
	for _, name := range f.files {
		if strings.HasPrefix(name, "-") {
			return usageErrorf("coverage: unexpected argument %q: flags come before files", name)
		}
	}
	address, err := url.Parse(f.prometheus)
	switch {
	case err == nil && address.User != nil:
		return usageErrorf("coverage: -prometheus must not hold credentials: use prometheus.httpConfig.basic_auth in -config")
	case f.prometheus == "" && f.config == "":
		return usageErrorf("coverage: no Prometheus named: set -prometheus, or -config")
	case f.output != "text" && f.output != "json":
		return usageErrorf("coverage: -output %q: use text or json", f.output)
	case f.timeout <= 0:
		return usageErrorf("coverage: -timeout %s: use a duration above 0", f.timeout)
	}
	return nil
}

// coverageOf prints where each condition would be seen, and returns the exit code: unlike elsewhere, 1 is an answer, and 2 that there is none.
func coverageOf(ctx context.Context, args []string, stdout, stderr io.Writer, procedures sop.Procedures) int {
	err := printCoverage(ctx, args, stdout, stderr, procedures)
	if errors.Is(err, errBlind) {
		return exitFailure
	}
	if code := report(stderr, err); code != exitOK {
		return exitUsage
	}
	return exitOK
}

func printCoverage(ctx context.Context, args []string, stdout, stderr io.Writer, procedures sop.Procedures) error {
	flags, err := parseCoverage(args, stderr)
	if err != nil {
		return err
	}
	cfg, catalogue, err := flags.load(procedures)
	if err != nil {
		return err
	}
	o := coverage.Options{Cluster: cfg.cluster(), Catalogue: catalogue, NodeLabels: cfg.NodeLabels, Without: flags.without}
	if o.Servers, err = coverageServers(cfg, flags.timeout); err != nil {
		return err
	}
	if flags.kubeconfig != "" {
		if o.Nodes, err = clusterNodes(ctx, flags.kubeconfig); err != nil {
			return fmt.Errorf("coverage: %w", err)
		}
	}
	if o.Findings, err = findings(ctx, cfg, catalogue); err != nil {
		return fmt.Errorf("coverage: %w", err)
	}
	told, err := coverage.Ask(ctx, o)
	if err != nil {
		return fmt.Errorf("coverage: %w%s", err, flags.remedy(err))
	}
	if err := flags.print(told, stdout); err != nil {
		return fmt.Errorf("coverage: %w", err)
	}
	if told.BlindIn(prom.ModeAuto) > 0 {
		return errBlind
	}
	return nil
}

// remedy says what to change where a server answers, and not as Prometheus does.
func (f coverageFlags) remedy(err error) string {
	var status *source.StatusError
	if !errors.As(err, &status) {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return "; the answer is not JSON: is it a web page, of a login in front of the server or of another service?"
		}
		return ""
	}
	switch code := status.Status; {
	case code == http.StatusNotFound, code == http.StatusMethodNotAllowed:
		return "; /api/v1/query is not there: give the base URL, without /graph and with the path prefix of the server"
	case code >= 300 && code < 400:
		return "; set httpConfig.follow_redirects of prometheus in -config, or give the URL that it leads to"
	case code == http.StatusUnprocessableEntity:
		return "; if the query is too large, raise --query.max-samples or --query.timeout of Prometheus"
	case f.prometheus != "" && (code == http.StatusUnauthorized || code == http.StatusForbidden):
		return "; credentials need -config with prometheus.httpConfig, and no -prometheus"
	}
	return ""
}

func (f coverageFlags) print(r coverage.Report, w io.Writer) error {
	if f.output == "text" {
		return r.Print(w)
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// load reads the configuration and the catalogue, with the files of the command line over those of the configuration.
func (f coverageFlags) load(procedures sop.Procedures) (config, *rules.Catalogue, error) {
	cfg, err := loadConfig(f.config)
	if err != nil {
		return cfg, nil, err
	}
	if f.preset != "" && !slices.Contains(rules.Presets(), f.preset) {
		return cfg, nil, usageErrorf("coverage: -preset %s is unknown, %s", strict.Quote(f.preset), strict.Hint(f.preset, rules.Presets()))
	}
	o := rules.Options{Files: append(cfg.Conditions, f.files...), Mode: cfg.Mode, Preset: cmp.Or(f.preset, cfg.Preset)}
	catalogue, err := loadCatalogue(o, procedures)
	if err != nil {
		return cfg, nil, err
	}
	if err := checkSources(f.config, cfg, catalogue); err != nil {
		return cfg, nil, err
	}
	if f.prometheus != "" {
		// Neither credentials nor shards of the configuration: they belong to other addresses.
		cfg.Prometheus.Server, cfg.Prometheus.Servers = serverConfig{URL: f.prometheus}, nil
	}
	if len(cfg.Prometheus.all()) == 0 {
		return cfg, nil, usageErrorf("coverage: %s names no Prometheus: set -prometheus", f.config)
	}
	return cfg, catalogue, knownTypes(f.without, catalogue)
}

// knownTypes says which of the names are neither of a type nor of a condition.
func knownTypes(names []string, catalogue *rules.Catalogue) error {
	known := make(map[string]bool)
	for _, c := range catalogue.Conditions() {
		known[c.Type], known[c.Name] = true, true
	}
	for _, name := range names {
		if !known[name] {
			return usageErrorf("coverage: -without %s is neither a type nor a condition, %s", strict.Quote(name), strict.Hint(name, slices.Sorted(maps.Keys(known))))
		}
	}
	return nil
}

func coverageServers(cfg config, timeout time.Duration) ([]*source.Prometheus, error) {
	var all []*source.Prometheus
	for _, s := range cfg.Prometheus.all() {
		p, err := source.NewPrometheus(source.PrometheusOptions{
			URL: s.Server.URL, HTTP: s.Server.http(), Canary: s.Canary, Cluster: cfg.cluster(), MaxAge: cfg.Prometheus.MaxAge, Timeout: timeout,
		})
		if err != nil {
			return nil, fmt.Errorf("coverage: %w", err)
		}
		all = append(all, p)
	}
	return all, nil
}

// clusterNodes returns the nodes of the cluster.
func clusterNodes(ctx context.Context, kubeconfig string) ([]coverage.Node, error) {
	rest, err := restConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	nodes := make([]coverage.Node, 0)
	list := pager.New(pager.SimplePageFunc(func(o metav1.ListOptions) (runtime.Object, error) { return client.CoreV1().Nodes().List(ctx, o) }))
	err = list.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		if node, ok := o.(*corev1.Node); ok {
			nodes = append(nodes, coverage.Node{NodeInfo: infoOf(node), GPUs: hasGPUs(node)})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	return nodes, nil
}

// hasGPUs reports whether the node offers GPUs, or has offered some.
func hasGPUs(node *corev1.Node) bool {
	for name := range node.Status.Capacity {
		// Not each resource of NVIDIA is a GPU: nvidia.com/hostdev is a network adapter.
		if strings.HasPrefix(string(name), "nvidia.com/gpu") || strings.HasPrefix(string(name), "nvidia.com/mig-") || name == "amd.com/gpu" {
			return true
		}
	}
	return false
}

// findings asks the sources of the configuration which nodes they tell of.
func findings(ctx context.Context, cfg config, catalogue *rules.Catalogue) ([]coverage.Finding, error) {
	inspections, err := cfg.inspections()
	if err != nil {
		return nil, err
	}
	var all []coverage.Finding
	for i, inspection := range inspections {
		found := make(map[string]*coverage.Finding)
		finding := func(condition string) *coverage.Finding {
			c, known := catalogue.Lookup(condition)
			if known && found[c.Name] == nil {
				found[c.Name] = &coverage.Finding{Name: inspection.Name, Condition: c.Name}
			}
			return found[c.Name]
		}
		answer, err := inspection.Source.Read(ctx)
		if f := finding(inspection.Condition); f != nil && err != nil {
			f.Problem = err.Error()
		}
		samples := answer.Samples
		if answer.Alive != nil && inspection.Condition != "" {
			samples = answer.Alive
		}
		for _, sample := range samples {
			// A label names the condition where the source does not.
			if f := finding(cmp.Or(inspection.Condition, sample.Labels[inspection.ConditionLabel])); f != nil && !sample.Stale {
				f.Labels = append(f.Labels, withNode(sample.Labels, cfg.Sources[i].nodeNames(cfg.NodeLabels)))
			}
		}
		for _, name := range slices.Sorted(maps.Keys(found)) {
			all = append(all, *found[name])
		}
	}
	return all, nil
}

// withNode returns the labels with that of the node in its usual place.
func withNode(labels map[string]string, names []string) map[string]string {
	for _, name := range names {
		if value := labels[name]; value != "" {
			labels = maps.Clone(labels)
			labels["node"] = value
			return labels
		}
	}
	return labels
}
