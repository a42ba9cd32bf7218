package nodesim

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
)

// URL returns that of the control server, which serves the exporters, too.
func (s *Sim) URL() string { return "http://" + s.listener.Addr().String() }

func (s *Sim) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.serveFaults)
	mux.HandleFunc("GET /faults", s.serveFaults)
	mux.HandleFunc("GET /state", s.serveState)
	mux.HandleFunc("POST /inject", s.serveInject)
	mux.HandleFunc("POST /clear", s.serveClear)
	mux.HandleFunc("POST /power", s.servePower)
	mux.HandleFunc("GET /metrics/{job}", s.serveMetrics)
	return mux
}

func (s *Sim) serveFaults(w http.ResponseWriter, _ *http.Request) { s.reply(w, Faults()) }

func (s *Sim) serveState(w http.ResponseWriter, r *http.Request) {
	node := r.FormValue("node")
	if node == "" {
		s.reply(w, s.States())
		return
	}
	state, err := s.State(node)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	s.reply(w, state)
}

func (s *Sim) serveInject(w http.ResponseWriter, r *http.Request) {
	gpu, err := strconv.Atoi(cmp.Or(r.FormValue("gpu"), "0"))
	if err == nil {
		err = s.Inject(r.FormValue("node"), Injection{Fault: r.FormValue("fault"), GPU: gpu, FixedBy: FixedBy(r.FormValue("fixedBy"))})
	}
	s.done(w, err)
}

func (s *Sim) serveClear(w http.ResponseWriter, r *http.Request) {
	var faults []string
	if fault := r.FormValue("fault"); fault != "" {
		faults = []string{fault}
	}
	s.done(w, s.Clear(r.FormValue("node"), faults...))
}

func (s *Sim) servePower(w http.ResponseWriter, r *http.Request) {
	switch state := r.FormValue("state"); state {
	case PowerOn, PowerOff:
		s.done(w, s.Power(r.FormValue("node"), state == PowerOn))
	default:
		s.done(w, fmt.Errorf("state is %q: must be on or off", state))
	}
}

func (s *Sim) serveMetrics(w http.ResponseWriter, r *http.Request) {
	e, ok := s.scrape(r.PathValue("job"))
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	if err := e.writeTo(w); err != nil {
		s.log.Debug("metrics not sent", "err", err)
	}
}

func (s *Sim) done(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Sim) reply(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		s.log.Debug("answer not sent", "err", err)
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
