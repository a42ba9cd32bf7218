package rules

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	amlabels "github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/common/model"
	promlabels "github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/strict"
)

// embedded is the catalogue: the defaults, a file for each domain, and the XIDs.
//
//go:embed catalogue/*.yaml
var embedded embed.FS

// emptyFile says what is wrong with a file that holds nothing.
const emptyFile = "the file is empty, it must have conditions, defaults, types or xids"

// embeddedDir is the folder of the embedded catalogue, below the one of this package.
const embeddedDir = "catalogue"

const (
	// maxReboots is far more than a machine that a reboot can repair needs.
	maxReboots = 10
	// maxRepairs is how many incidents the history of a node keeps.
	maxRepairs = 20
	// LongestWindow bounds the windows in which the past of a node counts: for that long a full history remembers what was destroyed.
	LongestWindow = 30 * 24 * time.Hour
	// shortest is the least time for what must not take no time at all.
	shortest = time.Second
	// maxNameBytes keeps the pattern from being asked about long names.
	maxNameBytes = 64
	// self is the supervisor that stands for Aegis, which cannot hand over to itself.
	self = "aegis"
)

// The fields of a condition whose lines are needed after it has been read.
const (
	fieldName     = "name"
	fieldIDLabel  = "idLabel"
	fieldSOP      = "sop"
	fieldPolicy   = "policy"
	fieldMatch    = "match"
	fieldEvidence = "evidence"
	// fieldDefaults is the policy of conditions that set none.
	fieldDefaults = "defaults"
)

var (
	// namePattern keeps names usable as the value of a label, in Kubernetes and in metrics.
	namePattern = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$`)
	sopPattern  = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*/[a-z0-9]+(-[a-z0-9]+)*$`)
	// typePattern is what the domain of a site may be called: a DNS label, as the first part of the name of a procedure.
	typePattern = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// operationPattern is that of the operations on a host, which take their names from files.
	operationPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,62}$`)
	// evidencePattern is that of the label source of recorded evidence.
	evidencePattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$`)
	teamPattern     = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
)

func knownTypes() []string {
	return []string{
		"node", "cpu", "memory", "disk", "gpfs", "gpu", "ib", "roce", "network", "process", "peermem", "baseboard",
		"system",
	}
}

func knownDevices() []prom.DeviceMode {
	return []prom.DeviceMode{prom.DeviceNone, prom.DeviceAll, prom.DeviceIndex, prom.DeviceID, prom.DeviceMask}
}

func knownWorkloads() []prom.Workload {
	return []prom.Workload{prom.WorkloadKeep, prom.WorkloadDrainGPU, prom.WorkloadDrain, prom.WorkloadWaitIdle}
}

// Options says what Load reads.
type Options struct {
	// Files override the embedded catalogue, and later ones override earlier ones.
	Files []string
	// Mode is for conditions whose policy sets none, neither itself nor by the defaults of a file. Empty stands for
	// prom.ModeObserve.
	Mode prom.Mode
	// Preset names a list of conditions whose mode is prom.ModeAuto, unless a file sets one. Empty stands for none.
	Preset string
}

// Load returns the embedded catalogue as the files override it. The error joins a *strict.Problem for every problem of every
// file.
func Load(o Options) (*Catalogue, error) {
	mode := cmp.Or(o.Mode, prom.ModeObserve)
	if !mode.Known() {
		return nil, fmt.Errorf("unknown mode %s, %s", strict.Quote(string(mode)), strict.Hint(string(mode), prom.Modes()))
	}
	l := newLoader(mode)
	if o.Preset != "" {
		var err error
		if l.preset, err = LoadPreset(o.Preset); err != nil {
			return nil, err
		}
	}
	if err := l.parseEmbedded(); err != nil {
		return nil, err
	}
	l.embedded = len(l.files)
	for _, file := range o.Files {
		data, err := strict.ReadFile(file)
		l.parse(source{name: file, data: data, err: err})
	}
	return l.catalogue()
}

// parseEmbedded reads the files of the embedded catalogue. Errors name them as the repository does.
func (l *loader) parseEmbedded() error {
	files, err := embedded.ReadDir(embeddedDir)
	if err != nil {
		return fmt.Errorf("embedded catalogue: %w", err)
	}
	for _, f := range files {
		name := path.Join(embeddedDir, f.Name())
		data, err := embedded.ReadFile(name)
		l.parse(source{name: path.Join("rules", name), data: data, err: err})
	}
	return nil
}

// source is a file that has been read.
type source struct {
	name string
	data []byte
	err  error // Why there is no data.
}

// decoder reads the nodes of a file of conditions.
type decoder struct {
	*strict.Decoder
	// types are the domains that the site has listed as its own.
	types []string
}

// entry is a condition with what else is known of it.
type entry struct {
	Condition
	matchers amlabels.Matchers
	// rank is the position in the sorted catalogue.
	rank int
	// defined is where the condition was first named.
	defined strict.Position
	// lines are where fields were last set.
	lines                    map[string]strict.Position
	aliasLines, inhibitLines []strict.Position
}

// byDefault reports whether the entry is matched by its names.
func (e *entry) byDefault() bool { return len(e.matchers) == 0 }

// names returns the name and the aliases.
func (e *entry) names() []string { return append([]string{e.Name}, e.Aliases...) }

func compareUrgency(a, b *entry) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), strings.Compare(a.Name, b.Name))
}

// parsed is a file whose defaults have been read, and whose conditions have not: they need the defaults of all files.
type parsed struct {
	file             string
	conditions, xids []*yaml.Node
}

// loader merges files. Decoding a field over what an earlier file has set is the whole merge.
type loader struct {
	problems []*strict.Problem
	order    map[string]int // By the name of a file, its position among the files.
	files    []parsed
	defaults prom.Policy
	entries  []*entry
	byName   map[string]*entry
	xids     map[int]XID
	types    []string
	// embedded is how many of the files are those of the embedded catalogue.
	embedded int
	preset   Preset
	// mode is for conditions that no file sets one for, explicit whether the defaults of a file set one.
	mode     prom.Mode
	explicit bool
}

func newLoader(mode prom.Mode) *loader {
	return &loader{
		mode: mode, order: make(map[string]int), byName: make(map[string]*entry), xids: make(map[int]XID),
	}
}

// parse reads the defaults of a file and puts its conditions aside.
func (l *loader) parse(s source) {
	l.order[s.name] = len(l.order)
	d := decoder{Decoder: strict.NewDecoder(s.name)}
	defer func() { l.problems = append(l.problems, d.Problems()...) }()
	if s.err != nil {
		d.Unreadable(s.err)
		return
	}
	root, ok := d.Document(s.data, emptyFile)
	if !ok {
		return
	}
	p := parsed{file: s.name}
	var filled bool
	d.Mapping(root, "the file", strict.Fields{
		fieldDefaults: func(n *yaml.Node) { filled = true; d.policy(n, fieldDefaults, &l.defaults) },
		"conditions": func(n *yaml.Node) {
			filled = true
			d.List(n, "conditions", func(item *yaml.Node) { p.conditions = append(p.conditions, item) })
		},
		"types": func(n *yaml.Node) { filled = true; l.types = append(l.types, d.ownTypes(n)...) },
		"xids": func(n *yaml.Node) {
			filled = true
			d.List(n, "xids", func(item *yaml.Node) { p.xids = append(p.xids, item) })
		},
	})
	if !filled && len(d.Problems()) == 0 {
		d.Fail(root, emptyFile)
	}
	l.files = append(l.files, p)
}

// catalogue reads the conditions of all files and returns the result, unless there was any problem.
func (l *loader) catalogue() (*Catalogue, error) {
	l.explicit = l.defaults.Mode != ""
	l.defaults.Mode = cmp.Or(l.defaults.Mode, l.mode)
	l.read(l.files[:l.embedded])
	l.turnOn()
	l.read(l.files[l.embedded:])
	l.problems = append(l.problems, conflicts(l.entries, l.xids)...)
	if len(l.problems) > 0 {
		l.sortProblems()
		return nil, strict.Join(l.problems)
	}
	return newCatalogue(l.entries, l.xids), nil
}

// read reads the conditions and the XIDs of files.
func (l *loader) read(files []parsed) {
	for _, p := range files {
		d := decoder{strict.NewDecoder(p.file), l.types}
		seen := make(map[string]int)
		for _, n := range p.conditions {
			l.condition(d, n, seen)
		}
		codes := make(map[int]int)
		for _, n := range p.xids {
			l.xid(d, n, codes)
		}
		l.problems = append(l.problems, d.Problems()...)
	}
}

// sortProblems puts them in the order in which a reader of the files meets them.
func (l *loader) sortProblems() {
	slices.SortStableFunc(l.problems, func(a, b *strict.Problem) int {
		return cmp.Or(cmp.Compare(l.order[a.File], l.order[b.File]), strict.Compare(a, b))
	})
}

// condition reads an entry over the one of the same name. An entry whose name is unusable is read all the same, for
// its other mistakes.
func (l *loader) condition(d decoder, n *yaml.Node, seen map[string]int) {
	name, ok := d.name(n)
	if !ok {
		d.entry(n, l.newEntry("", d.Position(n)))
		return
	}
	if line, again := seen[name]; again {
		d.Fail(n, "condition %s is in this file already, in line %d", name, line)
		d.entry(n, l.newEntry(name, d.Position(n)))
		return
	}
	seen[name] = n.Line
	e := l.byName[name]
	if e == nil {
		e = l.newEntry(name, d.Position(n))
		l.byName[name] = e
		l.entries = append(l.entries, e)
	}
	d.entry(n, e)
}

func (l *loader) newEntry(name string, at strict.Position) *entry {
	return &entry{
		Condition: Condition{Name: name, Priority: prom.DefaultPriority, Device: prom.DeviceNone, Policy: l.defaults},
		defined:   at,
		lines:     make(map[string]strict.Position),
	}
}

// name returns the name in an entry, which says what the rest of it is read over.
func (d decoder) name(n *yaml.Node) (string, bool) {
	at := strict.Field(n, fieldName)
	if at == nil {
		if n.Kind == yaml.MappingNode {
			d.Fail(n, "a condition has no name")
		}
		return "", false
	}
	name, ok := d.Text(at, fieldName)
	if !ok {
		return "", false
	}
	if err := checkName(name); err != nil {
		d.Fail(at, "name %s: %v", strict.Quote(name), err)
		return "", false
	}
	return name, true
}

func checkName(name string) error {
	if len(name) > maxNameBytes || !namePattern.MatchString(name) {
		return errors.New("a name has letters, digits, _ and -, begins with a letter, ends with a letter or digit, and " +
			"is at most 63 long")
	}
	return nil
}

// entry reads the fields of an entry over e.
func (d decoder) entry(n *yaml.Node, e *entry) {
	mark := func(field string, n *yaml.Node) { e.lines[field] = d.Position(n) }
	inhibits, hides := d.inhibits(e)
	d.Mapping(n, "condition", strict.Fields{
		fieldName:     func(*yaml.Node) {}, // Has been read.
		"type":        func(n *yaml.Node) { d.domain(n, &e.Type); mark("type", n) },
		"priority":    func(n *yaml.Node) { d.Integer(n, "priority", math.MaxInt32, &e.Priority) },
		"device":      func(n *yaml.Node) { strict.Choice(d.Decoder, n, "device", knownDevices(), &e.Device) },
		"affectsLoad": func(n *yaml.Node) { d.Boolean(n, "affectsLoad", &e.AffectsLoad) },
		fieldMatch:    func(n *yaml.Node) { d.match(n, e) },
		"aliases":     func(n *yaml.Node) { d.aliases(n, e) },
		fieldEvidence: func(n *yaml.Node) { d.evidence(n, e) },
		fieldInhibits: inhibits,
		fieldHides:    hides,
		fieldPolicy:   func(n *yaml.Node) { d.policy(n, fieldPolicy, &e.Policy); mark(fieldPolicy, n) },
		fieldIDLabel: func(n *yaml.Node) {
			d.Pattern(n, fieldIDLabel, checkLabelName, &e.IDLabel)
			mark(fieldIDLabel, n)
		},
		fieldSOP: func(n *yaml.Node) { d.Pattern(n, fieldSOP, checkSOP, &e.SOP); mark(fieldSOP, n) },
	})
	if strict.Field(n, fieldMatch) != nil && strict.Field(n, fieldEvidence) == nil {
		e.Evidence = nil // What shows one alert says nothing of another.
	}
}

// ownTypes reads the domains that a site lists because their names are close to those of the product, as npu is to gpu.
func (d decoder) ownTypes(n *yaml.Node) []string {
	var types []string
	d.List(n, "types", func(item *yaml.Node) {
		var name string
		if d.Pattern(item, "type", checkType, &name); name != "" {
			types = append(types, name)
		}
	})
	return types
}

// domain reads a type: one of the product, or one of the site. A name close to a known one is taken for a slip of the pen unless
// the site lists it, because a condition of a wrong type is hidden by others, and marks other devices, than it should.
func (d decoder) domain(n *yaml.Node, to *string) {
	known := slices.Concat(knownTypes(), d.types)
	isWord := n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str"
	switch near := strict.Nearest(n.Value, known); {
	case !isWord || n.Value == "" || slices.Contains(known, n.Value):
		strict.Choice(d.Decoder, n, "type", known, to)
	case near != "":
		d.Fail(n, "unknown type %s, did you mean %q? If it is a type of your own, add it to the list types", strict.Quote(n.Value), near)
	default:
		d.Pattern(n, "type", checkType, to)
	}
}

func checkType(name string) error {
	if !typePattern.MatchString(name) {
		return errors.New("a type of your own has lower-case letters, digits and dashes, begins with a letter, and is at most 63 long")
	}
	return nil
}

func checkSOP(name string) error {
	if !sopPattern.MatchString(name) {
		return errors.New("must be domain/name in lower case, such as gpu/hung")
	}
	return nil
}

// CheckProcedures returns an error for each name that no condition could have as its procedure.
func CheckProcedures(names []string) error {
	var errs []error
	for _, name := range names {
		if err := checkSOP(name); err != nil {
			errs = append(errs, fmt.Errorf("procedure %s: the name %w", strict.Quote(name), err))
		}
	}
	return errors.Join(errs...)
}

// match reads matchers. An empty mapping goes back to the default.
func (d decoder) match(n *yaml.Node, e *entry) {
	e.Match, e.matchers = make(map[string]string), nil
	problems := len(d.Problems())
	selects := false
	d.Pairs(n, "match", func(key, value *yaml.Node) {
		if err := checkLabelName(key.Value); err != nil {
			d.Fail(key, "match: %v", err)
			return
		}
		text, ok := d.Text(value, "match of the label "+strict.Clip(key.Value))
		if !ok {
			return
		}
		m, err := parseMatcher(key.Value, text)
		if err != nil {
			d.Fail(value, "match of the label %s: %v", strict.Clip(key.Value), err)
			return
		}
		selects = selects || selective(m)
		e.Match[key.Value] = text
		e.matchers = append(e.matchers, m)
	})
	if len(e.matchers) > 0 && !selects && len(d.Problems()) == problems {
		d.Fail(n, "match fits every alert without these labels, add a label that must have a value, such as alertname")
	}
}

// aliases reads other names. Whether they are free is known only when all files have been read.
func (d decoder) aliases(n *yaml.Node, e *entry) {
	e.Aliases, e.aliasLines = nil, nil
	d.List(n, "aliases", func(item *yaml.Node) {
		alias, ok := d.Text(item, "alias")
		if !ok {
			return
		}
		if err := checkName(alias); err != nil {
			d.Fail(item, "alias %s: %v", strict.Quote(alias), err)
			return
		}
		e.Aliases = append(e.Aliases, alias)
		e.aliasLines = append(e.aliasLines, d.Position(item))
	})
}

// evidence reads what shows that a node is seen. An empty list goes back to the default.
func (d decoder) evidence(n *yaml.Node, e *entry) {
	e.Evidence = nil
	d.List(n, fieldEvidence, func(item *yaml.Node) {
		var kind string
		if d.Pattern(item, fieldEvidence, checkEvidence, &kind); kind != "" {
			e.Evidence = append(e.Evidence, kind)
		}
	})
}

// checkEvidence takes a value of the label source of aegis:evidence, or a selector with the name of its metric.
func checkEvidence(text string) error {
	if !prom.IsSelector(text) {
		if !evidencePattern.MatchString(text) {
			return errors.New("must be the label source of a series aegis:evidence, such as gpu/dcgm-exporter, or a selector, such as up{job=\"fans\"}")
		}
		return nil
	}
	matchers, err := parser.NewParser(parser.Options{}).ParseMetricSelector(text)
	if err != nil {
		return fmt.Errorf("must be a selector, such as up{job=\"fans\"}: %s", strict.Clean(err.Error(), maxMessageRunes))
	}
	named := slices.ContainsFunc(matchers, func(m *promlabels.Matcher) bool {
		return m.Name == model.MetricNameLabel && m.Type == promlabels.MatchEqual
	})
	if !named {
		return errors.New("must name its metric, such as up{job=\"fans\"}")
	}
	return nil
}

// policy reads the fields of a policy over p.
func (d decoder) policy(n *yaml.Node, what string, p *prom.Policy) {
	wait := func(field string, least time.Duration, to *time.Duration) func(*yaml.Node) {
		return func(n *yaml.Node) { d.Duration(n, field, least, to) }
	}
	window := func(field string, least time.Duration, to *time.Duration) func(*yaml.Node) {
		return func(n *yaml.Node) {
			value := *to
			if d.Duration(n, field, least, &value); value > LongestWindow {
				d.Fail(n, "%s must be at most %v, is %s: the history of a node does not reach back further", field, LongestWindow, strict.Quote(n.Value))
				return
			}
			*to = value
		}
	}
	fields := strict.Fields{
		"mode":                func(n *yaml.Node) { strict.Choice(d.Decoder, n, "mode", prom.Modes(), &p.Mode) },
		"workload":            func(n *yaml.Node) { strict.Choice(d.Decoder, n, "workload", knownWorkloads(), &p.Workload) },
		"team":                func(n *yaml.Node) { d.team(n, &p.Team) },
		"maxReboots":          func(n *yaml.Node) { d.Integer(n, "maxReboots", maxReboots, &p.MaxReboots) },
		"shutdown":            func(n *yaml.Node) { d.Boolean(n, "shutdown", &p.Shutdown) },
		"selector":            func(n *yaml.Node) { d.Pattern(n, "selector", checkSelector, &p.Selector) },
		"maxRepairs":          func(n *yaml.Node) { d.Integer(n, "maxRepairs", maxRepairs, &p.MaxRepairs) },
		"repairWindow":        window("repairWindow", shortest, &p.RepairWindow),
		"ownBoot":             window("ownBoot", 0, &p.OwnBoot),
		"once":                func(n *yaml.Node) { d.Boolean(n, "once", &p.Once) },
		"threshold":           func(n *yaml.Node) { d.threshold(n, &p.Threshold) },
		"cooldown":            window("cooldown", 0, &p.Cooldown),
		"attemptWindow":       window("attemptWindow", shortest, &p.AttemptWindow),
		"confirmFor":          wait("confirmFor", 0, &p.ConfirmFor),
		"grace":               wait("grace", 0, &p.Grace),
		"powerOffAfter":       wait("powerOffAfter", shortest, &p.PowerOffAfter),
		"handOverAfter":       wait("handOverAfter", shortest, &p.HandOverAfter),
		"clearFor":            wait("clearFor", shortest, &p.ClearFor),
		"verifyWithin":        wait("verifyWithin", shortest, &p.VerifyWithin),
		"drainDeadline":       wait("drainDeadline", shortest, &p.DrainDeadline),
		"healthcheckDeadline": wait("healthcheckDeadline", shortest, &p.HealthcheckDeadline),
		"rebootDeadline":      wait("rebootDeadline", shortest, &p.RebootDeadline),
		"remedyDeadline":      wait("remedyDeadline", shortest, &p.RemedyDeadline),
	}
	if what != fieldDefaults { // No operation helps against everything.
		fields["remedy"] = func(n *yaml.Node) { d.Pattern(n, "remedy", checkOperation, &p.Remedy) }
		fields["repair"] = func(n *yaml.Node) { d.Pattern(n, "repair", checkOperation, &p.Repair) }
	}
	d.Mapping(n, what, fields)
}

// checkOperation takes the names that an executable of a site may have on a host.
func checkOperation(name string) error {
	if !operationPattern.MatchString(name) {
		return errors.New("the name of an operation has letters, digits, _ and -, does not begin with -, and is at most 63 long")
	}
	return nil
}

// team reads who takes over, which must be somebody.
func (d decoder) team(n *yaml.Node, to *string) {
	team, ok := d.Text(n, "team")
	switch {
	case !ok:
	case !teamPattern.MatchString(team):
		d.Fail(n, "team %s: must be one word of letters, digits, dots, _ and -, at most 63 long", strict.Quote(team))
	case strings.EqualFold(team, self):
		d.Fail(n, "team %s: Aegis cannot hand over to itself", strict.Quote(team))
	default:
		*to = team
	}
}

// checkSelector refuses selectors that only say which pods are not meant: all others would be restarted.
func checkSelector(text string) error {
	selector, err := labels.Parse(text)
	if err != nil {
		return errors.New(strict.Clean(err.Error(), maxMessageRunes))
	}
	requirements, _ := selector.Requirements()
	for _, r := range requirements {
		switch r.Operator() {
		case selection.Equals, selection.DoubleEquals, selection.In:
			return nil
		}
	}
	return errors.New("must compare a label for equality, such as name=nvidia-device-plugin-ds")
}

// conflicts returns what is wrong with entries only when they are seen together.
func conflicts(entries []*entry, xids map[int]XID) []*strict.Problem {
	var problems []*strict.Problem
	fail := func(at strict.Position, format string, args ...any) {
		problems = append(problems, &strict.Problem{Position: at, Text: fmt.Sprintf(format, args...)})
	}
	names := make(map[string]*entry)
	for _, e := range entries {
		if other := names[strings.ToLower(e.Name)]; other != nil {
			fail(e.defined, "condition %s differs only in case from %s (%s)", e.Name, other.Name, other.defined)
			continue
		}
		names[strings.ToLower(e.Name)] = e
		if _, ok := e.lines["type"]; !ok {
			fail(e.defined, "the new condition %s has no type, %s", e.Name, typeHint(entries, e))
		}
		if e.IDLabel != "" && !e.hasDevice() {
			fail(e.lines[fieldIDLabel], "idLabel has no meaning with device %s, which must be index, id or mask", e.Device)
		}
	}
	aliasConflicts(entries, names, fail)
	inhibitConflicts(entries, fail)
	inhibitedTypes(entries, fail)
	xidConflicts(xids, entries, fail)
	return problems
}

// typeHint says which condition was meant to be overridden, or what types there are.
func typeHint(entries []*entry, untyped *entry) string {
	var names []string
	for _, e := range entries {
		if _, ok := e.lines["type"]; ok {
			names = append(names, e.Name)
		}
	}
	if strict.Nearest(untyped.Name, names) != "" {
		return strict.Hint(untyped.Name, names)
	}
	return strict.Hint("", knownTypes()) + ", or a name of your own"
}

// aliasConflicts finds aliases that are taken. Names are looked up without regard to case, so two conditions must not
// have names that differ only in it; one condition may.
func aliasConflicts(entries []*entry, names map[string]*entry, fail func(strict.Position, string, ...any)) {
	owners := make(map[string]*entry)
	for _, e := range entries {
		own := map[string]bool{e.Name: true}
		for i, alias := range e.Aliases {
			folded, at := strings.ToLower(alias), e.aliasLines[i]
			if own[alias] {
				fail(at, "alias %s of condition %s is a name of it already", alias, e.Name)
			} else if other := names[folded]; other != nil && other != e {
				fail(at, "alias %s of condition %s is the name of condition %s (%s)", alias, e.Name, other.Name, other.defined)
			} else if other := owners[folded]; other != nil && other != e {
				fail(at, "alias %s of condition %s is an alias of condition %s already", alias, e.Name, other.Name)
			} else {
				owners[folded] = e
			}
			own[alias] = true
		}
	}
}
