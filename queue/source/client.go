// Package source reads the sources of truth: alerts from Prometheus and Alertmanager, and silences from Alertmanager.
package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	defaultTimeout = 10 * time.Second
	// maxBody bounds an answer after decompression. A cluster of 10,000 nodes with a few alerts each stays below it.
	maxBody = 32 << 20
	// maxQuoted bounds what an error quotes of an answer.
	maxQuoted = 200
)

// client sends requests to one server. None of its errors tells a credential.
type client struct {
	base      *url.URL
	tokenFile string
	http      *http.Client
}

// newClient checks the address, which may have a path prefix and, for basic authentication, user information.
func newClient(address, tokenFile string, timeout time.Duration) (*client, error) {
	base, err := url.Parse(address)
	if err != nil {
		// The cause would quote the whole address, password included.
		return nil, errors.New("the URL cannot be parsed")
	}
	if (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, errors.New("the URL must be http://host or https://host, with an optional path")
	}
	if base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("the URL must have neither a query nor a fragment")
	}
	if base.User != nil && tokenFile != "" {
		return nil, errors.New("a URL with user information excludes a token file")
	}
	if timeout < 0 {
		return nil, fmt.Errorf("negative timeout %s", timeout)
	}
	if timeout == 0 {
		timeout = defaultTimeout
	}
	return &client{base: base, tokenFile: tokenFile, http: &http.Client{Timeout: timeout, CheckRedirect: refuseRedirect}}, nil
}

// refuseRedirect keeps the redirect as the answer. Following it could send the token to another server, or turn the
// request into another one whose answer looks healthy.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// safeURL returns the address without user information and query.
func (c *client) safeURL() string {
	safe := *c.base
	safe.User, safe.RawQuery = nil, ""
	return safe.String()
}

// get fetches a path below the base address.
func (c *client) get(ctx context.Context, path string) ([]byte, error) {
	return c.do(ctx, http.MethodGet, path, nil)
}

// postForm posts a form to a path below the base address.
func (c *client) postForm(ctx context.Context, path string, form url.Values) ([]byte, error) {
	return c.do(ctx, http.MethodPost, path, form)
}

// do sends a request and returns the body of the answer, which must have status 200.
func (c *client) do(ctx context.Context, method, path string, form url.Values) ([]byte, error) {
	req, err := c.request(ctx, method, path, form)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.safeError(err)
	}
	body, err := readBody(resp.Body)
	if closeErr := resp.Body.Close(); err == nil {
		err = closeErr
	}
	switch {
	case resp.StatusCode != http.StatusOK:
		// The body may be a proxy's page that echoes the request, so it is not quoted.
		return nil, fmt.Errorf("%s answers with status %d", c.safeURL(), resp.StatusCode)
	case err != nil:
		return nil, fmt.Errorf("read the answer of %s: %w", c.safeURL(), err)
	}
	return body, nil
}

// request builds a request with the credentials of this moment.
func (c *client) request(ctx context.Context, method, path string, form url.Values) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base.JoinPath(path).String(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("build a request for %s: %w", c.safeURL(), withoutURL(err))
	}
	req.Header.Set("Accept", "application/json")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if c.tokenFile == "" {
		return req, nil
	}
	token, err := readToken(c.tokenFile)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return req, nil
}

// readToken reads the file anew, so that a rotated token is used at once.
func readToken(file string) (string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	token := string(bytes.TrimSpace(content))
	if token == "" {
		return "", fmt.Errorf("token file %s is empty", file)
	}
	return token, nil
}

// readBody reads at most maxBody bytes; more is an error, because half an answer is no answer.
func readBody(body io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(body, maxBody+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxBody {
		return nil, fmt.Errorf("it is larger than %d MiB", maxBody>>20)
	}
	return content, nil
}

// safeError replaces the address that net/http quotes, user name included, by the safe one.
func (c *client) safeError(err error) error {
	return fmt.Errorf("ask %s: %w", c.safeURL(), withoutURL(err))
}

// withoutURL unwraps the error of net/http or net/url that quotes an address.
func withoutURL(err error) error {
	var quoted *url.Error
	if errors.As(err, &quoted) {
		return quoted.Err
	}
	return err
}

// quote returns text for an error: short, and without control characters.
func quote(text string) string {
	if len(text) > maxQuoted {
		text = strings.ToValidUTF8(text[:maxQuoted], "") + "..."
	}
	return fmt.Sprintf("%q", text)
}
