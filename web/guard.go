package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

// Caller is who asks, as far as it is proven.
type Caller struct {
	// User has given the right password.
	User string
	// Names are the common name and the alternative names of a verified client certificate.
	Names []string
	// Passwords says that there are users, so nobody may be trusted for their address.
	Passwords bool
}

type callerKey struct{}

// CallerOf returns who asks.
func CallerOf(ctx context.Context) Caller {
	caller, _ := ctx.Value(callerKey{}).(Caller) //nolint:errcheck // Without one it is nobody.
	return caller
}

// WithCaller returns a context of a request of that caller.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// refusal is why a request is not served.
type refusal struct {
	status       int
	reason, text string
}

func (f *Front) guard(next http.Handler, passwords bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := f.current.Load()
		for name, value := range now.headers {
			w.Header().Set(name, value)
		}
		if slices.Contains(f.open, r.URL.Path) && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			next.ServeHTTP(w, r)
			return
		}
		caller, refused := f.identify(now, r, passwords)
		if refused != nil {
			f.refuse(w, r, refused)
			return
		}
		next.ServeHTTP(w, r.WithContext(WithCaller(r.Context(), caller)))
	})
}

// identify returns who asks, or what the request lacks.
func (f *Front) identify(now *settings, r *http.Request, passwords bool) (Caller, *refusal) {
	caller := Caller{Passwords: len(now.users) > 0, Names: verifiedNames(r.TLS)}
	switch {
	case expired(r.TLS):
		// The client may have a new one by now. After 401 Alertmanager would drop its alerts instead of connecting anew.
		return caller, &refusal{http.StatusServiceUnavailable, reasonCertificate, "the client certificate of this connection has expired, connect anew"}
	case now.certified && !certified(r.TLS):
		return caller, &refusal{http.StatusUnauthorized, reasonCertificate, "a client certificate is required"}
	}
	if !caller.Passwords {
		return caller, nil
	}
	user, password, given := r.BasicAuth()
	if !given {
		if passwords {
			return caller, &refusal{http.StatusUnauthorized, reasonPassword, "a user name and a password are required"}
		}
		return caller, nil
	}
	right, err := f.passwords.right(r.Context(), now.users, user, password)
	switch {
	case err != nil:
		return caller, &refusal{http.StatusServiceUnavailable, reasonBusy, "the password cannot be checked now"}
	case !right:
		return caller, &refusal{http.StatusUnauthorized, reasonPassword, "the user name or the password is wrong"}
	}
	caller.User = user
	return caller, nil
}

// certified reports whether a certificate was shown.
func certified(state *tls.ConnectionState) bool {
	return state != nil && len(state.PeerCertificates) > 0
}

// expired reports whether the connection has outlived the verified certificate that it was opened with.
func expired(state *tls.ConnectionState) bool {
	return certified(state) && len(state.VerifiedChains) > 0 && time.Now().After(state.PeerCertificates[0].NotAfter)
}

// verifiedNames returns the names in a certificate that an authority of the configuration has signed.
func verifiedNames(state *tls.ConnectionState) []string {
	if !certified(state) || expired(state) || len(state.VerifiedChains) == 0 {
		return nil
	}
	return names(state.PeerCertificates[0])
}

func names(c *x509.Certificate) []string {
	var all []string
	if c.Subject.CommonName != "" {
		all = append(all, c.Subject.CommonName)
	}
	all = slices.Concat(all, c.DNSNames, c.EmailAddresses)
	for _, address := range c.IPAddresses {
		all = append(all, address.String())
	}
	for _, uri := range c.URIs {
		all = append(all, uri.String())
	}
	return all
}

func (f *Front) refuse(w http.ResponseWriter, r *http.Request, why *refusal) {
	f.refused.WithLabelValues(why.reason).Inc()
	f.logger.DebugContext(r.Context(), "request refused", "path", r.URL.Path, "remote", r.RemoteAddr, "reason", why.text)
	if why.reason == reasonPassword {
		w.Header().Set("WWW-Authenticate", `Basic realm="aegis"`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	// The rest of the body is not worth reading, and a certificate may have expired.
	w.Header().Set("Connection", "close")
	w.WriteHeader(why.status)
	body := struct {
		Error  string `json:"error"`
		Status int    `json:"status"`
	}{why.text, why.status}
	if err := json.NewEncoder(w).Encode(body); err != nil {
		f.logger.DebugContext(r.Context(), "answer not delivered", "path", r.URL.Path, "err", err)
	}
}
