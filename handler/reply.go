package handler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"
)

// reply is the answer to a request that was served.
type reply struct {
	status int
	body   any
}

// problem is an error that knows the status it is answered with.
type problem struct {
	status int
	err    error
	// cause is for the log alone. Nil when there is nothing that the operator should look into.
	cause error
}

func (p *problem) Error() string { return p.err.Error() }

func (p *problem) Unwrap() error { return p.err }

func problemf(status int, format string, args ...any) error {
	return &problem{status: status, err: fmt.Errorf(format, args...)}
}

// problemOf returns the problem in err. An error of no known kind is one of the moment: 503 is what callers retry.
func problemOf(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	switch {
	case errors.Is(err, ErrNotFound):
		return &problem{status: http.StatusNotFound, err: err}
	case errors.Is(err, ErrConflict):
		return &problem{status: http.StatusConflict, err: err}
	case errors.Is(err, ErrInvalid):
		return &problem{status: http.StatusUnprocessableEntity, err: err}
	default:
		return &problem{status: http.StatusServiceUnavailable, err: err, cause: err}
	}
}

// errorBody is the answer to a request that was not served.
type errorBody struct {
	Error  string `json:"error"`
	Status int    `json:"status"`
}

func (h *Handler) answer(w http.ResponseWriter, r *http.Request, re reply, err error) {
	if err != nil {
		p := problemOf(err)
		re = h.refusal(w, r, p)
	}
	text, err := json.Marshal(re.body)
	if err != nil {
		h.logger.ErrorContext(r.Context(), "answer cannot be encoded", "path", r.URL.Path, "err", err)
		re.status, text = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded","status":500}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(re.status)
	if _, err := w.Write(append(text, '\n')); err != nil {
		h.logger.DebugContext(r.Context(), "answer not delivered", "path", r.URL.Path, "err", err)
	}
}

func (h *Handler) refusal(w http.ResponseWriter, r *http.Request, p *problem) reply {
	switch p.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="aegis"`)
	case http.StatusRequestEntityTooLarge:
		// What is left of the body is not worth reading.
		w.Header().Set("Connection", "close")
	}
	if p.cause != nil {
		h.logger.ErrorContext(r.Context(), "request failed", "path", r.URL.Path, "status", p.status, "err", p.cause)
	}
	return reply{status: p.status, body: errorBody{Error: p.Error(), Status: p.status}}
}

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
