package handler

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxTokenFileBytes bounds what is read for every request that needs a token.
const maxTokenFileBytes = 64 << 10

// identityLoopback is who asks from this host where there are no tokens.
const identityLoopback = "loopback"

// Role is what the bearer of a token may do.
type Role string

// The roles. A heal token may also view.
const (
	RoleAlerts Role = "alerts" // Send webhooks.
	RoleView   Role = "view"   // Read.
	RoleHeal   Role = "heal"   // Ask for nodes to be healed, give orders, and have the configuration read again.
)

// TokenFile is a file of bearer tokens and what they are good for. It has one token per line; what follows a # at the
// begin of a line or after the token is a comment.
type TokenFile struct {
	File  string `json:"file"`
	Roles []Role `json:"roles"`
}

// Auth tells who may do what. The zero value, without token files, lets everyone read and only loopback write.
type Auth struct {
	files []TokenFile
}

// NewAuth returns an Auth for the tokens of the files. Each file is read again for each request, so that a new token
// holds, and an old one does not, from the moment the file changes. The error names everything that is wrong.
func NewAuth(files []TokenFile) (*Auth, error) {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.validate())
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Auth{files: slices.Clone(files)}, nil
}

func (f TokenFile) validate() error {
	var errs []error
	if len(f.Roles) == 0 {
		errs = append(errs, fmt.Errorf("token file %q has no roles, want alerts, view or heal", f.File))
	}
	for _, role := range f.Roles {
		if !slices.Contains([]Role{RoleAlerts, RoleView, RoleHeal}, role) {
			errs = append(errs, fmt.Errorf("token file %q has the unknown role %q, want alerts, view or heal", f.File, role))
		}
	}
	if _, err := f.tokens(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (f TokenFile) grants(need Role) bool {
	return slices.Contains(f.Roles, need) || need == RoleView && slices.Contains(f.Roles, RoleHeal)
}

// tokens returns the hashes of the file's tokens. A file without any is an error: it may be half written, and saying
// "wrong token" then would make Alertmanager give up. No error quotes a line.
func (f TokenFile) tokens() (hashes [][sha256.Size]byte, err error) {
	file, err := os.Open(f.File)
	if err != nil {
		return nil, fmt.Errorf("read token file: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	text, err := io.ReadAll(io.LimitReader(file, maxTokenFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read token file: %w", err)
	}
	if len(text) > maxTokenFileBytes {
		return nil, fmt.Errorf("read token file %q: it is larger than %d bytes", f.File, maxTokenFileBytes)
	}
	return parseTokens(f.File, string(text))
}

func parseTokens(file, text string) ([][sha256.Size]byte, error) {
	var hashes [][sha256.Size]byte
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, maxTokenFileBytes+1)
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if len(words) > 1 && !strings.HasPrefix(words[1], "#") {
			return nil, fmt.Errorf("%s:%d: a token has no spaces in it", file, n)
		}
		hashes = append(hashes, sha256.Sum256([]byte(words[0])))
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read token file %q: %w", file, err)
	}
	if len(hashes) == 0 {
		return nil, fmt.Errorf("token file %q holds no token", file)
	}
	return hashes, nil
}

// holds reports whether the token is one of the file's, in a time that does not depend on which.
func (f TokenFile) holds(token string) (bool, error) {
	hashes, err := f.tokens()
	if err != nil {
		return false, err
	}
	sum := sha256.Sum256([]byte(token))
	found := 0
	for _, hash := range hashes {
		found |= subtle.ConstantTimeCompare(sum[:], hash[:])
	}
	return found == 1, nil
}

// authorize returns who sent the request. The error is a problem when they may not do what needs the role.
func (a *Auth) authorize(r *http.Request, need Role) (string, error) {
	if len(a.files) == 0 {
		return authorizeLoopback(r, need)
	}
	token, ok := bearerToken(r.Header)
	if !ok {
		return "", problemf(http.StatusUnauthorized, `this needs the header "Authorization: Bearer <token>" with a token of role %s`, need)
	}
	known, unreadable := false, error(nil)
	for _, f := range a.files {
		match, err := f.holds(token)
		unreadable = errors.Join(unreadable, err)
		if match && f.grants(need) {
			return filepath.Base(f.File), nil
		}
		known = known || match
	}
	switch {
	case unreadable != nil:
		return "", &problem{status: http.StatusServiceUnavailable, err: errors.New("the token cannot be checked now"), cause: unreadable}
	case known:
		return "", problemf(http.StatusForbidden, "the token lacks the role %s", need)
	default:
		return "", problemf(http.StatusUnauthorized, "the token is not known")
	}
}

func bearerToken(header http.Header) (string, bool) {
	scheme, token, _ := strings.Cut(header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, strings.EqualFold(scheme, "Bearer") && token != ""
}

// authorizeLoopback trusts the peer's address alone: a header can say anything. A web page in a browser on this host
// comes from loopback, too, and is refused unless this server served it.
func authorizeLoopback(r *http.Request, need Role) (string, error) {
	if need == RoleView {
		return "", nil
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().IsLoopback() {
		return "", problemf(http.StatusForbidden, "without token files only loopback may do this; configure a token with the role %s", need)
	}
	var browsers http.CrossOriginProtection
	if err := browsers.Check(r); err != nil {
		return "", problemf(http.StatusForbidden, "this came from a page of another origin: %w", err)
	}
	return identityLoopback, nil
}
