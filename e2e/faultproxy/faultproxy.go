// Package faultproxy stands between a client and a Kubernetes API server, and answers as badly as a network and an overloaded
// server do: it refuses, it is slow, and it loses answers to requests that were carried out.
package faultproxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	minDelay, maxDelay = 500 * time.Millisecond, 3 * time.Second
	defaultWatchLife   = time.Minute
	readHeaderTimeout  = 10 * time.Second
	retryAfter         = "1"
)

// Trouble is what the proxy does to a request.
type Trouble string

// The troubles. Passed is none.
const (
	Passed Trouble = "passed"
	// Refused is an answer 500, 503 or 429 to a request that the API server never saw.
	Refused Trouble = "refused"
	// Dropped is a request that was carried out and whose answer is lost.
	Dropped Trouble = "dropped"
	// Delayed is an answer that comes late.
	Delayed Trouble = "delayed"
	// Cut is the end of a watch.
	Cut Trouble = "cut"
	// Away counts the requests while the API server itself cannot be reached.
	Away Trouble = "away"
)

// Rates says how often each trouble is, from 0 to 1. A watch knows Cut alone, and nothing else does.
type Rates struct {
	Refused, Dropped, Delayed, Cut float64
}

// Options says what to stand before.
type Options struct {
	// Kubeconfig is the file with the API server and the credentials. The proxy trusts the authority that it names.
	Kubeconfig string
	// Dir takes the certificate of the proxy and the kubeconfig that leads through it.
	Dir string
	// Seed makes the choice of the troubles repeatable, as far as the requests are.
	Seed uint64
	// WatchLife is the longest life of a watch that is cut. The default is 1m.
	WatchLife time.Duration
	// Log takes the troubles. The default discards it.
	Log *slog.Logger
}

// Proxy is a running proxy. It does no harm until Misbehave is called.
type Proxy struct {
	// Kubeconfig is the file that leads through the proxy, with the same credentials.
	Kubeconfig string

	log     *slog.Logger
	life    time.Duration
	server  *http.Server
	forward *httputil.ReverseProxy
	serving sync.WaitGroup

	mu     sync.Mutex
	random *rand.Rand
	rates  Rates
	counts map[Trouble]int
}

// Start starts the proxy. Stop must be called.
func Start(o Options) (*Proxy, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.WatchLife = cmp.Or(o.WatchLife, defaultWatchLife)
	p, err := start(o)
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	return p, nil
}

func start(o Options) (*Proxy, error) {
	config, err := clientcmd.LoadFromFile(o.Kubeconfig)
	if err != nil {
		return nil, err
	}
	upstream, err := currentCluster(config)
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		Kubeconfig: filepath.Join(o.Dir, "proxy.kubeconfig"),
		log:        o.Log,
		life:       o.WatchLife,
		random:     rand.New(rand.NewPCG(o.Seed, o.Seed)),
		counts:     make(map[Trouble]int),
	}
	if p.forward, err = p.reverseProxy(upstream); err != nil {
		return nil, err
	}
	certificate, authority, err := selfSigned()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	upstream.Server, upstream.CertificateAuthority, upstream.CertificateAuthorityData = "https://"+listener.Addr().String(), "", authority
	if err := clientcmd.WriteToFile(*config, p.Kubeconfig); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	p.serve(listener, certificate)
	return p, nil
}

func currentCluster(config *clientcmdapi.Config) (*clientcmdapi.Cluster, error) {
	current := config.Contexts[config.CurrentContext]
	if current == nil || config.Clusters[current.Cluster] == nil {
		return nil, fmt.Errorf("no cluster for the current context %q", config.CurrentContext)
	}
	return config.Clusters[current.Cluster], nil
}

func (p *Proxy) reverseProxy(upstream *clientcmdapi.Cluster) (*httputil.ReverseProxy, error) {
	target, err := url.Parse(upstream.Server)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	authority := upstream.CertificateAuthorityData
	if upstream.CertificateAuthority != "" {
		if authority, err = os.ReadFile(upstream.CertificateAuthority); err != nil {
			return nil, err
		}
	}
	if !pool.AppendCertsFromPEM(authority) {
		return nil, errors.New("no certificate authority in the kubeconfig")
	}
	return &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true},
		FlushInterval: -1, // A watch is a stream of small answers.
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			// What a client sees of a server that is away is a broken connection, never a proxy's answer.
			p.count(Away)
			panic(http.ErrAbortHandler)
		},
	}, nil
}

func (p *Proxy) serve(listener net.Listener, certificate tls.Certificate) {
	p.server = &http.Server{
		Handler:           http.HandlerFunc(p.handle),
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}},
		ReadHeaderTimeout: readHeaderTimeout,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	p.serving.Go(func() {
		if err := p.server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			p.log.Error("proxy ended", "err", err)
		}
	})
}

// Misbehave sets how often requests go wrong from now on. The zero Rates end all trouble.
func (p *Proxy) Misbehave(r Rates) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rates = r
}

// Counts returns how many requests met which trouble so far.
func (p *Proxy) Counts() map[Trouble]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.counts)
}

func (p *Proxy) count(t Trouble) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[t]++
}

// Stop ends the proxy and all connections through it.
func (p *Proxy) Stop() error {
	err := p.server.Close()
	p.serving.Wait()
	if err != nil {
		return fmt.Errorf("stop proxy: %w", err)
	}
	return nil
}

func (p *Proxy) handle(w http.ResponseWriter, r *http.Request) {
	trouble, dice := p.choose(isWatch(r))
	p.count(trouble)
	if trouble != Passed {
		p.log.Debug("trouble", "kind", trouble, "method", r.Method, "path", r.URL.Path)
	}
	switch trouble {
	case Refused:
		refuse(w, dice)
	case Dropped:
		p.forward.ServeHTTP(newSink(), r)
		panic(http.ErrAbortHandler)
	case Delayed:
		if pause(r.Context(), between(minDelay, maxDelay, dice)) == nil {
			p.forward.ServeHTTP(w, r)
		}
	case Cut:
		ctx, cancel := context.WithTimeout(r.Context(), between(0, p.life, dice))
		defer cancel()
		p.forward.ServeHTTP(w, r.WithContext(ctx))
		panic(http.ErrAbortHandler)
	default:
		p.forward.ServeHTTP(w, r)
	}
}

// choose throws the dice for a request. The second number, from 0 to 1, is for the details.
func (p *Proxy) choose(watch bool) (Trouble, float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	throw, dice := p.random.Float64(), p.random.Float64()
	odds := []struct {
		trouble Trouble
		rate    float64
	}{{Refused, p.rates.Refused}, {Dropped, p.rates.Dropped}, {Delayed, p.rates.Delayed}}
	if watch {
		odds = odds[:0]
		if throw < p.rates.Cut {
			return Cut, dice
		}
	}
	for _, o := range odds {
		if throw < o.rate {
			return o.trouble, dice
		}
		throw -= o.rate
	}
	return Passed, dice
}

func isWatch(r *http.Request) bool {
	watch := r.URL.Query().Get("watch")
	return watch == "true" || watch == "1"
}

// refuse answers as an API server does that is broken, going down, or busy. Clients repeat an answer with Retry-After on
// their own, so half of the answers lack it.
func refuse(w http.ResponseWriter, dice float64) {
	answers := []struct {
		code   int
		reason string
	}{
		{http.StatusInternalServerError, "InternalError"},
		{http.StatusServiceUnavailable, "ServiceUnavailable"},
		{http.StatusTooManyRequests, "TooManyRequests"},
	}
	half := dice * 2 * float64(len(answers))
	answer := answers[int(half/2)%len(answers)]
	w.Header().Set("Content-Type", "application/json")
	if int(half)%2 == 0 {
		w.Header().Set("Retry-After", retryAfter)
	}
	w.WriteHeader(answer.code)
	// A client that has gone needs no answer.
	_, _ = fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"trouble","reason":%q,"code":%d}`,
		answer.reason, answer.code)
}

func between(least, most time.Duration, dice float64) time.Duration {
	return least + time.Duration(dice*float64(most-least))
}

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

// sink takes an answer that nobody gets.
type sink struct{ header http.Header }

func newSink() *sink { return &sink{header: make(http.Header)} }

func (s *sink) Header() http.Header { return s.header }

func (s *sink) Write(b []byte) (int, error) { return len(b), nil }

func (s *sink) WriteHeader(int) {}
