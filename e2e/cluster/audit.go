package cluster

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// maxAuditLine is above any line of the log, the longest of which hold a Node twice.
const maxAuditLine = 1 << 20

// AuditEvent is one request that the API server has answered.
type AuditEvent struct {
	// At is when the answer was complete.
	At time.Time
	// User is who asked, Verb what was asked for.
	User, Verb string
	// APIGroup, which is empty for the core group, Resource and Subresource, Namespace and Name say of what.
	APIGroup, Resource, Subresource, Namespace, Name string
	// Code is the HTTP status of the answer.
	Code int
	// DryRun says that nothing was to be changed.
	DryRun bool
	// Request is the body of a write of a node, and of the creation of a Job or an eviction, as JSON. Response is the Node
	// that a write of one has led to.
	Request, Response []byte
}

// Audit returns the requests answered so far, in the order of the log. What administrators and the API server itself
// only read is not in it.
func (c *Cluster) Audit() ([]AuditEvent, error) {
	file, err := os.Open(c.AuditLog)
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	defer file.Close()
	var events []AuditEvent
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxAuditLine)
	for lines.Scan() {
		var e auditv1.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			// The last line may still be written.
			break
		}
		if e.Stage == auditv1.StageResponseComplete {
			events = append(events, auditEvent(&e))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	return events, nil
}

func auditEvent(e *auditv1.Event) AuditEvent {
	event := AuditEvent{
		At:     e.StageTimestamp.Time,
		User:   e.User.Username,
		Verb:   e.Verb,
		DryRun: strings.Contains(e.RequestURI, "dryRun=All"),
	}
	if e.ObjectRef != nil {
		event.APIGroup, event.Resource, event.Subresource = e.ObjectRef.APIGroup, e.ObjectRef.Resource, e.ObjectRef.Subresource
		event.Namespace, event.Name = e.ObjectRef.Namespace, e.ObjectRef.Name
	}
	if e.ResponseStatus != nil {
		event.Code = int(e.ResponseStatus.Code)
	}
	if e.RequestObject != nil {
		event.Request = e.RequestObject.Raw
	}
	if e.ResponseObject != nil {
		event.Response = e.ResponseObject.Raw
	}
	return event
}
