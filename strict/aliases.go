package strict

import "go.yaml.in/yaml/v3"

// maxNodes is how many nodes a file may have with its aliases written out.
const maxNodes = 100_000

// expander writes out the aliases and the merge keys of a file.
type expander struct {
	d     *Decoder
	sizes map[*yaml.Node]int
	open  map[*yaml.Node]bool
}

// expand replaces aliases by what they stand for, and reports whether the result is of a sane size.
func (d *Decoder) expand(root *yaml.Node) bool {
	e := &expander{d: d, sizes: make(map[*yaml.Node]int), open: make(map[*yaml.Node]bool)}
	if e.expand(root) < maxNodes {
		return true
	}
	d.Fail(root, "the YAML aliases of the file stand for too much")
	return false
}

// expand returns how many nodes the node stands for, maxNodes at most.
func (e *expander) expand(n *yaml.Node) int {
	if size, done := e.sizes[n]; done {
		return size
	}
	e.open[n] = true
	size := 1
	for i, inner := range n.Content {
		if inner.Kind == yaml.AliasNode {
			inner = e.target(inner)
			n.Content[i] = inner
		}
		size = min(size+e.expand(inner), maxNodes)
	}
	delete(e.open, n)
	if n.Kind == yaml.MappingNode {
		e.merge(n)
	}
	e.sizes[n] = size
	return size
}

func (e *expander) target(alias *yaml.Node) *yaml.Node {
	if !e.open[alias.Alias] {
		return alias.Alias
	}
	e.d.Fail(alias, "the YAML alias %s stands for itself", Quote(alias.Value))
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: alias.Line, Column: alias.Column}
}

// merge writes out the merge keys of a mapping. Its own keys go before merged ones, and earlier merged ones before later ones.
func (e *expander) merge(n *yaml.Node) {
	var own, merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		if key, value := n.Content[i], n.Content[i+1]; key.ShortTag() != "!!merge" {
			own = append(own, key, value)
		} else if value.Kind == yaml.SequenceNode {
			merged = append(merged, value.Content...)
		} else {
			merged = append(merged, value)
		}
	}
	n.Content = own
	for _, from := range merged {
		if from.Kind != yaml.MappingNode {
			e.d.wrongType(from, "what a YAML merge key stands for", "a mapping")
			continue
		}
		for i := 0; i+1 < len(from.Content); i += 2 {
			if Field(n, from.Content[i].Value) == nil {
				n.Content = append(n.Content, from.Content[i], from.Content[i+1])
			}
		}
	}
}
