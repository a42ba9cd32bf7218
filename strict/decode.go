package strict

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// simpleUnmarshaler is a yaml.Unmarshaler of earlier versions of the library, which Prometheus' types still are.
type simpleUnmarshaler interface{ UnmarshalYAML(func(any) error) error }

// maxDigits is how long a number may be that no reader of YAML prints in another way.
const maxDigits = 15

var (
	unmarshalers = []reflect.Type{
		reflect.TypeFor[yaml.Unmarshaler](), reflect.TypeFor[simpleUnmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](),
	}
	unmarshalersOfJSON = []reflect.Type{reflect.TypeFor[json.Unmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler]()}
	durationType       = reflect.TypeFor[time.Duration]()

	// foreignLine and foreignType take the texts of a yaml.TypeError apart.
	foreignLine = regexp.MustCompile(`^line (\d+): (.*)$`)
	foreignType = regexp.MustCompile("^cannot unmarshal !!\\S+ (?:`.*` )?into (\\S+)$")
)

// Decode reads a node over the value that to points to: structs by their yaml tags, and what they are made of. What the file
// does not have, or has without a value, stays as it is. A type that unmarshals itself does so once its fields are known ones.
func (d *Decoder) Decode(n *yaml.Node, to any) { d.value(n, "", reflect.ValueOf(to).Elem()) }

// named says what a path is called in a problem.
func named(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

func below(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (d *Decoder) value(n *yaml.Node, path string, to reflect.Value) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return
	}
	switch t := to.Type(); {
	case t.Kind() == reflect.Pointer:
		d.pointer(n, path, to)
	case t == durationType:
		if value, ok := d.anyDuration(n, named(path)); ok {
			to.SetInt(int64(value))
		}
	case d.unmarshalsItself(t):
		d.delegate(n, path, to)
	default:
		d.kind(n, path, to)
	}
}

func (d *Decoder) pointer(n *yaml.Node, path string, to reflect.Value) {
	fresh := reflect.New(to.Type().Elem())
	if !to.IsNil() {
		fresh.Elem().Set(to.Elem())
	}
	d.value(n, path, fresh.Elem())
	to.Set(fresh)
}

func (d *Decoder) kind(n *yaml.Node, path string, to reflect.Value) {
	switch to.Kind() {
	case reflect.Struct:
		d.fields(n, path, to)
	case reflect.Map:
		d.entries(n, path, to)
	case reflect.Slice:
		d.items(n, path, to)
	case reflect.String:
		d.text(n, path, to)
	case reflect.Bool:
		d.truth(n, path, to)
	case reflect.Int, reflect.Int32, reflect.Int64:
		d.number(n, path, to)
	case reflect.Float64:
		d.float(n, path, to)
	default:
		d.foreign(n, path, to)
	}
}

// text takes a plain number, such as the name of a cluster that is one, as it is written: every reader of YAML would print it so. It
// takes words such as off, which only YAML 1.1 has for truth values, and dates as they are written, too.
func (d *Decoder) text(n *yaml.Node, path string, to reflect.Value) {
	if n.Kind == yaml.ScalarNode && d.readsAsText(n) {
		to.SetString(n.Value)
		return
	}
	if text, ok := d.Text(n, named(path)); ok {
		to.SetString(text)
	}
}

func (d *Decoder) readsAsText(n *yaml.Node) bool {
	switch n.ShortTag() {
	case "!!str", "!!timestamp":
		return true
	case "!!int":
		return d.Legacy || len(n.Value) <= maxDigits && decimal.MatchString(n.Value)
	case "!!float":
		return d.Legacy
	}
	return false
}

// truth also takes the words that YAML had before version 1.2.
func (d *Decoder) truth(n *yaml.Node, path string, to reflect.Value) {
	if n.Kind == yaml.ScalarNode && n.Style == 0 && oldTruth.MatchString(n.Value) {
		to.SetBool(strings.HasPrefix(strings.ToLower(n.Value), "y") || strings.EqualFold(n.Value, "on"))
		return
	}
	value := to.Bool()
	d.Boolean(n, named(path), &value)
	to.SetBool(value)
}

func (d *Decoder) number(n *yaml.Node, path string, to reflect.Value) {
	if value, ok := d.legacyNumber(n); ok && !to.OverflowInt(value) {
		to.SetInt(value)
		return
	}
	value, err := strconv.ParseInt(n.Value, 10, to.Type().Bits())
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || !decimal.MatchString(n.Value) || err != nil {
		d.wrongType(n, named(path), "a whole number")
		return
	}
	to.SetInt(value)
}

// legacyNumber reads a whole number in any spelling: decimal, octal, hexadecimal, or with a fraction of zero.
func (d *Decoder) legacyNumber(n *yaml.Node) (int64, bool) {
	if !d.Legacy || n.Kind != yaml.ScalarNode {
		return 0, false
	}
	var whole int64
	if n.ShortTag() == "!!int" {
		err := n.Decode(&whole)
		return whole, err == nil
	}
	value, err := strconv.ParseFloat(n.Value, 64)
	if n.ShortTag() != "!!float" || err != nil || value != math.Trunc(value) || math.Abs(value) > 1<<53 {
		return 0, false
	}
	return int64(value), true
}

func (d *Decoder) float(n *yaml.Node, path string, to reflect.Value) {
	value, err := strconv.ParseFloat(n.Value, 64)
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" && n.ShortTag() != "!!float" || err != nil {
		d.wrongType(n, named(path), "a number")
		return
	}
	to.SetFloat(value)
}

func (d *Decoder) items(n *yaml.Node, path string, to reflect.Value) {
	list := reflect.MakeSlice(to.Type(), 0, len(n.Content))
	d.List(n, named(path), func(item *yaml.Node) {
		value := reflect.New(to.Type().Elem()).Elem()
		d.value(item, fmt.Sprintf("%s[%d]", path, list.Len()), value)
		list = reflect.Append(list, value)
	})
	to.Set(list)
}

func (d *Decoder) entries(n *yaml.Node, path string, to reflect.Value) {
	if to.IsNil() {
		to.Set(reflect.MakeMap(to.Type()))
	}
	d.Pairs(n, named(path), func(key, value *yaml.Node) { d.entry(key, value, path, to) })
}

func (d *Decoder) entry(key, n *yaml.Node, path string, to reflect.Value) {
	value := reflect.New(to.Type().Elem()).Elem()
	d.value(n, below(path, key.Value), value)
	to.SetMapIndex(reflect.ValueOf(key.Value).Convert(to.Type().Key()), value)
}

// fields reads a struct. Unknown keys belong to its inline map, if it has one.
func (d *Decoder) fields(n *yaml.Node, path string, to reflect.Value) {
	known := make(map[string]reflect.Value)
	rest := d.collect(to, known)
	d.Pairs(n, named(path), func(key, value *yaml.Node) {
		field, ok := d.field(known, key.Value)
		switch {
		case ok:
			d.value(value, below(path, key.Value), field)
		case rest.IsValid():
			if rest.IsNil() {
				rest.Set(reflect.MakeMap(rest.Type()))
			}
			d.entry(key, value, path, rest)
		default:
			d.Fail(key, "unknown field %s in %s, %s", Quote(key.Value), named(path), Hint(key.Value, slices.Collect(maps.Keys(known))))
		}
	})
}

// field returns the field of the key.
func (d *Decoder) field(known map[string]reflect.Value, key string) (reflect.Value, bool) {
	if field, ok := known[key]; ok || !d.Legacy {
		return field, ok
	}
	for name, field := range known {
		if strings.EqualFold(name, key) {
			return field, true
		}
	}
	return reflect.Value{}, false
}

// collect finds the fields of a struct and of those inline in it by their names in YAML, and returns its inline map.
func (d *Decoder) collect(of reflect.Value, known map[string]reflect.Value) (rest reflect.Value) {
	tag := "yaml"
	if d.JSON {
		tag = "json"
	}
	for i := range of.NumField() {
		field := of.Type().Field(i)
		name, options, _ := strings.Cut(field.Tag.Get(tag), ",")
		inline := slices.Contains(strings.Split(options, ","), "inline")
		switch {
		case !field.IsExported() || name == "-":
		case inline && field.Type.Kind() == reflect.Map:
			rest = of.Field(i)
		case inline || d.JSON && name == "" && field.Anonymous:
			if inner := d.collect(of.Field(i), known); inner.IsValid() {
				rest = inner
			}
		case name == "":
			known[strings.ToLower(field.Name)] = of.Field(i)
		default:
			known[name] = of.Field(i)
		}
	}
	return rest
}

func (d *Decoder) unmarshalsItself(t reflect.Type) bool {
	known := unmarshalers
	if d.JSON {
		known = unmarshalersOfJSON
	}
	return slices.ContainsFunc(known, func(u reflect.Type) bool { return reflect.PointerTo(t).Implements(u) })
}

// delegate lets a type unmarshal itself. It would take unknown fields, so these are looked for before. Such types hold
// passwords, so no value in them is repeated.
func (d *Decoder) delegate(n *yaml.Node, path string, to reflect.Value) {
	d.depth++
	defer func() { d.depth-- }()
	if d.JSON {
		d.foreign(n, path, to)
		return
	}
	before := len(d.problems)
	if n.Kind == yaml.MappingNode && to.Kind() == reflect.Struct {
		d.fields(n, path, reflect.New(to.Type()).Elem())
	}
	if len(d.problems) == before {
		d.foreign(n, path, to)
	}
}

// foreign leaves a node to the YAML library or to a type that unmarshals itself, and notes what that says against it.
func (d *Decoder) foreign(n *yaml.Node, path string, to reflect.Value) {
	var types *yaml.TypeError
	var address *url.Error
	switch err := d.unmarshal(n, to.Addr().Interface()); {
	case err == nil:
	case errors.As(err, &types):
		for _, text := range types.Errors {
			d.foreignText(n, path, text, to.Kind())
		}
	case errors.As(err, &address): // It would repeat the whole URL, with any password.
		d.Fail(n, "%s is not a URL: %s", named(path), Clean(address.Err.Error(), maxMessage))
	default:
		d.Fail(n, "%s: %s", named(path), Clean(strings.TrimPrefix(err.Error(), "yaml: "), maxMessage))
	}
}

func (d *Decoder) unmarshal(n *yaml.Node, to any) error {
	if !d.JSON {
		return n.Decode(to)
	}
	var value any
	if err := n.Decode(&value); err != nil {
		return err
	}
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, to)
}

func (d *Decoder) foreignText(n *yaml.Node, path, text string, kind reflect.Kind) {
	at := n
	if m := foreignLine.FindStringSubmatch(text); m != nil {
		line, err := strconv.Atoi(m[1])
		if inner := onLine(n, line); err == nil && inner != nil {
			at = inner
		}
		text = m[2]
	}
	if m := foreignType.FindStringSubmatch(text); m != nil {
		d.wrongType(at, named(path), wanted(m[1], kind))
		return
	}
	text, _, _ = strings.Cut(text, " in type ")
	d.Fail(at, "%s: %s", named(path), Clean(text, maxMessage))
}

// onLine returns the node, or the last one in it, that begins on the line.
func onLine(n *yaml.Node, line int) *yaml.Node {
	if n.Line == line {
		return n
	}
	for _, inner := range slices.Backward(n.Content) {
		if at := onLine(inner, line); at != nil {
			return at
		}
	}
	return nil
}

// wanted says in words what a Go type wants, or else a kind.
func wanted(goType string, kind reflect.Kind) string {
	switch {
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	case goType == "bool":
		return "true or false"
	case strings.HasPrefix(goType, "int"), strings.HasPrefix(goType, "uint"):
		return "a whole number"
	case strings.HasPrefix(goType, "float"):
		return "a number"
	case goType == "string", kind == reflect.String:
		return "text"
	case strings.HasPrefix(goType, "map["), kind == reflect.Struct, kind == reflect.Map:
		return "a mapping"
	}
	return "something else"
}

// FailAt notes a problem of the value with a path such as pools[1].selector, at the place where it is or would be. What has been
// found wrong there already is not told again in other words.
func (d *Decoder) FailAt(path, format string, args ...any) {
	if d.root == nil {
		d.failAt(1, format, args...)
		return
	}
	n := d.root
	for _, key := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		if d.failed[n] {
			return
		}
		next := step(n, key)
		if next == nil {
			break
		}
		n = next
	}
	if !d.failed[n] {
		d.problems = append(d.problems, &Problem{d.Position(n), fmt.Sprintf(format, args...)})
	}
}

// step returns the value of a key or the item of an index, nil when there is none.
func step(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.SequenceNode {
		return Field(n, key)
	}
	if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(n.Content) {
		return n.Content[i]
	}
	return nil
}
