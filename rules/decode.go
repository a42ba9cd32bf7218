package rules

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	// maxFileBytes is far above any real catalogue, and keeps a wrong path from being read for minutes.
	maxFileBytes = 1 << 20
	// maxDuration is the longest time that a policy may wait for anything.
	maxDuration = 366 * 24 * time.Hour
)

var (
	// decimal leaves out what YAML also takes for a number: 010 is eight, and 1_0 is ten.
	decimal = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)
	// yamlLine finds the line in the text of a syntax error, the only place that has it.
	yamlLine = regexp.MustCompile(`^yaml: line (\d+): (.*)$`)
)

// source is a file that has been read.
type source struct {
	name string
	data []byte
	err  error // Why there is no data.
}

// position is a line of a file.
type position struct {
	file string
	line int
}

func (p position) String() string { return fmt.Sprintf("%s:%d", p.file, p.line) }

// decoder reads YAML nodes and collects what is wrong with them. Its methods set their target only to a good value.
type decoder struct {
	file     string
	problems []*FileError
}

// failAt notes a problem at a line.
func (d *decoder) failAt(line int, format string, args ...any) {
	d.problems = append(d.problems, &FileError{File: d.file, Line: line, Problem: fmt.Sprintf(format, args...)})
}

// fail notes a problem at a node.
func (d *decoder) fail(n *yaml.Node, format string, args ...any) { d.failAt(n.Line, format, args...) }

// wrongType notes that a node is something else than wanted.
func (d *decoder) wrongType(n *yaml.Node, what, want string) {
	d.fail(n, "%s must be %s, is %s", what, want, describe(n))
}

// describe says in words what a node is.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "a YAML alias, which is not supported: write the value out"
	}
	switch n.ShortTag() {
	case "!!null":
		return "empty"
	case "!!int", "!!float":
		return "the number " + clip(n.Value)
	case "!!bool":
		return "the truth value " + clip(n.Value)
	case "!!str":
		return "the text " + quote(n.Value)
	default:
		return "of the YAML type " + clip(n.ShortTag())
	}
}

// clip returns the value as quote does, without the quotes.
func clip(value string) string { return strings.ReplaceAll(quote(value), `"`, "") }

// document parses the one document of a file and returns its root.
func (d *decoder) document(data []byte) (*yaml.Node, bool) {
	if len(data) > maxFileBytes {
		d.failAt(1, "the file is larger than 1 MiB")
		return nil, false
	}
	parser := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	if err := parser.Decode(&doc); errors.Is(err, io.EOF) {
		d.failAt(1, "the file is empty, it must have conditions, defaults or xids")
		return nil, false
	} else if err != nil {
		d.syntax(err)
		return nil, false
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		d.failAt(1, "the file is empty, it must have conditions, defaults or xids")
		return nil, false
	}
	if err := parser.Decode(&next); err == nil {
		d.fail(&next, "a second document begins here, a file must have only one")
	} else if !errors.Is(err, io.EOF) {
		d.syntax(err)
	}
	return root, true
}

// syntax notes what the YAML parser says, at the line that it says.
func (d *decoder) syntax(err error) {
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		if line, err := strconv.Atoi(m[1]); err == nil {
			d.failAt(line, "not valid YAML: %s", clean(m[2], maxMessageRunes))
			return
		}
	}
	d.failAt(1, "not valid YAML: %s", clean(strings.TrimPrefix(err.Error(), "yaml: "), maxMessageRunes))
}

// fields says what to do with the value of each key of a mapping.
type fields map[string]func(*yaml.Node)

// mapping calls the function of each key, in the order of the file.
func (d *decoder) mapping(n *yaml.Node, what string, known fields) {
	d.pairs(n, what, func(key, value *yaml.Node) {
		set, ok := known[key.Value]
		if !ok {
			d.fail(key, "unknown field %s in %s, %s", quote(key.Value), what, hint(key.Value, slices.Collect(maps.Keys(known))))
			return
		}
		set(value)
	})
}

// pairs calls visit for each key, in the order of the file. Keys are text and differ from each other.
func (d *decoder) pairs(n *yaml.Node, what string, visit func(key, value *yaml.Node)) {
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
			d.fail(key, "%s has the key %s already in line %d", what, quote(key.Value), line)
			continue
		}
		lines[key.Value] = key.Line
		visit(key, value)
	}
}

func (d *decoder) badKey(key *yaml.Node, what string) {
	if key.ShortTag() == "!!merge" {
		d.fail(key, "%s has a YAML merge key, which is not supported: write the values out", what)
		return
	}
	d.wrongType(key, "a key of "+what, "text")
}

// field returns the value of a key of a mapping before the mapping is read, nil when it has none.
func field(n *yaml.Node, key string) *yaml.Node {
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

// list calls visit for each item.
func (d *decoder) list(n *yaml.Node, what string, visit func(*yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		d.wrongType(n, what, "a list")
		return
	}
	for _, item := range n.Content {
		visit(item)
	}
}

// text returns the text of a node.
func (d *decoder) text(n *yaml.Node, what string) (string, bool) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" {
		return n.Value, true
	}
	want := "text"
	if n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null" {
		want = fmt.Sprintf("text, so write %s in quotes", clip(n.Value))
	}
	d.wrongType(n, what, want)
	return "", false
}

// pattern sets a text that the check accepts, or an empty one.
func (d *decoder) pattern(n *yaml.Node, what string, check func(string) error, to *string) {
	value, ok := d.text(n, what)
	if !ok {
		return
	}
	if value != "" {
		if err := check(value); err != nil {
			d.fail(n, "%s %s: %v", what, quote(value), err)
			return
		}
	}
	*to = value
}

func (d *decoder) boolean(n *yaml.Node, what string, to *bool) {
	value, err := strconv.ParseBool(n.Value)
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || err != nil {
		d.wrongType(n, what, "true or false")
		return
	}
	*to = value
}

func (d *decoder) integer(n *yaml.Node, what string, highest int, to *int) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || !decimal.MatchString(n.Value) {
		d.wrongType(n, what, fmt.Sprintf("a whole number from 0 to %d", highest))
		return
	}
	value, err := strconv.Atoi(n.Value)
	if err != nil || value < 0 || value > highest {
		d.fail(n, "%s must be from 0 to %d, is %s", what, highest, clip(n.Value))
		return
	}
	*to = value
}

func (d *decoder) duration(n *yaml.Node, what string, shortest time.Duration, to *time.Duration) {
	if n.Kind != yaml.ScalarNode || (n.ShortTag() != "!!str" && n.Value != "0") {
		d.wrongType(n, what, "a duration such as 90s, 30m or 24h")
		return
	}
	value, err := time.ParseDuration(n.Value)
	switch {
	case err != nil:
		d.fail(n, "%s must be a duration such as 90s, 30m or 24h, is %s", what, quote(n.Value))
	case value < shortest || value > maxDuration:
		d.fail(n, "%s must be from %v to %v, is %s", what, shortest, maxDuration, quote(n.Value))
	default:
		*to = value
	}
}

// choice sets one of the known values.
func choice[T ~string](d *decoder, n *yaml.Node, what string, known []T, to *T) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		d.fail(n, "%s must be a word, is %s, %s", what, describe(n), hint("", known))
		return
	}
	if !slices.Contains(known, T(n.Value)) {
		d.fail(n, "unknown %s %s, %s", what, quote(n.Value), hint(n.Value, known))
		return
	}
	*to = T(n.Value)
}
