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

	"aegis.io/aegis/web"
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

// Grant says what a user, or the holder of a client certificate, may do.
type Grant struct {
	// Name is the user's, or one that the certificate has: its common name or an alternative name.
	Name  string
	Roles []Role
}

// AuthOptions says who may do what.
type AuthOptions struct {
	Tokens []TokenFile
	// Users and Certificates are proven in front of the handler, see package web.
	Users, Certificates []Grant
	// AllowLoopback lets requests from this host write where there are no tokens, users and certificates.
	AllowLoopback bool
}

// Auth tells who may do what. The zero value lets everyone read and nobody write.
type Auth struct {
	loopback            bool
	files               []TokenFile
	users, certificates []Grant
}

// NewAuth returns an Auth. Each file of tokens is read again for each request, so that a new token holds, and an old one does
// not, from the moment the file changes. The error names everything that is wrong.
func NewAuth(o AuthOptions) (*Auth, error) {
	var errs []error
	for _, f := range o.Tokens {
		errs = append(errs, checkRoles(fmt.Sprintf("token file %q", f.File), f.Roles), f.Check())
	}
	for _, g := range o.Users {
		errs = append(errs, checkRoles(fmt.Sprintf("user %q", g.Name), g.Roles))
	}
	for _, g := range o.Certificates {
		errs = append(errs, checkRoles(fmt.Sprintf("certificate %q", g.Name), g.Roles))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Auth{
		loopback: o.AllowLoopback, files: slices.Clone(o.Tokens), users: slices.Clone(o.Users), certificates: slices.Clone(o.Certificates),
	}, nil
}

// Roles returns all roles.
func Roles() []Role { return []Role{RoleAlerts, RoleView, RoleHeal} }

func checkRoles(whose string, roles []Role) error {
	var errs []error
	if len(roles) == 0 {
		errs = append(errs, fmt.Errorf("%s has no roles, want alerts, view or heal", whose))
	}
	for _, role := range roles {
		if !slices.Contains(Roles(), role) {
			errs = append(errs, fmt.Errorf("%s has the unknown role %q, want alerts, view or heal", whose, role))
		}
	}
	return errors.Join(errs...)
}

// grants reports whether the roles include one.
func grants(roles []Role, need Role) bool {
	return slices.Contains(roles, need) || need == RoleView && slices.Contains(roles, RoleHeal)
}

// Check says why the tokens of the file cannot be read.
func (f TokenFile) Check() error {
	_, err := f.tokens()
	return err
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

// authorize returns who sent the request. The error is a problem when they may not do what needs the role. A token goes before
// a user, and a user before a certificate: the connection may be that of a proxy.
func (a *Auth) authorize(r *http.Request, need Role) (string, error) {
	caller := web.CallerOf(r.Context())
	if len(a.files)+len(a.users)+len(a.certificates) == 0 && !caller.Passwords {
		return a.withoutCredentials(r, need)
	}
	name, err := a.byToken(r, need)
	if name != "" {
		return name, nil
	}
	if name := a.byCaller(caller, need); name != "" {
		return name, checkOrigin(r, need)
	}
	if err != nil {
		return "", err
	}
	return "", a.refusal(caller, need)
}

// byToken returns the name of the file that holds the token of the request. Without any token it returns nothing.
func (a *Auth) byToken(r *http.Request, need Role) (string, error) {
	token, ok := bearerToken(r.Header)
	if !ok || len(a.files) == 0 {
		return "", nil
	}
	known, unreadable := false, error(nil)
	for _, f := range a.files {
		match, err := f.holds(token)
		unreadable = errors.Join(unreadable, err)
		if match && grants(f.Roles, need) {
			return filepath.Base(f.File), nil
		}
		known = known || match
	}
	switch {
	case unreadable != nil:
		return "", &problem{status: http.StatusServiceUnavailable, err: errors.New("the token cannot be checked at the moment"), cause: unreadable}
	case known:
		return "", problemf(http.StatusForbidden, "the token lacks the role %s", need)
	default:
		return "", problemf(http.StatusUnauthorized, "the token is not known")
	}
}

// byCaller returns the name of the user or of the certificate that has the role, or nothing.
func (a *Auth) byCaller(caller web.Caller, need Role) string {
	for _, g := range a.users {
		if caller.User != "" && g.Name == caller.User && grants(g.Roles, need) {
			return g.Name
		}
	}
	for _, g := range a.certificates {
		if slices.Contains(caller.Names, g.Name) && grants(g.Roles, need) {
			return g.Name
		}
	}
	return ""
}

func (a *Auth) refusal(caller web.Caller, need Role) error {
	switch {
	case caller.User != "":
		return problemf(http.StatusForbidden, "the user %.64q lacks the role %s", caller.User, need)
	case len(caller.Names) > 0:
		return problemf(http.StatusForbidden, "the client certificate of %.64q lacks the role %s", caller.Names[0], need)
	case len(a.users) > 0 || caller.Passwords:
		return problemf(http.StatusUnauthorized, "this needs a user, a client certificate or a bearer token with the role %s", need)
	case len(a.certificates) > 0:
		return problemf(http.StatusUnauthorized, "this needs a client certificate or a bearer token with the role %s", need)
	}
	return problemf(http.StatusUnauthorized, `this needs the header "Authorization: Bearer <token>" with a token of role %s`, need)
}

// challenge says by what a request may prove who sent it.
func (a *Auth) challenge(header http.Header) {
	header.Set("WWW-Authenticate", `Bearer realm="aegis"`)
	if len(a.users) > 0 {
		header.Add("WWW-Authenticate", `Basic realm="aegis"`)
	}
}

func bearerToken(header http.Header) (string, bool) {
	scheme, token, _ := strings.Cut(header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	return token, strings.EqualFold(scheme, "Bearer") && token != ""
}

// forwarding names a header that only a proxy sets. A proxy in the same pod, as that of a mesh, comes from loopback with the requests of
// everybody.
func forwarding(header http.Header) string {
	for name := range header {
		known := slices.Contains([]string{"Forwarded", "Via", "X-Real-Ip", "True-Client-Ip", "Cf-Connecting-Ip"}, name)
		if known || strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Envoy-") || strings.HasPrefix(name, "L5d-") {
			return name
		}
	}
	return ""
}

// fromThisHost reports whether the peer has the address that a program of this host has which asks for localhost. A proxy of a mesh gives
// others of 127.0.0.0/8 to what it forwards, also where it adds no header: that of Istio 127.0.0.6.
func fromThisHost(peer netip.Addr) bool {
	peer = peer.Unmap()
	return peer == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || peer == netip.IPv6Loopback()
}

// withoutCredentials trusts the peer's address alone, if at all: a header can say anything. A web page in a browser on this host
// comes from loopback, too, and is refused unless this server served it.
func (a *Auth) withoutCredentials(r *http.Request, need Role) (string, error) {
	switch {
	case need == RoleView:
		return "", nil
	case !a.loopback:
		return "", problemf(http.StatusForbidden, "nobody may do this: configure a token with the role %s, or auth.allowLoopback for requests from this host", need)
	}
	if header := forwarding(r.Header); header != "" {
		return "", problemf(http.StatusForbidden, "the header %s says that the request is not from this host; configure a token with the role %s", header, need)
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !fromThisHost(peer.Addr()) {
		return "", problemf(http.StatusForbidden, "without token files only loopback may do this; configure a token with the role %s", need)
	}
	return identityLoopback, checkOrigin(r, need)
}

// checkOrigin refuses what a page of another origin has a browser write: it sends passwords and certificates of its own accord.
func checkOrigin(r *http.Request, need Role) error {
	if need == RoleView {
		return nil
	}
	var browsers http.CrossOriginProtection
	if err := browsers.Check(r); err != nil {
		return problemf(http.StatusForbidden, "this came from a page of another origin: %w", err)
	}
	return nil
}
