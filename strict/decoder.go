package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	// MaxBytes is far above any file that people write, and keeps a wrong path from being read for minutes.
	MaxBytes = 1 << 20
	// maxDuration is the longest time that anything may take.
	maxDuration = 366 * 24 * time.Hour

	durationExample = "a duration such as 90s, 30m or 24h"
)

var (
	// decimal leaves out what YAML also takes for a number: 010 is eight, and 1_0 is ten.
	decimal = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)
	// yamlLine finds the line in the text of a syntax error, the only place that has it.
	yamlLine = regexp.MustCompile(`^yaml: line (\d+): (.*)$`)
	// oldTruth is text in YAML 1.2 and a truth value in YAML 1.1, which Helm reads.
	oldTruth = regexp.MustCompile(`^(y|Y|yes|Yes|YES|on|On|ON|n|N|no|No|NO|off|Off|OFF)$`)
)

// ReadFile reads a little more than a file may have, for the decoder to refuse. The error leaves out the name of the file.
func ReadFile(name string) (data []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, reason(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err = io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, reason(err)
	}
	return data, nil
}

// reason returns what went wrong with a file without the file's name, which the Problem has.
func reason(err error) error {
	var pathError *os.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}

// Decoder reads the nodes of one file and collects what is wrong with them. Its methods set their target only to a good value.
type Decoder struct {
	// Secret keeps values out of the problems.
	Secret bool
	// Aliases allows the aliases and merge keys of YAML.
	Aliases bool
	// JSON reads types that are made for JSON, as those of Kubernetes are.
	JSON bool
	// Legacy takes what JSON made of the same file in earlier versions: keys in another letter case, whole numbers in every spelling
	// of YAML 1.1, such as the mode 0444, and numbers for text.
	Legacy bool

	file     string
	root     *yaml.Node
	problems []*Problem
	// failed are the nodes that a problem has been found at.
	failed map[*yaml.Node]bool
	// depth counts the sections around the current one that may hold secrets.
	depth int
}

// NewDecoder returns a Decoder for the file of that name.
func NewDecoder(file string) *Decoder {
	return &Decoder{file: file, failed: make(map[*yaml.Node]bool)}
}

// Problems returns what has been found so far, in the order in which it was found.
func (d *Decoder) Problems() []*Problem { return d.problems }

// Err returns the problems as one error, in the order of the file, and nil when there is none.
func (d *Decoder) Err() error {
	problems := slices.Clone(d.problems)
	Sort(problems)
	return Join(problems)
}

// Unreadable notes why the file cannot be read.
func (d *Decoder) Unreadable(err error) { d.failAt(0, "%v", err) }

// failAt notes a problem of a line of which no more is known.
func (d *Decoder) failAt(line int, format string, args ...any) {
	d.problems = append(d.problems, &Problem{Position{d.file, line, 1}, fmt.Sprintf(format, args...)})
}

// Position returns the place of a node.
func (d *Decoder) Position(n *yaml.Node) Position { return Position{d.file, n.Line, n.Column} }

// Fail notes a problem at a node.
func (d *Decoder) Fail(n *yaml.Node, format string, args ...any) {
	d.failed[n] = true
	d.problems = append(d.problems, &Problem{d.Position(n), fmt.Sprintf(format, args...)})
}

// wrongType notes that a node is something else than wanted.
func (d *Decoder) wrongType(n *yaml.Node, what, want string) {
	d.Fail(n, "%s must be %s, is %s", what, want, d.describe(n))
}

func (d *Decoder) secret() bool { return d.Secret || d.depth > 0 }

// describe says in words what a node is.
func (d *Decoder) describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "a YAML alias, which is not supported: write the value out"
	}
	switch {
	case n.ShortTag() == "!!null":
		return "empty"
	case d.secret():
		return "a value of another kind"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "the number " + Clip(n.Value)
	case "!!bool":
		return "the truth value " + Clip(n.Value)
	case "!!str":
		return "the text " + Quote(n.Value)
	default:
		return "of the YAML type " + Clip(n.ShortTag())
	}
}

// Document parses the one document of a file and returns its root. An empty file has none, and is a problem only where empty
// says why.
func (d *Decoder) Document(data []byte, empty string) (*yaml.Node, bool) {
	if len(data) > MaxBytes {
		d.failAt(1, "the file is larger than 1 MiB")
		return nil, false
	}
	documents := d.documents(data)
	switch {
	case len(d.problems) > 0:
		return nil, false
	case len(documents) == 0:
		d.empty(empty)
		return nil, false
	case len(documents) > 1:
		d.Fail(documents[1], "a second document begins here, a file must have only one")
		return nil, false
	}
	d.root = documents[0].Content[0]
	return d.root, !d.Aliases || d.expand(d.root)
}

// documents returns those that hold something.
func (d *Decoder) documents(data []byte) []*yaml.Node {
	var all []*yaml.Node
	for parser := yaml.NewDecoder(bytes.NewReader(data)); ; {
		document := new(yaml.Node)
		err := parser.Decode(document)
		switch {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			d.syntax(err)
			return nil
		case document.Content[0].ShortTag() != "!!null":
			all = append(all, document)
		}
	}
}

func (d *Decoder) empty(says string) {
	if says != "" {
		d.failAt(1, "%s", says)
	}
}

// syntax notes what the YAML parser says, at the line that it says.
func (d *Decoder) syntax(err error) {
	line, text := 1, strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			line, text = n, m[2]
		}
	}
	d.failAt(line, "not valid YAML: %s", Clean(text, maxMessage))
}

// Fields says what to do with the value of each key of a mapping.
type Fields map[string]func(*yaml.Node)

// Mapping calls the function of each key, in the order of the file.
func (d *Decoder) Mapping(n *yaml.Node, what string, known Fields) {
	d.Pairs(n, what, func(key, value *yaml.Node) {
		set, ok := known[key.Value]
		if !ok {
			d.Fail(key, "unknown field %s in %s, %s", Quote(key.Value), what, Hint(key.Value, slices.Collect(maps.Keys(known))))
			return
		}
		set(value)
	})
}

// Pairs calls visit for each key, in the order of the file. Keys are text and differ from each other.
func (d *Decoder) Pairs(n *yaml.Node, what string, visit func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.wrongType(n, what, "a mapping")
		return
	}
	lines := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" {
			d.badKey(key, what)
			continue
		}
		if line, ok := lines[key.Value]; ok {
			d.Fail(key, "%s has the key %s already in line %d", what, Quote(key.Value), line)
			continue
		}
		lines[key.Value] = key.Line
		visit(key, value)
	}
}

func (d *Decoder) badKey(key *yaml.Node, what string) {
	if key.ShortTag() == "!!merge" {
		d.Fail(key, "%s has a YAML merge key, which is not supported: write the values out", what)
		return
	}
	d.wrongType(key, "a key of "+what, "text")
}

// Field returns the value of a key of a mapping before the mapping is read, nil when it has none.
func Field(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil // Reading the fields says so.
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// List calls visit for each item.
func (d *Decoder) List(n *yaml.Node, what string, visit func(*yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		d.wrongType(n, what, "a list")
		return
	}
	for _, item := range n.Content {
		visit(item)
	}
}

// Text returns the text of a node.
func (d *Decoder) Text(n *yaml.Node, what string) (string, bool) {
	// YAML 1.1, which Helm reads, would take an unquoted yes for a truth value.
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" && (n.Style != 0 || !oldTruth.MatchString(n.Value)) {
		return n.Value, true
	}
	want := "text"
	if n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null" {
		want = "text, so write it in quotes"
		if !d.secret() {
			want = fmt.Sprintf("text, so write %s in quotes", Clip(n.Value))
		}
	}
	d.wrongType(n, what, want)
	return "", false
}

// Texts sets a list of texts.
func (d *Decoder) Texts(n *yaml.Node, what string, to *[]string) {
	*to = nil
	d.List(n, what, func(item *yaml.Node) {
		if text, ok := d.Text(item, "an item of "+what); ok {
			*to = append(*to, text)
		}
	})
}

// Pattern sets a text that the check accepts, or an empty one.
func (d *Decoder) Pattern(n *yaml.Node, what string, check func(string) error, to *string) {
	value, ok := d.Text(n, what)
	if !ok {
		return
	}
	if value != "" {
		if err := check(value); err != nil {
			d.Fail(n, "%s %s: %v", what, Quote(value), err)
			return
		}
	}
	*to = value
}

// Boolean sets a truth value.
func (d *Decoder) Boolean(n *yaml.Node, what string, to *bool) {
	value, err := strconv.ParseBool(n.Value)
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || err != nil {
		d.wrongType(n, what, "true or false")
		return
	}
	*to = value
}

// Integer sets a whole number from 0 to the highest.
func (d *Decoder) Integer(n *yaml.Node, what string, highest int, to *int) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || !decimal.MatchString(n.Value) {
		d.wrongType(n, what, fmt.Sprintf("a whole number from 0 to %d", highest))
		return
	}
	value, err := strconv.Atoi(n.Value)
	if err != nil || value < 0 || value > highest {
		d.Fail(n, "%s must be from 0 to %d, is %s", what, highest, Clip(n.Value))
		return
	}
	*to = value
}

// Duration sets a time that is no shorter.
func (d *Decoder) Duration(n *yaml.Node, what string, shortest time.Duration, to *time.Duration) {
	value, ok := d.anyDuration(n, what)
	switch {
	case !ok:
	case value < shortest || value > maxDuration:
		d.Fail(n, "%s must be from %v to %v, is %s", what, shortest, maxDuration, Quote(n.Value))
	default:
		*to = value
	}
}

func (d *Decoder) anyDuration(n *yaml.Node, what string) (time.Duration, bool) {
	if n.Kind != yaml.ScalarNode || (n.ShortTag() != "!!str" && n.Value != "0") {
		d.wrongType(n, what, durationExample)
		return 0, false
	}
	value, err := time.ParseDuration(n.Value)
	if err != nil {
		d.Fail(n, "%s must be %s, is %s", what, durationExample, Quote(n.Value))
		return 0, false
	}
	return value, true
}

// Choice sets one of the known values.
func Choice[T ~string](d *Decoder, n *yaml.Node, what string, known []T, to *T) {
	if off := T("off"); n.Value == "false" && n.ShortTag() == "!!bool" && slices.Contains(known, off) {
		*to = off // YAML 1.1, which Helm reads, takes an unquoted off for false.
		return
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		d.Fail(n, "%s must be a word, is %s, %s", what, d.describe(n), Hint("", known))
		return
	}
	if !slices.Contains(known, T(n.Value)) {
		d.Fail(n, "unknown %s %s, %s", what, Quote(n.Value), Hint(n.Value, known))
		return
	}
	*to = T(n.Value)
}
