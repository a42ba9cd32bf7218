package chaos

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/e2e/aegis"
	"aegis.io/aegis/e2e/internal/proc"
)

const (
	probeTimeout   = time.Second
	forwardTimeout = 10 * time.Second
)

// service does what a Service of Kubernetes does: it sends requests to the replica that is ready.
type service struct {
	server *httptest.Server

	mu       sync.Mutex
	first    string
	replicas []*aegis.Aegis
	// refused counts the requests for which there was no ready replica, or that it refused itself.
	passed, refused int
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{}
	s.server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.server.Close)
	return s
}

// before puts the service between Alertmanager and the webhook of the first replica.
func (s *service) before(webhook string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first = webhook
	return s.server.URL
}

// forwardTo makes the replicas the endpoints.
func (s *service) forwardTo(replicas []*aegis.Aegis) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replicas = replicas
}

// ready returns the replica that is ready, nil when none is.
func (s *service) ready(ctx context.Context) *aegis.Aegis {
	s.mu.Lock()
	replicas := s.replicas
	s.mu.Unlock()
	for _, a := range replicas {
		probe, cancel := context.WithTimeout(ctx, probeTimeout)
		err := proc.OK(http.DefaultClient, a.Telemetry+"/-/ready")(probe)
		cancel()
		if err == nil {
			return a
		}
	}
	return nil
}

func (s *service) webhook(ctx context.Context) string {
	if a := s.ready(ctx); a != nil {
		return a.Webhook()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.replicas == nil {
		return s.first
	}
	return ""
}

func (s *service) serve(w http.ResponseWriter, r *http.Request) {
	code := http.StatusServiceUnavailable
	if target := s.webhook(r.Context()); target != "" {
		var err error
		if code, err = forward(r, target); err != nil {
			code = http.StatusServiceUnavailable
		}
	}
	s.mu.Lock()
	if code == http.StatusOK {
		s.passed++
	} else {
		s.refused++
	}
	s.mu.Unlock()
	w.WriteHeader(code)
}

func forward(r *http.Request, target string) (code int, err error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), forwardTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

func (s *service) counts() (passed, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.passed, s.refused
}

// guard watches that replicas end only when they are killed.
type guard struct {
	replicas []*aegis.Aegis

	mu sync.Mutex
	// wanted says which replicas are to run.
	wanted []bool
	// died counts those that ended by themselves.
	died int
	err  error
}

func watchReplicas(t *testing.T, replicas []*aegis.Aegis) *guard {
	t.Helper()
	g := &guard{replicas: replicas, wanted: make([]bool, len(replicas))}
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	for i := range replicas {
		g.wanted[i] = true
		watching.Go(func() {
			for pause(ctx, tick) == nil {
				g.look(i)
			}
		})
	}
	t.Cleanup(func() { cancel(); watching.Wait() })
	return g
}

func (g *guard) look(i int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.wanted[i] || g.replicas[i].Running() {
		return
	}
	g.died++
	g.err = errors.Join(g.err, g.replicas[i].Launch())
}

// kill ends the replica, which nobody is to wonder at until launch.
func (g *guard) kill(i int, end func(*aegis.Aegis) error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wanted[i] = false
	return end(g.replicas[i])
}

func (g *guard) launch(i int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wanted[i] = true
	if g.replicas[i].Running() {
		return nil
	}
	return g.replicas[i].Launch()
}

func (g *guard) result(t *testing.T) int {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	require.NoError(t, g.err)
	return g.died
}

// pause waits, and returns an error when the context ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
