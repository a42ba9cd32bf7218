package source

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"

	"github.com/prometheus/common/config"
)

// HTTPConfig says how a server is reached: the <http_config> of Prometheus. Unlike there, redirects are followed only when it says
// so, and secrets are read from files alone. Whatever it reads from files it reads again when they change.
type HTTPConfig config.HTTPClientConfig

// DefaultHTTPConfig returns the configuration without any credentials. Proxies are those of the environment.
func DefaultHTTPConfig() HTTPConfig {
	return HTTPConfig{EnableHTTP2: true, ProxyConfig: config.ProxyConfig{ProxyFromEnvironment: true}}
}

// UnmarshalYAML reads the configuration over Prometheus' defaults, except for redirects.
func (c *HTTPConfig) UnmarshalYAML(unmarshal func(any) error) error {
	type plain HTTPConfig
	*c = HTTPConfig{EnableHTTP2: true}
	return unmarshal((*plain)(c))
}

// SetDirectory makes relative paths relative to the folder.
func (c *HTTPConfig) SetDirectory(dir string) {
	(*config.HTTPClientConfig)(c).SetDirectory(dir)
	if c.OAuth2 != nil {
		c.OAuth2.ClientCertificateKeyFile = config.JoinDir(dir, c.OAuth2.ClientCertificateKeyFile)
	}
}

// Authenticates reports whether the configuration has credentials for an HTTP header.
func (c HTTPConfig) Authenticates() bool {
	return c.BasicAuth != nil || c.Authorization != nil || c.OAuth2 != nil || c.BearerToken != "" || c.BearerTokenFile != ""
}

// WithTokenFile returns the configuration with the bearer token that the file holds.
func (c HTTPConfig) WithTokenFile(file string) HTTPConfig {
	c.Authorization = &config.Authorization{Type: "Bearer", CredentialsFile: file}
	return c
}

// FieldError says what is wrong with a field of an HTTPConfig.
type FieldError struct {
	// Field is its path, such as basic_auth.password. Empty means the whole configuration.
	Field string
	// Text continues a sentence that begins with the field.
	Text string
}

// Error returns the field and the text.
func (e *FieldError) Error() string {
	if e.Field == "" {
		return "the HTTP configuration " + e.Text
	}
	return e.Field + " " + e.Text
}

// Validate returns everything that is wrong with the configuration, each a FieldError. It reads no file.
func (c *HTTPConfig) Validate() error {
	var p fieldErrors
	p.credentials(c)
	p.tls("tls_config", c.TLSConfig)
	p.proxy("", c.ProxyConfig)
	if c.HTTPHeaders != nil {
		for _, name := range slices.Sorted(maps.Keys(c.HTTPHeaders.Headers)) {
			for i, value := range c.HTTPHeaders.Headers[name].Secrets {
				p.secret(fmt.Sprintf("http_headers.%s.secrets[%d]", name, i), value, "files")
			}
		}
	}
	if err := (*config.HTTPClientConfig)(c).Validate(); err != nil && len(p) == 0 {
		p.add("", "is refused: %v", err)
	}
	return errors.Join(p...)
}

// fieldErrors collects what is wrong.
type fieldErrors []error

func (p *fieldErrors) add(field, format string, args ...any) {
	*p = append(*p, &FieldError{Field: field, Text: fmt.Sprintf(format, args...)})
}

// credentials refuses what has no place in a configuration that many can read.
func (p *fieldErrors) credentials(c *HTTPConfig) {
	p.secret("bearer_token", c.BearerToken, "bearer_token_file")
	if a := c.BasicAuth; a != nil {
		p.secret("basic_auth.password", a.Password, "password_file")
		p.reference("basic_auth.password_ref", a.PasswordRef, "password_file")
		p.reference("basic_auth.username_ref", a.UsernameRef, "username_file")
	}
	if a := c.Authorization; a != nil {
		p.secret("authorization.credentials", a.Credentials, "credentials_file")
		p.reference("authorization.credentials_ref", a.CredentialsRef, "credentials_file")
	}
	if o := c.OAuth2; o != nil {
		p.secret("oauth2.client_secret", o.ClientSecret, "client_secret_file")
		p.reference("oauth2.client_secret_ref", o.ClientSecretRef, "client_secret_file")
		p.secret("oauth2.client_certificate_key", o.ClientCertificateKey, "client_certificate_key_file")
		p.reference("oauth2.client_certificate_key_ref", o.ClientCertificateKeyRef, "client_certificate_key_file")
		p.tls("oauth2.tls_config", o.TLSConfig)
		p.proxy("oauth2.", o.ProxyConfig)
	}
}

func (p *fieldErrors) tls(field string, c config.TLSConfig) {
	p.secret(field+".key", c.Key, "key_file")
	p.reference(field+".key_ref", c.KeyRef, "key_file")
	p.reference(field+".cert_ref", c.CertRef, "cert_file")
	p.reference(field+".ca_ref", c.CARef, "ca_file")
	if err := c.Validate(); err != nil && len(*p) == 0 {
		p.add(field, "is refused: %v", err)
	}
}

// proxy refuses the credentials of a proxy, for which there is no field that names a file.
func (p *fieldErrors) proxy(prefix string, c config.ProxyConfig) {
	const instead = "set proxy_from_environment, and HTTPS_PROXY from a Secret"
	if u := c.ProxyURL.URL; u != nil && hasPassword(u) {
		p.add(prefix+"proxy_url", "must not hold a password: %s", instead)
	}
	if len(c.ProxyConnectHeader) > 0 {
		p.add(prefix+"proxy_connect_header", "is for secrets, and cannot name files: %s", instead)
	}
}

func hasPassword(u *url.URL) bool {
	_, has := u.User.Password()
	return has
}

// secret refuses a secret itself.
func (p *fieldErrors) secret(field string, value config.Secret, instead string) {
	if value != "" {
		p.add(field, "must not be written here: put it into a file of its own and name that in %s", instead)
	}
}

// reference refuses the name of a secret at a secret manager.
func (p *fieldErrors) reference(field, value, instead string) {
	if value != "" {
		p.add(field, "needs a secret manager, which Aegis does not have: use %s", instead)
	}
}
