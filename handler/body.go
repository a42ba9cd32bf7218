package handler

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"aegis.io/aegis/strict"
)

const (
	// maxRequestBytes bounds the body of what a person asks for.
	maxRequestBytes = 64 << 10
	// maxNameBytes is the longest name that Kubernetes gives an object.
	maxNameBytes = 253
	// maxReasonBytes leaves the ticket, of a few kilobytes, room for more than the reason.
	maxReasonBytes = 1024
)

// readJSON reads the body of a request that declares it as JSON.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if err := checkContentType(r.Header); err != nil {
		return nil, err
	}
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	var body bytes.Buffer
	// What a client claims is believed up to a point, so that a claim alone takes no memory.
	body.Grow(int(min(max(r.ContentLength, 0), 1<<20)) + bytes.MinRead)
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge(limit)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, problemf(http.StatusBadRequest, "body ends after %d bytes, before its announced end", body.Len())
	}
	if err != nil {
		return nil, problemf(http.StatusServiceUnavailable, "read body: %w", err)
	}
	return body.Bytes(), nil
}

func tooLarge(limit int64) error {
	return problemf(http.StatusRequestEntityTooLarge, "body is larger than %d bytes", limit)
}

func checkContentType(header http.Header) error {
	if encoding := header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return problemf(http.StatusUnsupportedMediaType, "Content-Encoding is %.40q, want none", encoding)
	}
	given := header.Get("Content-Type")
	if media, _, err := mime.ParseMediaType(given); err != nil || media != "application/json" {
		return problemf(http.StatusUnsupportedMediaType, "Content-Type is %.80q, want application/json", given)
	}
	return nil
}

// badJSON says what is wrong with a body that does not decode.
func badJSON(body []byte, err error) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return problemf(http.StatusBadRequest, "body is empty, want a JSON object")
	}
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return problemf(http.StatusBadRequest, "body is not JSON: %w (byte %d of %d)", e, e.Offset, len(body))
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		// The value of a number holds its digits, however many there are.
		got, _, _ := strings.Cut(e.Value, " ")
		if e.Field == "" {
			return problemf(http.StatusBadRequest, "body is a JSON %s, want an object", got)
		}
		return problemf(http.StatusBadRequest, "field %q is a JSON %s, want %s", e.Field, got, jsonType(e.Type))
	}
	return problemf(http.StatusBadRequest, "body cannot be decoded: %w", err)
}

func jsonType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "an array"
	default:
		return "an object"
	}
}

// decodeStrict decodes an object that has no fields but the known ones. A person who mistypes dryRun must not get the real
// thing.
func decodeStrict[T any](text []byte, known []string) (T, error) {
	var body, none T
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return none, badJSON(text, err)
	}
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(known, field) {
			return none, problemf(http.StatusBadRequest, "unknown field %s, %s", strict.Quote(field), strict.Hint(field, known))
		}
	}
	if err := json.Unmarshal(text, &body); err != nil {
		return none, badJSON(text, err)
	}
	return body, nil
}

// capped is a field of a body and how long it may be.
type capped struct {
	name, value string
	most        int
}

func checkLengths(fields ...capped) error {
	for _, f := range fields {
		if len(f.value) > f.most {
			return problemf(http.StatusBadRequest, "%s has %d bytes, want at most %d", f.name, len(f.value), f.most)
		}
	}
	return nil
}
