package web

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// authority issues certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a certificate that ends at the time, and its key, in PEM.
func (a *authority) issue(t *testing.T, name string, end time.Time, alternatives ...string) (certificate, key []byte) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	require.NoError(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: end,
		DNSNames: alternatives, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.certificate, own.Public(), a.key)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(own)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// client returns a certificate for a client.
func (a *authority) client(t *testing.T, name string, end time.Time, alternatives ...string) tls.Certificate {
	t.Helper()
	pair, err := tls.X509KeyPair(a.issue(t, name, end, alternatives...))
	require.NoError(t, err)
	return pair
}

// site is a directory of a web configuration with the files that it names.
type site struct {
	t    *testing.T
	dir  string
	ours *authority
}

func newSite(t *testing.T, config string) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), ours: newAuthority(t, "ours")}
	s.write("ca.pem", s.ours.pem)
	s.renew()
	s.write("web.yml", []byte(config))
	return s
}

func (s *site) write(name string, text []byte) {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, name), text, 0o600))
}

// renew issues another certificate of the server.
func (s *site) renew() {
	s.t.Helper()
	certificate, key := s.ours.issue(s.t, "aegis", time.Now().Add(time.Hour), "localhost")
	s.write("server.pem", certificate)
	s.write("server.key", key)
}

func (s *site) file() string { return filepath.Join(s.dir, "web.yml") }
