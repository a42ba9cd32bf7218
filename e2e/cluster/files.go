package cluster

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// AegisUser is the user of KubeconfigAegis: the service account that the chart creates.
const AegisUser = "system:serviceaccount:monitoring:aegis"

var (
	//go:embed stages.yaml
	stages []byte
	//go:embed audit-policy.yaml
	auditPolicy []byte
)

// files holds the paths of what the programs read and write.
type files struct {
	certs, ca                        string
	keyPrivate, keyPublic            string
	tokens                           string
	audit, auditPolicy               string
	stages                           string
	kubeconfigAdmin, kubeconfigAegis string
}

func writeFiles(dir, url string) (files, error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	f := files{
		certs: at("certs"), ca: at("certs/apiserver.crt"),
		keyPrivate: at("sa.key"), keyPublic: at("sa.pub"),
		tokens: at("tokens.csv"),
		audit:  at("audit.log"), auditPolicy: at("audit-policy.yaml"),
		stages:          at("stages.yaml"),
		kubeconfigAdmin: at("admin.kubeconfig"), kubeconfigAegis: at("aegis.kubeconfig"),
	}
	if err := os.MkdirAll(f.certs, 0o755); err != nil {
		return f, fmt.Errorf("write files: %w", err)
	}
	admin, aegis := rand.Text(), rand.Text()
	tokens := fmt.Sprintf("%s,admin,1,\"system:masters\"\n%s,%s,2,\"system:serviceaccounts,system:serviceaccounts:monitoring\"\n",
		admin, aegis, AegisUser)
	return f, errors.Join(
		writeKeys(f),
		writeFile(f.tokens, []byte(tokens)),
		writeFile(f.auditPolicy, auditPolicy),
		writeFile(f.stages, stages),
		writeKubeconfig(f.kubeconfigAdmin, url, f.ca, "admin", admin),
		writeKubeconfig(f.kubeconfigAegis, url, f.ca, "aegis", aegis),
	)
}

// writeKeys makes the key pair that signs service account tokens.
func writeKeys(f files) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	return errors.Join(
		writeFile(f.keyPrivate, private),
		writeFile(f.keyPublic, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
	)
}

func writeKubeconfig(path, url, ca, user, token string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["e2e"] = &clientcmdapi.Cluster{Server: url, CertificateAuthority: ca}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["e2e"] = &clientcmdapi.Context{Cluster: "e2e", AuthInfo: user}
	config.CurrentContext = "e2e"
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

// trusting returns a client that trusts the certificate which the API server has made for itself.
func trusting(ca string) (*http.Client, error) {
	text, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("no certificate in %s", ca)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}, nil
}
