package web

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"

	toolkit "github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/crypto/bcrypt"

	"aegis.io/aegis/strict"
)

const (
	fieldTLS        = "tls_server_config"
	fieldUsers      = "basic_auth_users"
	fieldRateLimit  = "rate_limit"
	fieldClientAuth = fieldTLS + ".client_auth_type"
)

// Keys are the sections that tell a web configuration from other files.
func Keys() []string { return []string{fieldTLS, "http_server_config", fieldUsers, fieldRateLimit} }

// settings is a web configuration as it was read.
type settings struct {
	users   map[string][]byte
	headers map[string]string
	// tls is nil where the configuration has none.
	tls   *tls.Config
	http2 bool
	// certified says that all but the open paths need a client certificate.
	certified bool
	files     []string
}

// verifies reports whether a client certificate proves anything.
func (s *settings) verifies() bool {
	return s.tls != nil && s.tls.ClientAuth == tls.VerifyClientCertIfGiven
}

// CheckFile says what is wrong with a web configuration and with the files that it names.
func CheckFile(file string) error {
	_, err := load(file)
	return err
}

func load(file string) (*settings, error) {
	raw, err := strict.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	d := strict.NewDecoder(file)
	d.Secret, d.Aliases = true, true
	c := toolkit.Config{
		TLSConfig:  toolkit.TLSConfig{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13},
		HTTPConfig: toolkit.HTTPConfig{HTTP2: true},
	}
	if root, ok := d.Document(raw, ""); ok {
		if strict.Field(root, fieldRateLimit) != nil {
			d.FailAt(fieldRateLimit, "rate_limit is not supported: it answers 429, after which Alertmanager drops its alerts; Aegis sheds load with 503, after which they come again")
		}
		d.Decode(root, &c)
	}
	check(d, &c)
	if err := d.Err(); err != nil {
		return nil, err
	}
	if err := toolkit.Validate(file); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	c.TLSConfig.SetDirectory(filepath.Dir(file))
	s, err := settingsOf(&c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// check finds what exporter-toolkit lets pass, or reports without a place.
func check(d *strict.Decoder, c *toolkit.Config) {
	for name, hash := range c.Users {
		if _, err := bcrypt.Cost([]byte(hash)); err != nil {
			d.FailAt(fieldUsers+"."+name, "the password of the user %s is not a bcrypt hash, such as htpasswd -nBC 10 \"\" makes", strict.Quote(name))
		}
	}
	t := c.TLSConfig
	switch t.ClientAuth {
	case "VerifyClientCertIfGiven", "RequireAndVerifyClientCert":
		if t.ClientCAs == "" && t.ClientCAsText == "" {
			d.FailAt(fieldClientAuth, "client_auth_type %s needs client_ca_file, or every public authority would be trusted", t.ClientAuth)
		}
	case "", "NoClientCert", "RequestClientCert", "RequireAnyClientCert", "RequireClientCert":
	default:
		d.FailAt(fieldClientAuth, "unknown client_auth_type %s, %s", strict.Quote(t.ClientAuth), strict.Hint(t.ClientAuth, []string{
			"NoClientCert", "RequestClientCert", "RequireAnyClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert",
		}))
	}
}

func settingsOf(c *toolkit.Config) (*settings, error) {
	s := &settings{headers: c.HTTPConfig.Header, http2: c.HTTPConfig.HTTP2, users: make(map[string][]byte)}
	for name, hash := range c.Users {
		s.users[name] = []byte(hash)
	}
	t := &c.TLSConfig
	if !t.IsEnabled() {
		return s, nil
	}
	for _, file := range []string{t.TLSCertPath, t.TLSKeyPath, t.ClientCAs} {
		if file != "" {
			s.files = append(s.files, file)
		}
	}
	config, err := toolkit.ConfigToTLSConfig(t)
	if err != nil {
		return nil, err
	}
	if err := checkAuthorities(t); err != nil {
		return nil, err
	}
	// The library would read the files for each connection, and refuse all of them while one of the files is half written.
	certificate, err := config.GetCertificate(nil)
	if err != nil {
		return nil, err
	}
	config.GetCertificate, config.Certificates = nil, []tls.Certificate{*certificate}
	s.harden(config)
	s.tls = config
	return s, nil
}

// checkAuthorities refuses a file of authorities without any: nobody's certificate would be taken.
func checkAuthorities(t *toolkit.TLSConfig) error {
	if t.ClientCAs == "" {
		return nil
	}
	text, err := os.ReadFile(t.ClientCAs)
	if err != nil {
		return err
	}
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return fmt.Errorf("client_ca_file %s holds no certificate", t.ClientCAs)
	}
	return nil
}

// harden moves the demand for a certificate behind the handshake, where probes are let through without one. A certificate that
// is shown is verified by the handshake as before, and on every connection anew.
func (s *settings) harden(config *tls.Config) {
	config.SessionTicketsDisabled = true
	config.NextProtos = []string{"http/1.1"}
	if s.http2 {
		config.NextProtos = []string{"h2", "http/1.1"}
	}
	switch config.ClientAuth {
	case tls.RequireAndVerifyClientCert:
		s.certified, config.ClientAuth = true, tls.VerifyClientCertIfGiven
	case tls.RequireAnyClientCert:
		s.certified, config.ClientAuth = true, tls.RequestClientCert
	}
	if allowed := config.VerifyPeerCertificate; allowed != nil {
		config.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) error {
			if len(raw) == 0 {
				return nil
			}
			return allowed(raw, chains)
		}
	}
}
