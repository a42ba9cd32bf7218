package handler

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/ticket"
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

const (
	// maxNodesListed is how many nodes one answer lists, maxNodeLists how many such answers are made at once. Tickets and histories have
	// to be read for each node.
	maxNodesListed = 500
	maxNodeLists   = 4
)

// The parameters of the list of nodes.
const (
	paramLimit    = "limit"
	paramContinue = "continue"
)

// nodeList is a page of the answer to the question for all nodes, by name. An object can grow.
type nodeList struct {
	Nodes []NodeView `json:"nodes"`
	// Continue asks for the next page. Empty when there is none.
	Continue string `json:"continue,omitempty"`
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

// serveNodes answers a page of the nodes on which there is something to tell.
func (h *Handler) serveNodes(_ http.ResponseWriter, r *http.Request) (reply, error) {
	limit, after, err := pageOf(r)
	if err != nil {
		return reply{}, err
	}
	nodes, err := h.nodes.List(labels.Everything())
	if err != nil {
		return reply{}, fmt.Errorf("list nodes: %w", err)
	}
	nodes = slices.DeleteFunc(slices.Clone(nodes), func(n *corev1.Node) bool { return n.Name <= after || !h.telling(n) })
	slices.SortFunc(nodes, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	list := nodeList{Nodes: []NodeView{}}
	for _, node := range nodes {
		if len(list.Nodes) == limit {
			list.Continue = list.Nodes[limit-1].Name
			break
		}
		if r.Context().Err() != nil {
			return reply{}, problemf(http.StatusServiceUnavailable, "no answer in time: %d of %d nodes are read, ask for fewer with %s",
				len(list.Nodes), min(limit, len(nodes)), paramLimit)
		}
		view := h.viewOf(node)
		if len(view.Conditions) > 0 || view.Ticket != nil || view.TicketError != "" {
			list.Nodes = append(list.Nodes, h.explained(view))
		}
	}
	return reply{status: http.StatusOK, body: list}, nil
}

// telling reports whether there may be something to tell of the node, without reading its ticket.
func (h *Handler) telling(n *corev1.Node) bool {
	return n.Annotations[ticket.Annotation] != "" || len(h.conditions.Statuses(n.Name)) > 0 || len(h.verdicts.Node(n.Name)) > 0
}

// pageOf returns how many nodes are asked for, and after which name.
func pageOf(r *http.Request) (limit int, after string, err error) {
	query := r.URL.Query()
	limit, after = maxNodesListed, query.Get(paramContinue)
	if text := query.Get(paramLimit); text != "" {
		limit, err = strconv.Atoi(text)
	}
	if err != nil || limit < 1 || limit > maxNodesListed {
		return 0, "", problemf(http.StatusBadRequest, "%s is %.20q, want a number from 1 to %d", paramLimit, query.Get(paramLimit), maxNodesListed)
	}
	if len(after) > maxNameBytes {
		return 0, "", problemf(http.StatusBadRequest, "%s is %d bytes long, want what the answer before has there", paramContinue, len(after))
	}
	return limit, after, nil
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
