package handler

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
)

// Nodes lists the nodes of the cluster, as the lister of an informer does.
type Nodes interface {
	List(selector labels.Selector) ([]*corev1.Node, error)
}

// Conditions tells what holds on the nodes.
type Conditions interface {
	// Statuses returns the conditions of a node, the most urgent first.
	Statuses(node string) []prom.AegisNodeStatus
	// NodesByCondition returns, by condition, the number of nodes on which it holds.
	NodesByCondition() map[string]int
}

// Verdicts keeps what was decided last.
type Verdicts interface {
	// Node returns the verdicts on the conditions of a node.
	Node(name string) []policy.Decision
}

// nodeList is the answer to the question for all nodes. An object can grow.
type nodeList struct {
	Nodes []NodeView `json:"nodes"`
}

func (h *Handler) serveNode(_ http.ResponseWriter, r *http.Request) (reply, error) {
	view, err := h.nodeInPath(r)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: h.explained(view)}, nil
}

func (h *Handler) serveExplain(_ http.ResponseWriter, r *http.Request) (reply, error) {
	view, err := h.nodeInPath(r)
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, body: plainText(append(explain(view, h.clock.Now()), explainSources(h.sources(), h.clock.Now())...))}, nil
}

// serveNodes answers the nodes on which there is something to tell.
func (h *Handler) serveNodes(http.ResponseWriter, *http.Request) (reply, error) {
	nodes, err := h.nodes.List(labels.Everything())
	if err != nil {
		return reply{}, fmt.Errorf("list nodes: %w", err)
	}
	list := nodeList{Nodes: []NodeView{}}
	for _, node := range nodes {
		view := h.viewOf(node)
		if len(view.Conditions) > 0 || view.Ticket != nil || view.TicketError != "" {
			list.Nodes = append(list.Nodes, h.explained(view))
		}
	}
	return reply{status: http.StatusOK, body: list}, nil
}

// nodeInPath returns the view of the node in the path.
func (h *Handler) nodeInPath(r *http.Request) (NodeView, error) {
	name, err := nameInPath(r, "node")
	if err != nil {
		return NodeView{}, err
	}
	return h.node(name)
}

// node returns the view of a node, with what Aegis itself wrote last even if the cache does not show it yet.
func (h *Handler) node(name string) (NodeView, error) {
	node, err := h.commander.Node(name)
	if apierrors.IsNotFound(err) {
		return NodeView{}, noNode(name)
	}
	if err != nil {
		return NodeView{}, fmt.Errorf("node %s: %w", name, err)
	}
	return h.viewOf(node), nil
}

func noNode(name string) error { return fmt.Errorf("%w: no Node is named %q", errNotFound, name) }

// explained returns the view with its explanation.
func (h *Handler) explained(v NodeView) NodeView {
	v.Explanation = mostTelling(v, h.clock.Now())
	return v
}

// nameInPath returns the name of something of the kind, which is a part of the path. The router has not decoded it where
// the path has a form of its own on the wire.
func nameInPath(r *http.Request, kind string) (string, error) {
	name, err := chi.URLParam(r, kind), error(nil)
	if r.URL.RawPath != "" {
		name, err = url.PathUnescape(name)
	}
	if err != nil || name == "" || len(name) > maxNameBytes {
		return "", problemf(http.StatusNotFound, "no %s can have such a name", kind)
	}
	return name, nil
}
