// Package source reads the sources of truth: alerts from Prometheus and Alertmanager, and silences from Alertmanager.
package source

import (
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/config"
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
	name    string
	base    *url.URL
	config  HTTPConfig
	timeout time.Duration

	mu   sync.Mutex
	http *http.Client // Nil until the files that it needs could be read.
}

// newClient checks the address, which may have a path prefix, and the configuration. It reads no file: one that is missing makes
// requests fail, until it is there.
func newClient(name string, o clientOptions) (*client, error) {
	base, err := parseURL(o.address)
	if err != nil {
		return nil, err
	}
	if o.timeout < 0 {
		return nil, fmt.Errorf("negative timeout %s", o.timeout)
	}
	c := &client{name: name, base: base, config: DefaultHTTPConfig(), timeout: cmp.Or(o.timeout, defaultTimeout)}
	if o.config != nil {
		c.config = *o.config
	}
	if err := c.config.Validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// clientOptions say what a client asks, and how.
type clientOptions struct {
	address string
	config  *HTTPConfig
	timeout time.Duration
}

func parseURL(address string) (*url.URL, error) {
	base, err := url.Parse(address)
	switch {
	case err != nil:
		// The cause would quote the whole address, password included.
		return nil, errors.New("the URL cannot be parsed")
	case base.Scheme != "http" && base.Scheme != "https", base.Host == "":
		return nil, errors.New("the URL must be http://host or https://host, with an optional path")
	case base.RawQuery != "" || base.Fragment != "":
		return nil, errors.New("the URL must have neither a query nor a fragment")
	case base.User != nil:
		return nil, errors.New("the URL must not hold credentials: use basic_auth")
	}
	return base, nil
}

// connection returns the HTTP client. It is made once all files that it needs are there; what changes in them later it notices itself.
func (c *client) connection() (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != nil {
		return c.http, nil
	}
	made, err := config.NewClientFromConfig(config.HTTPClientConfig(c.config), c.name)
	if err != nil {
		return nil, fmt.Errorf("prepare to ask %s: %w", c.safeURL(), err)
	}
	made.Timeout = c.timeout
	c.http = made
	return made, nil
}

// safeURL returns the address, which has neither credentials nor a query.
func (c *client) safeURL() string { return c.base.String() }

// get fetches a path below the base address.
func (c *client) get(ctx context.Context, path string, query url.Values) ([]byte, error) {
	address := c.base.JoinPath(path)
	address.RawQuery = query.Encode()
	return c.do(ctx, http.MethodGet, address, nil)
}

// postForm posts a form to a path below the base address.
func (c *client) postForm(ctx context.Context, path string, form url.Values) ([]byte, error) {
	return c.do(ctx, http.MethodPost, c.base.JoinPath(path), form)
}

// do sends a request and returns the body of the answer, which must have status 200.
func (c *client) do(ctx context.Context, method string, address *url.URL, form url.Values) ([]byte, error) {
	connection, err := c.connection()
	if err != nil {
		return nil, err
	}
	req, err := c.request(ctx, method, address, form)
	if err != nil {
		return nil, err
	}
	resp, err := connection.Do(req)
	if err != nil {
		return nil, c.safeError(err)
	}
	body, err := readBody(resp)
	if closeErr := resp.Body.Close(); err == nil {
		err = closeErr
	}
	switch {
	case resp.StatusCode != http.StatusOK:
		// The body may be a proxy's page that echoes the request, so it is not quoted, unless it is what Prometheus says of a query.
		return nil, &StatusError{URL: c.safeURL(), Status: resp.StatusCode, text: meaning(resp.StatusCode) + destination(resp) + complaint(resp.StatusCode, body)}
	case err != nil:
		return nil, fmt.Errorf("read the answer of %s: %w", c.safeURL(), err)
	}
	return body, nil
}

// StatusError is of an answer whose status is not 200.
type StatusError struct {
	// URL is the address of the server.
	URL    string
	Status int
	text   string
}

// Error says which status it is, and what that means.
func (e *StatusError) Error() string {
	return fmt.Sprintf("%s answers with status %d%s", e.URL, e.Status, e.text)
}

// complaint returns what Prometheus says of a query that it cannot parse or evaluate.
func complaint(status int, body []byte) string {
	if status != http.StatusBadRequest && status != http.StatusUnprocessableEntity {
		return ""
	}
	var says struct{ Status, ErrorType, Error string }
	err := json.Unmarshal(body, &says)
	if err != nil || says.Status != "error" || says.Error == "" || says.ErrorType != "bad_data" && says.ErrorType != "execution" {
		return ""
	}
	return ": " + quote(says.Error)
}

// meaning says of some statuses what people can do about them.
func meaning(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return ": it does not accept the credentials"
	case http.StatusForbidden:
		return ": the credentials do not allow this request"
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return ": redirects are followed only with follow_redirects"
	default:
		return ""
	}
}

// destination says where a redirect leads, without what may be secret there.
func destination(resp *http.Response) string {
	to, err := resp.Location()
	if err != nil {
		return ""
	}
	return fmt.Sprintf(", and this one leads to %s", (&url.URL{Scheme: to.Scheme, Host: to.Host, Path: to.Path}).String())
}

// request builds a request. Credentials are added when it is sent.
func (c *client) request(ctx context.Context, method string, address *url.URL, form url.Values) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, address.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("build a request for %s: %w", c.safeURL(), withoutURL(err))
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "gzip")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return req, nil
}

// readBody reads and decompresses at most maxBody bytes; more is an error, because half an answer is no answer.
func readBody(resp *http.Response) ([]byte, error) {
	var body io.Reader = resp.Body
	if resp.Header.Get("Content-Encoding") == "gzip" {
		decompressed, err := gzip.NewReader(body)
		if err != nil {
			return nil, err
		}
		body = decompressed
	}
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
