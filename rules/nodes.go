package rules

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"aegis.io/aegis/strict"
)

// Errors of NodeIndex.Lookup.
var (
	// ErrUnknownNode is returned when no node has the value.
	ErrUnknownNode = errors.New("no such node")
	// ErrAmbiguousNode is returned when several nodes have it.
	ErrAmbiguousNode = errors.New("several nodes fit")
)

// maxNodeValue is longer than any host name with a port.
const maxNodeValue = 512

// NodeInfo is what identifies a node.
type NodeInfo struct {
	// Name is the name of the Node object.
	Name string
	// Hostname is the value of the label kubernetes.io/hostname.
	Hostname string
	// Addresses are the addresses in the node's status, host names among them.
	Addresses []string
}

// NodeIndex finds nodes by what alerts call them. It is safe for concurrent use.
type NodeIndex struct {
	mu    sync.RWMutex
	keys  map[string][]string // By the name of a node, what it is called.
	byKey map[string][]string // By what nodes are called, their names.
}

// NewNodeIndex returns an index without nodes.
func NewNodeIndex() *NodeIndex {
	return &NodeIndex{keys: make(map[string][]string), byKey: make(map[string][]string)}
}

// Set adds a node, or replaces what is known of it.
func (i *NodeIndex) Set(n NodeInfo) {
	if nodeKey(n.Name) == "" {
		return
	}
	keys := nodeKeys(n)
	i.mu.Lock()
	defer i.mu.Unlock()
	if slices.Equal(keys, i.keys[n.Name]) {
		return
	}
	i.remove(n.Name)
	i.keys[n.Name] = keys
	for _, key := range keys {
		i.byKey[key] = append(i.byKey[key], n.Name)
	}
}

// Delete removes a node. One that is not there is no mistake.
func (i *NodeIndex) Delete(name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.remove(name)
}

// remove needs the lock.
func (i *NodeIndex) remove(name string) {
	for _, key := range i.keys[name] {
		rest := slices.DeleteFunc(i.byKey[key], func(other string) bool { return other == name })
		if len(rest) == 0 {
			delete(i.byKey, key)
			continue
		}
		i.byKey[key] = rest
	}
	delete(i.keys, name)
}

// Names returns what a node is called: its name first, then its host name and addresses, in the form in which they are compared.
func (i *NodeIndex) Names(name string) []string {
	i.mu.RLock()
	defer i.mu.RUnlock()
	names := []string{name}
	for _, key := range i.keys[name] {
		if key != name {
			names = append(names, key)
		}
	}
	return names
}

// Lookup returns the name of the one node that has the value as its name, host name or address, with or without a port.
// The error wraps ErrUnknownNode or ErrAmbiguousNode.
func (i *NodeIndex) Lookup(value string) (string, error) {
	if len(value) > maxNodeValue {
		return "", fmt.Errorf("%w: %s", ErrUnknownNode, strict.Quote(value))
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	names := i.byKey[nodeKey(value)]
	switch len(names) {
	case 0:
		return "", fmt.Errorf("%w: %s", ErrUnknownNode, strict.Quote(value))
	case 1:
		return names[0], nil
	default:
		return "", fmt.Errorf("%w: %s is %d nodes, %s and %s among them", ErrAmbiguousNode, strict.Quote(value), len(names), names[0],
			names[1])
	}
}

// nodeKeys returns what the node is called, without repetition.
func nodeKeys(n NodeInfo) []string {
	keys := []string{nodeKey(n.Name)}
	for _, value := range append([]string{n.Hostname}, n.Addresses...) {
		if key := nodeKey(value); key != "" && !everywhere(key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// everywhere reports whether the key names a different machine on every machine.
func everywhere(key string) bool {
	if addr, err := netip.ParseAddr(key); err == nil {
		return addr.IsLoopback() || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLinkLocalUnicast()
	}
	return key == "localhost" || strings.HasPrefix(key, "localhost.")
}

// nodeKey returns the form in which a name or an address, with or without a port, is compared: addresses have many
// spellings, and case means nothing in names of hosts.
func nodeKey(value string) string {
	host := value
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().String()
	}
	if h, port, err := net.SplitHostPort(host); err == nil && isPort(port) {
		host = h
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().String()
	}
	return strings.ToLower(host)
}

func isPort(s string) bool {
	return s != "" && len(s) <= 5 && !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}
