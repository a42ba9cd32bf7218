// Package web puts TLS, client certificates and passwords in front of a listener, as a web configuration file of Prometheus'
// exporter-toolkit says. It says who asks; the handler behind it decides what they may do.
package web

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Options holds what a Front needs.
type Options struct {
	// File is the web configuration. Empty means plain HTTP, and that nobody is asked who they are.
	File string
	// Open are the paths that need neither a certificate nor a password.
	Open []string
	// Registerer takes the metrics of this package.
	Registerer prometheus.Registerer
	// Logger takes what goes wrong on a connection. The default discards it.
	Logger *slog.Logger
}

// Front guards listeners. It is safe for concurrent use.
type Front struct {
	file      string
	open      []string
	logger    *slog.Logger
	refused   *prometheus.CounterVec
	current   atomic.Pointer[settings]
	passwords *passwords
}

// The reasons for which requests are refused.
const (
	reasonCertificate = "certificate"
	reasonPassword    = "password"
	reasonBusy        = "busy"
)

// New reads the web configuration. The error names everything that is wrong with it.
func New(o Options) (*Front, error) {
	f := &Front{
		file: o.File, open: o.Open, passwords: newPasswords(),
		logger: cmp.Or(o.Logger, slog.New(slog.DiscardHandler)).With("component", "web"),
		refused: promauto.With(o.Registerer).NewCounterVec(prometheus.CounterOpts{
			Name: "aegis_web_requests_refused_total",
			Help: "Requests refused before their path was looked at, by what they lack: a client certificate, a password, or time to check it (busy).",
		}, []string{"reason"}),
	}
	for _, reason := range []string{reasonCertificate, reasonPassword, reasonBusy} {
		f.refused.WithLabelValues(reason)
	}
	now, err := f.read()
	if err != nil {
		return nil, err
	}
	f.current.Store(now)
	return f, nil
}

func (f *Front) read() (*settings, error) {
	if f.file == "" {
		return &settings{}, nil
	}
	return load(f.file)
}

// Files are the files that Reload reads.
func (f *Front) Files() []string {
	if f.file == "" {
		return nil
	}
	return append([]string{f.file}, f.current.Load().files...)
}

// Reload takes changed files into use for new connections and requests. After an error the old ones stay in use.
func (f *Front) Reload() error {
	next, err := f.read()
	if err != nil {
		return err
	}
	if now := f.current.Load(); (now.tls == nil) != (next.tls == nil) || now.http2 != next.http2 {
		return fmt.Errorf("%s: TLS and HTTP/2 are turned on and off by a restart only", f.file)
	}
	f.current.Store(next)
	return nil
}

// Check reports users that the configuration does not have, and certificates that would never be verified: a role for one of
// them would never be anybody's.
func (f *Front) Check(users, certificates []string) error {
	now := f.current.Load()
	if f.file == "" && len(users)+len(certificates) > 0 {
		return errors.New("auth: users and certificates need a web configuration file")
	}
	var errs []error
	for _, user := range users {
		if _, known := now.users[user]; !known {
			errs = append(errs, fmt.Errorf("auth: the user %q is not in basic_auth_users of %s", user, f.file))
		}
	}
	if len(certificates) > 0 && !now.verifies() {
		errs = append(errs, fmt.Errorf("auth: certificates need client_auth_type VerifyClientCertIfGiven or RequireAndVerifyClientCert in %s", f.file))
	}
	return errors.Join(errs...)
}

// Serve serves the requests of a listener until the server is closed. With passwords, all but the open paths need one where the
// configuration has users; without, the handler decides.
func (f *Front) Serve(l net.Listener, s *http.Server, passwords bool) error {
	s.ErrorLog = slog.NewLogLogger(f.logger.Handler(), slog.LevelWarn)
	if f.file == "" {
		return s.Serve(l)
	}
	s.Handler = f.guard(s.Handler, passwords)
	now := f.current.Load()
	if now.tls == nil {
		return s.Serve(l)
	}
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(now.http2)
	s.TLSConfig = &tls.Config{
		MinVersion:         now.tls.MinVersion,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.current.Load().tls, nil },
	}
	return s.ServeTLS(l, "", "")
}
