package soptest

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// Mishap is what goes wrong with one request. Its zero value is nothing.
type Mishap struct {
	Before func(n *corev1.Node)   // Happens to the node before the request does.
	Status *apierrors.StatusError // The answer instead of the request's own.
	Apply  bool                   // Whether a request with another answer still takes effect.
	Drop   bool                   // The connection ends without an answer.
	After  func(n *corev1.Node)   // Happens to the node after the request took effect.
	Header http.Header            // Of the answer.
}

// Server serves the nodes of a cluster over HTTP as kube-apiserver does, for code whose client is the real one.
type Server struct {
	t      testing.TB
	client *Client
	url    string

	mu      sync.Mutex
	gets    []Mishap
	patches []Mishap
	calls   []string
	bodies  []string
}

// Serve serves the cluster until the end of the test.
func (c *Cluster) Serve(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, client: c.NewClient()}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// Config returns how a client reaches the server.
func (s *Server) Config() *rest.Config { return &rest.Config{Host: s.url, QPS: -1} }

// Gets says what goes wrong with the next reads, in their order.
func (s *Server) Gets(mishaps ...Mishap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gets = mishaps
}

// Patches says what goes wrong with the next patches, in their order.
func (s *Server) Patches(mishaps ...Mishap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.patches = mishaps
}

// Requests returns the methods of the requests so far.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Bodies returns the patches that took effect so far.
func (s *Server) Bodies() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bodies)
}

// ServeHTTP answers GET and PATCH of a node.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	m := s.next(r.Method)
	s.amend(name, m.Before)
	status := m.Status
	if own := status == nil && !m.Drop; own || m.Apply {
		if err := s.carryOut(r, name); own {
			status = err
		}
	}
	s.amend(name, m.After)
	for key, values := range m.Header {
		w.Header()[key] = values
	}
	s.answer(w, name, m, status)
}

// next notes the request, and returns what goes wrong with it.
func (s *Server) next(method string) (m Mishap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, method)
	mishaps := &s.gets
	if method == http.MethodPatch {
		mishaps = &s.patches
	}
	if len(*mishaps) > 0 {
		m, *mishaps = (*mishaps)[0], (*mishaps)[1:]
	}
	return m
}

// amend lets something happen to the node.
func (s *Server) amend(name string, what func(*corev1.Node)) {
	if what == nil {
		return
	}
	s.client.cluster.Do(func() { s.client.cluster.Amend(name, what) })
}

// carryOut does what the request asks for.
func (s *Server) carryOut(r *http.Request, name string) *apierrors.StatusError {
	var err error
	switch r.Method {
	case http.MethodPatch:
		err = s.patch(r, name)
	default:
		s.client.cluster.Do(func() {
			if s.client.cluster.Nodes[name] == nil {
				err = apierrors.NewNotFound(corev1.Resource("nodes"), name)
			}
		})
	}
	if err == nil {
		return nil
	}
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		return &apierrors.StatusError{ErrStatus: status.Status()}
	}
	return apierrors.NewInternalError(err)
}

func (s *Server) patch(r *http.Request, name string) error {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.URL.Query().Get("fieldManager") != ManagerAegis {
		s.t.Errorf("patch by %q: %v", r.URL.Query().Get("fieldManager"), err)
	}
	s.client.cluster.Do(func() {
		_, err = s.client.patchNode(name, types.PatchType(r.Header.Get("Content-Type")), body, time.Now())
	})
	if err == nil || !apierrors.IsNotFound(err) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.bodies = append(s.bodies, string(body))
	}
	return err
}

// answer writes the status, or the node if there is none.
func (s *Server) answer(w http.ResponseWriter, name string, m Mishap, status *apierrors.StatusError) {
	if m.Drop {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	var object any
	if status != nil {
		object = status.ErrStatus
		w.WriteHeader(int(status.ErrStatus.Code))
	} else {
		s.client.cluster.Do(func() {
			node := s.client.cluster.Nodes[name].DeepCopy()
			node.TypeMeta = metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}
			object = node
		})
	}
	if err := json.NewEncoder(w).Encode(object); err != nil {
		s.t.Error(err)
	}
}
