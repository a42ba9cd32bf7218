// Package jobs runs the privileged operations on a node, each as one Kubernetes Job that is pinned to it.
//
// A Job is made from a plain manifest whose fields are set after decoding. Its name follows from the request, so that
// whoever asks again, after a crash or a change of leader, finds the Job that is already there instead of making a second one.
package jobs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// hashLen is the number of hex digits that tell apart what was cut to the same text.
	hashLen = 12
	// maxArgsBytes keeps the arguments well below what a process can be started with and an object can hold.
	maxArgsBytes = 32 << 10
)

// Request asks for one operation on one node.
type Request struct {
	// Action is one of the Action constants.
	Action string
	// Node is the name of the Node object.
	Node string
	// Incident is the ID of the ticket that the operation belongs to.
	Incident string
	// Attempt tells apart the calls of the same action in the same incident.
	Attempt int
	// Args are passed to the operation after its name, each as it is.
	Args []string
	// Deadline bounds the run time of the Job. Zero leaves it to the template.
	Deadline time.Duration
	// NotAfter is when the operation may not be begun any more, by the clock of the host: whoever ordered it has given up by then. Zero
	// means that it may be begun at any time.
	NotAfter time.Time
}

// Name returns the name of the Job for the request. It depends on the action, node, incident and attempt alone: arguments
// may differ when the same call is repeated after a restart, and must not make a second Job of it.
func (r Request) Name() string {
	attempt := strconv.Itoa(r.Attempt)
	suffix := "-" + hash(r.Action, r.Node, r.Incident, attempt) + "-" + attempt
	return cut("aegis-"+dnsText(r.Action)+"-"+dnsText(r.Node), validation.DNS1123LabelMaxLength-len(suffix)) + suffix
}

func (r Request) validate() error {
	var errs []error
	if templateFile(r.Action) == "" {
		errs = append(errs, fmt.Errorf("unknown action %.64q", r.Action))
	}
	if msgs := validation.IsDNS1123Subdomain(r.Node); len(msgs) > 0 {
		errs = append(errs, fmt.Errorf("node %.64q cannot be the name of a Node: %s", r.Node, msgs[0]))
	}
	if r.Incident == "" {
		errs = append(errs, errors.New("incident is empty"))
	}
	if r.Attempt < 0 {
		errs = append(errs, fmt.Errorf("attempt %d is negative", r.Attempt))
	}
	if r.Deadline < 0 {
		errs = append(errs, fmt.Errorf("deadline %s is negative", r.Deadline))
	}
	return errors.Join(append(errs, validateArgs(r.Args))...)
}

// validateArgs refuses what no process can be given, and what JSON would change on its way.
func validateArgs(args []string) error {
	size := 0
	for i, arg := range args {
		if strings.ContainsRune(arg, 0) || !utf8.ValidString(arg) {
			return fmt.Errorf("argument %d holds a zero byte or is not UTF-8", i)
		}
		size += len(arg) + 1
	}
	if size > maxArgsBytes {
		return fmt.Errorf("arguments take %d bytes: at most %d are allowed", size, maxArgsBytes)
	}
	return nil
}

// labelValue returns s where it can be a label value, else a cut that a hash makes unique.
func labelValue(s string) string {
	if len(validation.IsValidLabelValue(s)) == 0 {
		return s
	}
	return strings.TrimLeft(cut(dnsText(s), validation.LabelValueMaxLength-hashLen-1)+"-"+hash(s), "-")
}

// dnsText keeps of s what a DNS label can hold and puts a dash for everything else.
func dnsText(s string) string {
	text := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, strings.ToLower(s))
	return strings.Trim(text, "-")
}

// cut returns at most the first n bytes of ASCII text, without a dash at the end.
func cut(text string, n int) string {
	return strings.TrimRight(text[:min(len(text), n)], "-")
}

// hash digests the parts; the length of each goes in, so that no two lists run together to the same text.
func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))[:hashLen]
}
