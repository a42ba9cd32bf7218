package handler

import (
	"cmp"
	"context"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5/middleware"
)

// identityKey is the context key of the caller's identity.
type identityKey struct{}

// identityOf returns who sent the request, as guard found out.
func identityOf(ctx context.Context) string {
	if name, ok := ctx.Value(identityKey{}).(string); ok {
		return name
	}
	return ""
}

// guard puts around an endpoint what all of them need. The caller is known before a byte of the body is read.
func (h *Handler) guard(rt route) http.Handler {
	codes := append([]int{http.StatusInternalServerError}, rt.codes...)
	next := h.endpoint(rt.serve)
	if rt.limited {
		next = h.limit(next, cmp.Or(rt.most, h.maxInFlight))
	}
	if rt.role != "" {
		next = h.authorize(rt.role, next)
		codes = append(codes, http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable)
	}
	return h.instrument(rt.name, codes, h.recover(withTimeout(next)))
}

func (h *Handler) endpoint(serve endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		re, err := serve(w, r)
		h.answer(w, r, re, err)
	})
}

func (h *Handler) authorize(need Role, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, err := h.auth.authorize(r, need)
		if err != nil {
			h.answer(w, r, reply{}, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), identityKey{}, name)))
	})
}

// slotWait is how long a request waits for its turn. A notification takes milliseconds, so a burst of hundreds passes in that
// time, while a refused one comes again only after Alertmanager's back-off.
const slotWait = time.Second

// limit sheds load with 503, the only refusal that Alertmanager retries.
func (h *Handler) limit(next http.Handler, most int) http.Handler {
	slots := make(chan struct{}, most)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		timer := time.NewTimer(slotWait)
		defer timer.Stop()
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
			h.answer(w, r, reply{}, problemf(http.StatusServiceUnavailable, "the request ended before its turn"))
		case <-timer.C:
			h.answer(w, r, reply{}, problemf(http.StatusServiceUnavailable, "overloaded: %d requests are in flight", most))
		}
	})
}

// recover turns a panic into 500. An answer that had begun by then stays as it is.
func (h *Handler) recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			h.metrics.panics.Inc()
			h.logger.ErrorContext(r.Context(), "panic while serving a request", "path", r.URL.Path, "err", cause, "stack", string(debug.Stack()))
			if ww, ok := w.(middleware.WrapResponseWriter); !ok || ww.Status() == 0 {
				h.answer(w, r, reply{status: http.StatusInternalServerError, body: errorBody{
					Error: "internal error, the log has the details", Status: http.StatusInternalServerError,
				}}, nil)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// instrument counts, times and, at level debug, logs the requests of one handler.
func (h *Handler) instrument(name string, codes []int, next http.Handler) http.Handler {
	duration := h.metrics.duration.WithLabelValues(name)
	for _, code := range codes {
		h.metrics.requests.WithLabelValues(name, strconv.Itoa(code))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		start := h.clock.Now()
		next.ServeHTTP(ww, r)
		took := h.clock.Since(start)
		duration.Observe(took.Seconds())
		h.metrics.requests.WithLabelValues(name, strconv.Itoa(ww.Status())).Inc()
		h.logger.DebugContext(r.Context(), "request served", "handler", name, "method", r.Method, "path", r.URL.Path,
			"remote", r.RemoteAddr, "status", ww.Status(), "bytes", ww.BytesWritten(), "duration", took)
	})
}
