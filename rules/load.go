package rules

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"aegis.io/aegis/rules/prom"
)

// embedded is the catalogue: the defaults, a file for each domain, and the XIDs.
//
//go:embed catalogue/*.yaml
var embedded embed.FS

// embeddedDir is the folder of the embedded catalogue, below the one of this package.
const embeddedDir = "catalogue"

const (
	// maxReboots is far more than a machine that a reboot can repair needs.
	maxReboots = 10
	// maxRepairs is how many incidents the history of a node keeps.
	maxRepairs = 20
	// shortest is the least time for what must not take no time at all.
	shortest = time.Second
	// self is the supervisor that stands for Aegis, which cannot hand over to itself.
	self = "aegis"
)

// The fields of a condition whose lines are needed after it has been read.
const (
	fieldName    = "name"
	fieldIDLabel = "idLabel"
	fieldSOP     = "sop"
)

var (
	// namePattern keeps names usable as the value of a label, in Kubernetes and in metrics.
	namePattern = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$`)
	sopPattern  = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(-[a-z0-9]+)*$`)
	teamPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
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
}

// Load returns the embedded catalogue as the files override it. The error joins a *FileError for every problem of every
// file.
func Load(o Options) (*Catalogue, error) {
	mode := cmp.Or(o.Mode, prom.ModeObserve)
	if !mode.Known() {
		return nil, fmt.Errorf("unknown mode %s, %s", quote(string(mode)), hint(string(mode), prom.Modes()))
	}
	l := newLoader(mode)
	if err := l.parseEmbedded(); err != nil {
		return nil, err
	}
	for _, file := range o.Files {
		data, err := readFile(file)
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

// readFile reads a little more than a catalogue may have, for the parser to refuse.
func readFile(name string) (data []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, reason(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err = io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, reason(err)
	}
	return data, nil
}

// reason returns what went wrong with a file without the file's name, which the FileError has.
func reason(err error) error {
	var pathError *os.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}

// entry is a condition with what else is known of it.
type entry struct {
	Condition
	matchers []matcher
	// rank is the position in the sorted catalogue.
	rank int
	// defined is where the condition was first named.
	defined position
	// lines are where fields were last set.
	lines                  map[string]position
	aliasLines, hidesLines []position
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
	problems []*FileError
	order    map[string]int // By the name of a file, its position among the files.
	files    []parsed
	defaults prom.Policy
	entries  []*entry
	byName   map[string]*entry
	xids     map[int]XID
}

func newLoader(mode prom.Mode) *loader {
	return &loader{
		defaults: prom.Policy{Mode: mode}, order: make(map[string]int), byName: make(map[string]*entry), xids: make(map[int]XID),
	}
}

// parse reads the defaults of a file and puts its conditions aside.
func (l *loader) parse(s source) {
	l.order[s.name] = len(l.order)
	d := &decoder{file: s.name}
	defer func() { l.problems = append(l.problems, d.problems...) }()
	if s.err != nil {
		d.failAt(0, "%v", s.err)
		return
	}
	root, ok := d.document(s.data)
	if !ok {
		return
	}
	p := parsed{file: s.name}
	var filled bool
	d.mapping(root, "the file", fields{
		"defaults": func(n *yaml.Node) { filled = true; d.policy(n, "defaults", &l.defaults) },
		"conditions": func(n *yaml.Node) {
			filled = true
			d.list(n, "conditions", func(item *yaml.Node) { p.conditions = append(p.conditions, item) })
		},
		"xids": func(n *yaml.Node) {
			filled = true
			d.list(n, "xids", func(item *yaml.Node) { p.xids = append(p.xids, item) })
		},
	})
	if !filled && len(d.problems) == 0 {
		d.fail(root, "the file is empty, it must have conditions, defaults or xids")
	}
	l.files = append(l.files, p)
}

// catalogue reads the conditions of all files and returns the result, unless there was any problem.
func (l *loader) catalogue() (*Catalogue, error) {
	for _, p := range l.files {
		d := &decoder{file: p.file}
		seen := make(map[string]int)
		for _, n := range p.conditions {
			l.condition(d, n, seen)
		}
		codes := make(map[int]int)
		for _, n := range p.xids {
			l.xid(d, n, codes)
		}
		l.problems = append(l.problems, d.problems...)
	}
	l.problems = append(l.problems, conflicts(l.entries, l.xids)...)
	if len(l.problems) > 0 {
		l.sortProblems()
		return nil, join(l.problems)
	}
	return newCatalogue(l.entries, l.xids), nil
}

// sortProblems puts them in the order in which a reader of the files meets them.
func (l *loader) sortProblems() {
	slices.SortStableFunc(l.problems, func(a, b *FileError) int {
		return cmp.Or(cmp.Compare(l.order[a.File], l.order[b.File]), cmp.Compare(a.Line, b.Line))
	})
}

// condition reads an entry over the one of the same name. An entry whose name is unusable is read all the same, for
// its other mistakes.
func (l *loader) condition(d *decoder, n *yaml.Node, seen map[string]int) {
	name, ok := d.name(n)
	if !ok {
		d.entry(n, l.newEntry("", position{d.file, n.Line}))
		return
	}
	if line, again := seen[name]; again {
		d.fail(n, "condition %s is in this file already, in line %d", name, line)
		d.entry(n, l.newEntry(name, position{d.file, n.Line}))
		return
	}
	seen[name] = n.Line
	e := l.byName[name]
	if e == nil {
		e = l.newEntry(name, position{d.file, n.Line})
		l.byName[name] = e
		l.entries = append(l.entries, e)
	}
	d.entry(n, e)
}

func (l *loader) newEntry(name string, at position) *entry {
	return &entry{
		Condition: Condition{Name: name, Priority: prom.DefaultPriority, Device: prom.DeviceNone, Policy: l.defaults},
		defined:   at,
		lines:     make(map[string]position),
	}
}

// name returns the name in an entry, which says what the rest of it is read over.
func (d *decoder) name(n *yaml.Node) (string, bool) {
	at := field(n, fieldName)
	if at == nil {
		if n.Kind == yaml.MappingNode {
			d.fail(n, "a condition has no name")
		}
		return "", false
	}
	name, ok := d.text(at, fieldName)
	if !ok {
		return "", false
	}
	if err := checkName(name); err != nil {
		d.fail(at, "name %s: %v", quote(name), err)
		return "", false
	}
	return name, true
}

func checkName(name string) error {
	if len(name) > maxQuoted || !namePattern.MatchString(name) {
		return errors.New("a name has letters, digits, _ and -, begins with a letter, ends with a letter or digit, and " +
			"is at most 63 long")
	}
	return nil
}

// entry reads the fields of an entry over e.
func (d *decoder) entry(n *yaml.Node, e *entry) {
	mark := func(field string, n *yaml.Node) { e.lines[field] = position{d.file, n.Line} }
	d.mapping(n, "condition", fields{
		fieldName:     func(*yaml.Node) {}, // Has been read.
		"type":        func(n *yaml.Node) { choice(d, n, "type", knownTypes(), &e.Type); mark("type", n) },
		"priority":    func(n *yaml.Node) { d.integer(n, "priority", math.MaxInt32, &e.Priority) },
		"device":      func(n *yaml.Node) { choice(d, n, "device", knownDevices(), &e.Device) },
		"affectsLoad": func(n *yaml.Node) { d.boolean(n, "affectsLoad", &e.AffectsLoad) },
		"match":       func(n *yaml.Node) { d.match(n, e) },
		"aliases":     func(n *yaml.Node) { d.aliases(n, e) },
		fieldHides:    func(n *yaml.Node) { d.hides(n, e) },
		"policy":      func(n *yaml.Node) { d.policy(n, "policy", &e.Policy) },
		fieldIDLabel: func(n *yaml.Node) {
			d.pattern(n, fieldIDLabel, checkLabelName, &e.IDLabel)
			mark(fieldIDLabel, n)
		},
		fieldSOP: func(n *yaml.Node) { d.pattern(n, fieldSOP, checkSOP, &e.SOP); mark(fieldSOP, n) },
	})
}

func checkSOP(name string) error {
	if !sopPattern.MatchString(name) {
		return errors.New("must be domain/name in lower case, such as gpu/hung")
	}
	return nil
}

// match reads matchers. An empty mapping goes back to the default.
func (d *decoder) match(n *yaml.Node, e *entry) {
	e.Match, e.matchers = make(map[string]string), nil
	problems := len(d.problems)
	selective := false
	d.pairs(n, "match", func(key, value *yaml.Node) {
		if err := checkLabelName(key.Value); err != nil {
			d.fail(key, "match: %v", err)
			return
		}
		text, ok := d.text(value, "match of the label "+clip(key.Value))
		if !ok {
			return
		}
		m, err := parseMatcher(key.Value, text)
		if err != nil {
			d.fail(value, "match of the label %s: %v", clip(key.Value), err)
			return
		}
		selective = selective || m.selective()
		e.Match[key.Value] = text
		e.matchers = append(e.matchers, m)
	})
	if len(e.matchers) > 0 && !selective && len(d.problems) == problems {
		d.fail(n, "match fits every alert without these labels, add a label that must have a value, such as alertname")
	}
}

// aliases reads other names. Whether they are free is known only when all files have been read.
func (d *decoder) aliases(n *yaml.Node, e *entry) {
	e.Aliases, e.aliasLines = nil, nil
	d.list(n, "aliases", func(item *yaml.Node) {
		alias, ok := d.text(item, "alias")
		if !ok {
			return
		}
		if err := checkName(alias); err != nil {
			d.fail(item, "alias %s: %v", quote(alias), err)
			return
		}
		e.Aliases = append(e.Aliases, alias)
		e.aliasLines = append(e.aliasLines, position{d.file, item.Line})
	})
}

// policy reads the fields of a policy over p.
func (d *decoder) policy(n *yaml.Node, what string, p *prom.Policy) {
	wait := func(field string, least time.Duration, to *time.Duration) func(*yaml.Node) {
		return func(n *yaml.Node) { d.duration(n, field, least, to) }
	}
	d.mapping(n, what, fields{
		"mode":                func(n *yaml.Node) { choice(d, n, "mode", prom.Modes(), &p.Mode) },
		"workload":            func(n *yaml.Node) { choice(d, n, "workload", knownWorkloads(), &p.Workload) },
		"team":                func(n *yaml.Node) { d.team(n, &p.Team) },
		"maxReboots":          func(n *yaml.Node) { d.integer(n, "maxReboots", maxReboots, &p.MaxReboots) },
		"shutdown":            func(n *yaml.Node) { d.boolean(n, "shutdown", &p.Shutdown) },
		"selector":            func(n *yaml.Node) { d.pattern(n, "selector", checkSelector, &p.Selector) },
		"maxRepairs":          func(n *yaml.Node) { d.integer(n, "maxRepairs", maxRepairs, &p.MaxRepairs) },
		"repairWindow":        wait("repairWindow", shortest, &p.RepairWindow),
		"ownBoot":             wait("ownBoot", 0, &p.OwnBoot),
		"once":                func(n *yaml.Node) { d.boolean(n, "once", &p.Once) },
		"threshold":           func(n *yaml.Node) { d.threshold(n, &p.Threshold) },
		"cooldown":            wait("cooldown", 0, &p.Cooldown),
		"attemptWindow":       wait("attemptWindow", shortest, &p.AttemptWindow),
		"grace":               wait("grace", 0, &p.Grace),
		"powerOffAfter":       wait("powerOffAfter", shortest, &p.PowerOffAfter),
		"handOverAfter":       wait("handOverAfter", shortest, &p.HandOverAfter),
		"clearFor":            wait("clearFor", shortest, &p.ClearFor),
		"verifyWithin":        wait("verifyWithin", shortest, &p.VerifyWithin),
		"drainDeadline":       wait("drainDeadline", shortest, &p.DrainDeadline),
		"healthcheckDeadline": wait("healthcheckDeadline", shortest, &p.HealthcheckDeadline),
		"rebootDeadline":      wait("rebootDeadline", shortest, &p.RebootDeadline),
		"remedyDeadline":      wait("remedyDeadline", shortest, &p.RemedyDeadline),
	})
}

// team reads who takes over, which must be somebody.
func (d *decoder) team(n *yaml.Node, to *string) {
	team, ok := d.text(n, "team")
	switch {
	case !ok:
	case !teamPattern.MatchString(team):
		d.fail(n, "team %s: must be one word of letters, digits, dots, _ and -, at most 63 long", quote(team))
	case strings.EqualFold(team, self):
		d.fail(n, "team %s: Aegis cannot hand over to itself", quote(team))
	default:
		*to = team
	}
}

// checkSelector refuses selectors that only say which pods are not meant: all others would be restarted.
func checkSelector(text string) error {
	selector, err := labels.Parse(text)
	if err != nil {
		return errors.New(clean(err.Error(), maxMessageRunes))
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
func conflicts(entries []*entry, xids map[int]XID) []*FileError {
	var problems []*FileError
	fail := func(at position, format string, args ...any) {
		problems = append(problems, &FileError{File: at.file, Line: at.line, Problem: fmt.Sprintf(format, args...)})
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
	hidingConflicts(entries, fail)
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
	if nearest(untyped.Name, names) != "" {
		return hint(untyped.Name, names)
	}
	return hint("", knownTypes())
}

// aliasConflicts finds aliases that are taken. Names are looked up without regard to case, so two conditions must not
// have names that differ only in it; one condition may.
func aliasConflicts(entries []*entry, names map[string]*entry, fail func(position, string, ...any)) {
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
