package source

import (
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/config"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return authority{certificate: certificate, key: key}
}

// pem returns the authority as a file of CAs holds it.
func (a authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}))
}

// sign returns a certificate for 127.0.0.1 and its key, which end after the time.
func (a authority) sign(t *testing.T, name string, after time.Duration) (certificate, key string) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(after),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &own.PublicKey, a.key)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(own)
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

// serveTLS starts a server with the certificate, which asks clients for theirs if there is an authority for those.
func serveTLS(t *testing.T, certificate, key string, clients *authority, handler http.Handler) *httptest.Server {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	if clients != nil {
		server.TLS.ClientCAs = x509.NewCertPool()
		server.TLS.ClientCAs.AddCert(clients.certificate)
		server.TLS.ClientAuth = tls.RequireAndVerifyClientCert
	}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // Refused handshakes are what is tested.
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// write writes a file of a folder of the test and returns its path.
func write(t *testing.T, file, content string) string {
	t.Helper()
	require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
	return file
}

// parse reads a configuration as people write it, with files in the folder.
func parse(t *testing.T, dir, text string) *HTTPConfig {
	t.Helper()
	c := &HTTPConfig{}
	require.NoError(t, yaml.Unmarshal([]byte(text), c))
	c.SetDirectory(dir)
	require.NoError(t, c.Validate())
	return c
}

func TestClientSaysWhyTLSFails(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	valid, validKey := ours.sign(t, "prometheus", time.Hour)
	expired, expiredKey := ours.sign(t, "prometheus", -time.Hour)
	tests := map[string]struct {
		certificate, key, ca, config string
		want                         string
	}{
		"the right CA":           {valid, validKey, ours.pem(), "{tls_config: {ca_file: ca.crt}}", ""},
		"without verification":   {expired, expiredKey, "", "{tls_config: {insecure_skip_verify: true}}", ""},
		"a CA of somebody else":  {valid, validKey, theirs.pem(), "{tls_config: {ca_file: ca.crt}}", "tls: failed to verify certificate: x509: certificate signed by unknown authority"},
		"no CA":                  {valid, validKey, "", "{}", "tls: failed to verify certificate: x509: certificate signed by unknown authority"},
		"an expired certificate": {expired, expiredKey, ours.pem(), "{tls_config: {ca_file: ca.crt}}", "tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time"},
		"another server's name":  {valid, validKey, ours.pem(), "{tls_config: {ca_file: ca.crt, server_name: other}}", "x509: certificate is not valid for any names, but wanted to match other"},
		"a CA that is none":      {valid, validKey, "not a certificate", "{tls_config: {ca_file: ca.crt}}", "unable to use specified CA cert file"},
		"a CA that is missing":   {valid, validKey, "", "{tls_config: {ca_file: ca.crt}}", "unable to read CA cert: unable to read file"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := serveTLS(t, tt.certificate, tt.key, nil, reply("[]"))
			dir := t.TempDir()
			if tt.ca != "" {
				write(t, filepath.Join(dir, "ca.crt"), tt.ca)
			}
			c := newTestClient(t, server.URL, parse(t, dir, tt.config))
			body, err := c.get(t.Context(), "x", nil)
			if tt.want == "" {
				require.NoError(t, err)
				require.Equal(t, "[]", string(body))
				return
			}
			require.ErrorContains(t, err, tt.want)
			require.ErrorContains(t, err, server.URL)
		})
	}
}

// TestClientFollowsItsFiles rotates everything that a client reads from files.
func TestClientFollowsItsFiles(t *testing.T) {
	t.Parallel()
	old, fresh := newAuthority(t, "old"), newAuthority(t, "fresh")
	clients := newAuthority(t, "clients")
	certificate, key := fresh.sign(t, "prometheus", time.Hour)
	server := serveTLS(t, certificate, key, &clients, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, ok := r.BasicAuth()
		if !ok || user != "aegis" || password != "right" {
			http.Error(w, password, http.StatusUnauthorized)
			return
		}
		reply(r.TLS.PeerCertificates[0].Subject.CommonName+" of "+r.Header.Get("X-Scope-OrgID"))(w, r)
	}))
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	c := newTestClient(t, server.URL, parse(t, dir, `
tls_config: {ca_file: ca.crt, cert_file: tls.crt, key_file: tls.key}
basic_auth: {username: aegis, password_file: password}
http_headers: {X-Scope-OrgID: {files: [tenant]}}
`))
	step := func(want string) {
		t.Helper()
		_, err := c.get(t.Context(), "x", nil)
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), secret)
	}
	step("unable to read CA cert")
	write(t, file("ca.crt"), old.pem())
	step("unable to read specified client cert")
	outdated, outdatedKey := clients.sign(t, "aegis-old", -time.Hour)
	write(t, file("tls.crt"), outdated)
	write(t, file("tls.key"), outdatedKey)
	write(t, file("password"), secret)
	step("unable to read headers file")
	write(t, file("tenant"), "team-a\n")
	step("x509: certificate signed by unknown authority")
	write(t, file("ca.crt"), fresh.pem())
	step("tls: ") // It is the server who refuses, in words of its own.
	renewed, renewedKey := clients.sign(t, "aegis", time.Hour)
	write(t, file("tls.crt"), renewed)
	write(t, file("tls.key"), renewedKey)
	step("answers with status 401: it does not accept the credentials")
	write(t, file("password"), "right\n")
	for _, tenant := range []string{"team-a", "team-b"} {
		write(t, file("tenant"), tenant)
		body, err := c.get(t.Context(), "x", nil)
		require.NoError(t, err)
		require.Equal(t, "aegis of "+tenant, string(body))
	}
}

func TestClientWaysToAuthenticate(t *testing.T) {
	t.Parallel()
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, password, _ := r.BasicAuth()
		w.Header().Set("Content-Type", "application/json")
		reply(fmt.Sprintf(`{"access_token": %q, "token_type": "Bearer", "expires_in": 3600}`, id+password))(w, r)
	}))
	t.Cleanup(tokens.Close)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "secret"), "hush\n")
	tests := map[string]struct{ config, want string }{
		"nothing":          {"{}", ""},
		"authorization":    {"{authorization: {credentials_file: secret}}", "Bearer hush"},
		"another scheme":   {"{authorization: {type: Token, credentials_file: secret}}", "Token hush"},
		"the older form":   {"{bearer_token_file: secret}", "Bearer hush"},
		"basic_auth":       {"{basic_auth: {username: u, password_file: secret}}", "Basic dTpodXNo"},
		"user from a file": {"{basic_auth: {username_file: secret, password_file: secret}}", "Basic aHVzaDpodXNo"},
		"oauth2":           {"{oauth2: {client_id: aegis-, client_secret_file: secret, token_url: " + tokens.URL + "}}", "Bearer aegis-hush"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, parse(t, dir, tt.config), func(w http.ResponseWriter, r *http.Request) { reply(r.Header.Get("Authorization"))(w, r) })
			body, err := c.get(t.Context(), "x", nil)
			require.NoError(t, err)
			require.Equal(t, tt.want, string(body))
		})
	}
}

func TestClientGoesThroughAProxy(t *testing.T) {
	t.Parallel()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { reply("by proxy to "+r.URL.Host)(w, r) }))
	t.Cleanup(proxy.Close)
	c := newTestClient(t, "http://prometheus.example", parse(t, "", "{proxy_url: "+proxy.URL+"}"))
	body, err := c.get(t.Context(), "x", nil)
	require.NoError(t, err)
	require.Equal(t, "by proxy to prometheus.example", string(body))
}

func TestClientFollowsRedirectsOnlyIfAsked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "secret"), secret)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reply("elsewhere"+r.Header.Get("Authorization"))(w, r)
	}))
	t.Cleanup(other.Close)
	elsewhere := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	redirect := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere, http.StatusTemporaryRedirect)
	}

	c := serve(t, parse(t, dir, "{authorization: {credentials_file: secret}, follow_redirects: true}"), redirect)
	body, err := c.get(t.Context(), "x", nil)
	require.NoError(t, err)
	require.Equal(t, "elsewhere", string(body), "the token stays here")

	for _, config := range []string{"{}", "{authorization: {credentials_file: secret}}", "{follow_redirects: false}"} {
		c := serve(t, parse(t, dir, config), redirect)
		_, err := c.get(t.Context(), "x", nil)
		require.ErrorContains(t, err, "answers with status 307: redirects are followed only with follow_redirects")
	}
}

func TestClientTakesCompressedAnswers(t *testing.T) {
	t.Parallel()
	c := serve(t, nil, func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			http.Error(w, "it does not ask for gzip", http.StatusNotAcceptable)
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		if _, err := io.WriteString(z, "[1]"); err != nil {
			t.Error(err)
		}
		if err := z.Close(); err != nil {
			t.Error(err)
		}
	})
	body, err := c.get(t.Context(), "x", nil)
	require.NoError(t, err)
	require.Equal(t, "[1]", string(body))

	broken := serve(t, nil, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		reply("[1]")(w, r)
	})
	_, err = broken.get(t.Context(), "x", nil)
	require.ErrorContains(t, err, "read the answer of")
}

func TestHTTPConfigRefusesSecrets(t *testing.T) {
	t.Parallel()
	const file = " must not be written here: put it into a file of its own and name that in "
	const manager = " needs a secret manager, which Aegis does not have: use "
	const instead = ": set proxy_from_environment, and HTTPS_PROXY from a Secret"
	tests := map[string]struct{ config, want string }{
		"bearer_token":                     {"{bearer_token: x}", "bearer_token" + file + "bearer_token_file"},
		"password":                         {"{basic_auth: {username: u, password: x}}", "basic_auth.password" + file + "password_file"},
		"password_ref":                     {"{basic_auth: {username: u, password_ref: x}}", "basic_auth.password_ref" + manager + "password_file"},
		"username_ref":                     {"{basic_auth: {username_ref: u}}", "basic_auth.username_ref" + manager + "username_file"},
		"credentials":                      {"{authorization: {credentials: x}}", "authorization.credentials" + file + "credentials_file"},
		"credentials_ref":                  {"{authorization: {credentials_ref: x}}", "authorization.credentials_ref" + manager + "credentials_file"},
		"client_secret":                    {"{oauth2: {client_id: i, token_url: u, client_secret: x}}", "oauth2.client_secret" + file + "client_secret_file"},
		"client_secret_ref":                {"{oauth2: {client_id: i, token_url: u, client_secret_ref: x}}", "oauth2.client_secret_ref" + manager + "client_secret_file"},
		"client_certificate_key":           {"{oauth2: {client_id: i, token_url: u, client_certificate_key: x}}", "oauth2.client_certificate_key" + file + "client_certificate_key_file"},
		"client_certificate_key_ref":       {"{oauth2: {client_id: i, token_url: u, client_certificate_key_ref: x}}", "oauth2.client_certificate_key_ref" + manager + "client_certificate_key_file"},
		"the key of the token server":      {"{oauth2: {client_id: i, token_url: u, tls_config: {key: x, cert_file: c}}}", "oauth2.tls_config.key" + file + "key_file"},
		"the proxy of the token server":    {"{oauth2: {client_id: i, token_url: u, proxy_url: 'http://u:x@h'}}", "oauth2.proxy_url must not hold a password" + instead},
		"key":                              {"{tls_config: {key: x, cert_file: c}}", "tls_config.key" + file + "key_file"},
		"key_ref":                          {"{tls_config: {key_ref: x, cert_file: c}}", "tls_config.key_ref" + manager + "key_file"},
		"cert_ref":                         {"{tls_config: {key_file: x, cert_ref: c}}", "tls_config.cert_ref" + manager + "cert_file"},
		"ca_ref":                           {"{tls_config: {ca_ref: x}}", "tls_config.ca_ref" + manager + "ca_file"},
		"proxy_url":                        {"{proxy_url: 'http://u:x@h'}", "proxy_url must not hold a password" + instead},
		"proxy_connect_header":             {"{proxy_url: 'http://h', proxy_connect_header: {A: [x]}}", "proxy_connect_header is for secrets, and cannot name files" + instead},
		"headers":                          {"{http_headers: {A: {values: [v]}, B: {secrets: [x]}}}", "http_headers.B.secrets[0]" + file + "files"},
		"several":                          {"{bearer_token: x, tls_config: {key: x, cert_file: c}}", "bearer_token" + file + "bearer_token_file\ntls_config.key" + file + "key_file"},
		"two ways":                         {"{basic_auth: {username: u}, authorization: {credentials_file: f}}", "the HTTP configuration is refused: at most one of basic_auth, oauth2 & authorization must be configured"},
		"a header that is ours":            {"{http_headers: {Authorization: {files: [f]}}}", `the HTTP configuration is refused: setting header "Authorization" is not allowed`},
		"nothing is wrong with any of all": {"{http_headers: {A: {values: [v], files: [f]}}, tls_config: {ca: x}, proxy_url: 'http://u@h', oauth2: {client_id: i, token_url: u, client_secret_file: f}}", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &HTTPConfig{}
			require.NoError(t, yaml.Unmarshal([]byte(tt.config), c))
			err := c.Validate()
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, tt.want)
		})
	}
}

func TestHTTPConfigPathsAreRelativeToTheFile(t *testing.T) {
	t.Parallel()
	c := parse(t, "/etc/aegis", `
tls_config: {ca_file: a, cert_file: b, key_file: c}
http_headers: {H: {files: [e, /f]}}
oauth2: {client_id: i, token_url: u, client_secret_file: g, client_certificate_key_file: h, tls_config: {ca_file: /i}}
`)
	require.Equal(t, config.TLSConfig{CAFile: "/etc/aegis/a", CertFile: "/etc/aegis/b", KeyFile: "/etc/aegis/c"}, c.TLSConfig)
	require.Equal(t, []string{"/etc/aegis/e", "/f"}, c.HTTPHeaders.Headers["H"].Files)
	require.Equal(t, []string{"/etc/aegis/g", "/etc/aegis/h", "/i"}, []string{c.OAuth2.ClientSecretFile, c.OAuth2.ClientCertificateKeyFile, c.OAuth2.TLSConfig.CAFile})
	require.False(t, c.FollowRedirects)
	require.True(t, c.EnableHTTP2)
}
