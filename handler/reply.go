package handler

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// reply is the answer to a request that was served.
type reply struct {
	status int
	// body is encoded as JSON, unless it is of type plainText.
	body any
}

// plainText is an answer for people, line by line.
type plainText []string

// encode returns the body and its media type.
func (re reply) encode() (mediaType string, text []byte, err error) {
	if lines, ok := re.body.(plainText); ok {
		return "text/plain; charset=utf-8", []byte(strings.Join(lines, "\n")), nil
	}
	text, err = json.Marshal(re.body)
	return "application/json", text, err
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
	case errors.Is(err, errNotFound):
		return &problem{status: http.StatusNotFound, err: err}
	case errors.Is(err, errConflict):
		return &problem{status: http.StatusConflict, err: err}
	case errors.Is(err, errInvalid):
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
	mediaType, text, err := re.encode()
	if err != nil {
		h.logger.ErrorContext(r.Context(), "answer cannot be encoded", "path", r.URL.Path, "err", err)
		re.status, text = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded","status":500}`)
	}
	w.Header().Set("Content-Type", mediaType)
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
		h.auth.challenge(w.Header())
	case http.StatusRequestEntityTooLarge:
		// What is left of the body is not worth reading.
		w.Header().Set("Connection", "close")
	}
	if p.cause != nil {
		h.logger.ErrorContext(r.Context(), "request failed", "path", r.URL.Path, "status", p.status, "err", p.cause)
	}
	return reply{status: p.status, body: errorBody{Error: p.Error(), Status: p.status}}
}
