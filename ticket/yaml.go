package ticket

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Anybody who may annotate a node can write these texts, so reading one costs little whatever it says.
const (
	maxInput = 16 << 10
	maxDepth = 8
	maxSteps = 256
)

// mergeKey is the name that YAML reads as "all fields of the following".
const mergeKey = "<<"

const (
	tagString = "!!str"
	tagNull   = "!!null"
	tagTime   = "!!timestamp"
	tagInt    = "!!int"
	tagBool   = "!!bool"
)

// bar matches the first line of a literal block, which kubectl passes on when a person types the annotation as in a
// manifest.
var bar = regexp.MustCompile(`^\s*\|[-+0-9]*[ \t\r]*(#[^\n]*)?(\n|$)`)

// field is a field that Aegis does not know. It is written back as it was read; nodes are never changed once kept,
// so copies share them.
type field struct {
	key, value *yaml.Node
}

// readDocument returns the root of the only YAML document in text, nil if there is none.
func readDocument(text string) (*yaml.Node, error) {
	if len(text) > maxInput {
		return nil, fmt.Errorf("it has %d bytes, want at most %d", len(text), maxInput)
	}
	// The bar's line stays as an empty one, so that errors count lines as the person sees them.
	decoder := yaml.NewDecoder(strings.NewReader(bar.ReplaceAllString(text, "\n")))
	var document, next yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, syntaxError(err)
	}
	switch err := decoder.Decode(&next); {
	case err == nil:
		return nil, errors.New("it holds more than one YAML document, want one")
	case !errors.Is(err, io.EOF):
		return nil, syntaxError(err)
	}
	root := document.Content[0]
	return root, checkNode(root, 0)
}

// syntaxError shortens an error of the parser, which may quote the text.
func syntaxError(err error) error {
	return fmt.Errorf("invalid YAML: %s", Clip(strings.TrimPrefix(err.Error(), "yaml: "), 200))
}

// checkNode refuses what no ticket needs and what makes YAML expensive or ambiguous.
func checkNode(n *yaml.Node, depth int) error {
	switch {
	case depth > maxDepth:
		return fmt.Errorf("line %d: it is nested more than %d levels deep", n.Line, maxDepth)
	case n.Anchor != "" || n.Kind == yaml.AliasNode:
		return fmt.Errorf("line %d: anchors (&) and aliases (*) are not allowed, write the value out", n.Line)
	case n.Style&yaml.TaggedStyle != 0:
		return fmt.Errorf("line %d: tags (!) are not allowed, write the plain value", n.Line)
	case n.Kind == yaml.MappingNode:
		if err := checkKeys(n); err != nil {
			return err
		}
	}
	for _, child := range n.Content {
		if err := checkNode(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// checkKeys refuses keys that are not plain names, or appear twice.
func checkKeys(n *yaml.Node) error {
	seen := map[string]bool{}
	for key := range fields(n) {
		switch {
		case key.Kind != yaml.ScalarNode || key.Value == mergeKey:
			return fmt.Errorf("line %d: a field's name must be a word", key.Line)
		case seen[key.Value]:
			return fmt.Errorf("line %d: field %s appears twice", key.Line, quote(key.Value))
		}
		seen[key.Value] = true
	}
	return nil
}

// fields returns the keys and values of a mapping.
func fields(n *yaml.Node) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(*yaml.Node, *yaml.Node) bool) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !yield(n.Content[i], n.Content[i+1]) {
				return
			}
		}
	}
}

// decodeFields gives every field of a mapping to set and says where the first bad one is.
func decodeFields(n *yaml.Node, set func(key, value *yaml.Node) error) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: want fields of the form name: value", n.Line)
	}
	for key, value := range fields(n) {
		if err := set(key, value); err != nil {
			return fmt.Errorf("line %d: %s: %w", key.Line, Clip(key.Value, 40), err)
		}
	}
	return nil
}

// decodeText reads a scalar as it is written; null is "".
func decodeText(n *yaml.Node) (string, error) {
	switch {
	case n.Kind != yaml.ScalarNode:
		return "", errors.New("want text on one line, not a list and no further fields")
	case n.Tag == tagNull:
		return "", nil
	}
	return n.Value, nil
}

// decodeBool reads true or false; null is false.
func decodeBool(n *yaml.Node) (bool, error) {
	text, err := decodeText(n)
	if err != nil || text == "" {
		return false, err
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%s is neither true nor false", quote(text))
	}
	return value, nil
}

// decodeTime reads a time; null is the zero time.
func decodeTime(n *yaml.Node) (time.Time, error) {
	text, err := decodeText(n)
	if err != nil || text == "" {
		return time.Time{}, err
	}
	return parseTime(text)
}

// parseTime accepts what formatTime can write again.
func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	t = t.UTC().Truncate(time.Second)
	if err != nil || t.Year() < 1970 || t.Year() > 9999 {
		return time.Time{}, fmt.Errorf("%s is not a time, want one such as 2006-01-02T15:04:05Z", quote(text))
	}
	return t, nil
}

func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// unknown keeps a field that Aegis does not know, without comments and in one spelling.
func unknown(key, value *yaml.Node) field {
	return field{key: canonical(key), value: canonical(value)}
}

// canonical returns a copy that is written the same way however often it is read and written.
func canonical(n *yaml.Node) *yaml.Node {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == tagString:
		return textNode(n.Value)
	case n.Kind == yaml.ScalarNode && n.Tag == tagNull:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tagNull, Value: "null"}
	case n.Kind == yaml.ScalarNode:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: n.Tag, Value: n.Value}
	}
	c := &yaml.Node{Kind: n.Kind, Tag: n.Tag, Style: n.Style & yaml.FlowStyle}
	for _, child := range n.Content {
		c.Content = append(c.Content, canonical(child))
	}
	return c
}

// textNode returns a string, in double quotes if it has characters that a plain line cannot show.
func textNode(text string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: tagString, Value: strings.ToValidUTF8(text, "\uFFFD")}
	for _, r := range n.Value {
		if r < ' ' || r > '~' {
			n.Style = yaml.DoubleQuotedStyle
		}
	}
	return n
}

func intNode(n int) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tagInt, Value: strconv.Itoa(n)}
}

func timeNode(t time.Time) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tagTime, Value: formatTime(t)}
}

// object is a mapping that is being written. Empty values are left out.
type object struct{ node *yaml.Node }

func newObject() object {
	return object{node: &yaml.Node{Kind: yaml.MappingNode}}
}

func (o object) add(key string, value *yaml.Node) {
	o.node.Content = append(o.node.Content, textNode(key), value)
}

func (o object) text(key, value string) {
	if value != "" {
		o.add(key, textNode(value))
	}
}

func (o object) time(key string, value time.Time) {
	if !value.IsZero() {
		o.add(key, timeNode(value))
	}
}

func (o object) list(key string, items []*yaml.Node) {
	if len(items) > 0 {
		o.add(key, &yaml.Node{Kind: yaml.SequenceNode, Content: items})
	}
}

func (o object) unknown(extra []field) {
	for _, f := range extra {
		o.node.Content = append(o.node.Content, f.key, f.value)
	}
}

// encodeNode writes a node as YAML.
func encodeNode(n *yaml.Node) (string, error) {
	var b strings.Builder
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(n), encoder.Close()); err != nil {
		return "", fmt.Errorf("write YAML: %w", err)
	}
	return b.String(), nil
}
