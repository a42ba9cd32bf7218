package ticket

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// fault is what goes wrong with one request. Its zero value is nothing.
type fault struct {
	before func(n *corev1.Node)   // Happens to the node before the request does.
	status *apierrors.StatusError // The answer instead of the request's own.
	apply  bool                   // Whether a request with another answer still takes effect.
	drop   bool                   // The connection ends without an answer.
	after  func(n *corev1.Node)   // Happens to the node after the request took effect.
	header http.Header            // Of the answer.
}

// apiServer holds one Node and serves it as kube-apiserver does: a failed test of a JSON patch is 422, Invalid.
type apiServer struct {
	t *testing.T

	mu      sync.Mutex
	node    *corev1.Node // Nil when it is gone.
	gets    []fault      // Of the next requests, in order.
	patches []fault
	calls   []string // "GET" and "PATCH".
	bodies  []string // Of the patches.
}

func newAPIServer(t *testing.T, n *corev1.Node) (*apiServer, *Store) {
	t.Helper()
	s := &apiServer{t: t, node: n.DeepCopy()}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	client, err := corev1client.NewForConfig(&rest.Config{Host: server.URL, QPS: -1})
	require.NoError(t, err)
	return s, NewStore(StoreOptions{Client: client})
}

// ServeHTTP answers GET and PATCH of the node.
func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, r.Method)
	faults, serve := &s.gets, s.get
	if r.Method == http.MethodPatch {
		faults, serve = &s.patches, s.patch
	}
	var f fault
	if len(*faults) > 0 {
		f, *faults = (*faults)[0], (*faults)[1:]
	}
	s.serve(w, r, f, serve)
}

func (s *apiServer) serve(w http.ResponseWriter, r *http.Request, f fault, serve func(*http.Request) *apierrors.StatusError) {
	if f.before != nil {
		f.before(s.node)
	}
	status := f.status
	if own := f.status == nil && !f.drop; own || f.apply {
		if err := serve(r); own {
			status = err
		}
	}
	if f.after != nil {
		f.after(s.node)
	}
	for key, values := range f.header {
		w.Header()[key] = values
	}
	s.answer(w, f, status)
}

func (s *apiServer) answer(w http.ResponseWriter, f fault, status *apierrors.StatusError) {
	if f.drop {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	if status != nil {
		w.WriteHeader(int(status.ErrStatus.Code))
		if err := json.NewEncoder(w).Encode(status.ErrStatus); err != nil {
			s.t.Error(err)
		}
		return
	}
	n := s.node.DeepCopy()
	n.TypeMeta = metav1.TypeMeta{Kind: "Node", APIVersion: "v1"}
	if err := json.NewEncoder(w).Encode(n); err != nil {
		s.t.Error(err)
	}
}

func (s *apiServer) get(*http.Request) *apierrors.StatusError {
	if s.node == nil {
		return notFound()
	}
	return nil
}

func (s *apiServer) patch(r *http.Request) *apierrors.StatusError {
	if s.node == nil {
		return notFound()
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Header.Get("Content-Type") != "application/json-patch+json" || r.URL.Query().Get("fieldManager") != "aegis" {
		s.t.Errorf("patch of %q by %q: %v", r.Header.Get("Content-Type"), r.URL.Query().Get("fieldManager"), err)
	}
	s.bodies = append(s.bodies, string(body))
	patched, err := applyPatch(s.node, body)
	if err != nil {
		return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	s.node = patched
	touch(s.node)
	return nil
}

// applyPatch goes through the versioned JSON, as the API server does.
func applyPatch(n *corev1.Node, body []byte) (*corev1.Node, error) {
	doc, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(body)
	if err != nil {
		return nil, err
	}
	if doc, err = patch.Apply(doc); err != nil {
		return nil, err
	}
	patched := &corev1.Node{}
	return patched, json.Unmarshal(doc, patched)
}

// touch is what every write, also a kubelet's heartbeat, does to a node.
func touch(n *corev1.Node) {
	n.ResourceVersion += "1"
}

func notFound() *apierrors.StatusError {
	return apierrors.NewNotFound(corev1.Resource("nodes"), "dev1")
}

// state returns the node as it is now.
func (s *apiServer) state() *corev1.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node.DeepCopy()
}

// change lets somebody else change the node.
func (s *apiServer) change(f func(n *corev1.Node)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.node)
	touch(s.node)
}

// requests returns the calls so far.
func (s *apiServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}
