package handler

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNewServerBoundsEverything(t *testing.T) {
	t.Parallel()
	server := NewServer("127.0.0.1:0", http.NotFoundHandler())
	require.Equal(t, "127.0.0.1:0", server.Addr)
	require.NotNil(t, server.Handler)
	require.Equal(t, 5*time.Second, server.ReadHeaderTimeout)
	require.Equal(t, 15*time.Second, server.ReadTimeout)
	require.Equal(t, 15*time.Second, server.WriteTimeout)
	require.Equal(t, 120*time.Second, server.IdleTimeout)
	require.Equal(t, 64<<10, server.MaxHeaderBytes)
	require.NotNil(t, server.ErrorLog)
	require.Nil(t, server.BaseContext)
	require.Less(t, answerTimeout, server.WriteTimeout, "giving up can still be said")
}

// pipeListener hands out connections in memory, so that their timeouts pass in virtual time.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error { close(l.done); return nil }

func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// dial returns the client's end of a new connection from loopback.
func (l *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- loopbackConn{server}
	return client
}

type loopbackConn struct{ net.Conn }

func (loopbackConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711}
}

// inBubble runs the test against NewServer in virtual time.
func inBubble(t *testing.T, change func(*Options), test func(t *testing.T, f *fixture, l *pipeListener)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, change)
		listener := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
		server := NewServer("", f.routes)
		ended := make(chan error, 1)
		go func() { ended <- server.Serve(listener) }()
		test(t, f, listener)
		require.NoError(t, server.Close())
		require.ErrorIs(t, <-ended, http.ErrServerClosed)
	})
}

// drip writes a byte a second until the other side gives up, and returns how long that took.
func drip(conn net.Conn, text string) time.Duration {
	start := time.Now()
	for i := range len(text) {
		if _, err := conn.Write([]byte{text[i]}); err != nil {
			break
		}
		time.Sleep(time.Second)
	}
	return time.Since(start)
}

func TestSlowHeadersAreCutOff(t *testing.T) {
	t.Parallel()
	inBubble(t, func(*Options) {}, func(t *testing.T, f *fixture, l *pipeListener) {
		conn := l.dial()
		answered := make(chan string, 1)
		go func() {
			text, err := io.ReadAll(conn)
			answered <- fmt.Sprint(string(text), err)
		}()
		took := drip(conn, "POST /api/v1/alerts HTTP/1.1\r\nHost: aegis\r\nX-Padding: "+strings.Repeat("x", 100))
		require.LessOrEqual(t, took, 6*time.Second)
		require.NotContains(t, <-answered, "200 OK")
		require.Empty(t, f.sink.all())
	})
}

func TestSlowBodyFreesItsSlot(t *testing.T) {
	t.Parallel()
	one := func(o *Options) { o.MaxInFlight = 1 }
	inBubble(t, one, func(t *testing.T, f *fixture, l *pipeListener) {
		slow := l.dial()
		answered := make(chan string, 1)
		go func() {
			text, err := io.ReadAll(slow)
			answered <- fmt.Sprint(string(text), err)
		}()
		start := time.Now()
		_, err := fmt.Fprintf(slow, "POST /api/v1/alerts HTTP/1.1\r\nHost: aegis\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
		require.NoError(t, err)
		go drip(slow, oneAlert)
		synctest.Wait()
		require.Contains(t, exchange(t, l.dial(), oneAlert), "503 Service Unavailable", "the slot is taken")

		require.NotContains(t, <-answered, "200 OK")
		require.LessOrEqual(t, time.Since(start), 16*time.Second)
		require.Empty(t, f.sink.all(), "half an alert is none")
		require.Contains(t, exchange(t, l.dial(), oneAlert), "200 OK", "the slot is free")
		require.NoError(t, slow.Close())
		time.Sleep(time.Second)
	})
}

// exchange sends a webhook and returns the answer.
func exchange(t *testing.T, conn net.Conn, body string) string {
	t.Helper()
	go func() {
		// The answer may come before the request is read.
		if _, err := io.WriteString(conn, rawWebhook(len(body), body)); err != nil {
			return
		}
	}()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.NoError(t, conn.Close())
	return response.Status
}

func rawWebhook(length int, body string) string {
	return fmt.Sprintf("POST /api/v1/alerts HTTP/1.1\r\nHost: aegis\r\nConnection: close\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", length, body)
}

func TestTruncatedBodies(t *testing.T) {
	t.Parallel()
	chunked := fmt.Sprintf("POST /api/v1/alerts HTTP/1.1\r\nHost: aegis\r\nConnection: close\r\nContent-Type: application/json\r\n"+
		"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(oneAlert), oneAlert)
	for name, tc := range map[string]struct {
		raw    string
		status string
		says   string
	}{
		"whole":                         {rawWebhook(len(oneAlert), oneAlert), "200 OK", `"taken":1`},
		"half of it":                    {rawWebhook(len(oneAlert), oneAlert[:50]), "400 Bad Request", "body ends after 50 bytes, before its announced end"},
		"valid JSON, announced longer":  {rawWebhook(len(oneAlert)+1, oneAlert), "400 Bad Request", "before its announced end"},
		"valid JSON, announced shorter": {rawWebhook(len(oneAlert)-1, oneAlert), "400 Bad Request", "unexpected end of JSON input"},
		"chunks that end":               {chunked + "0\r\n\r\n", "200 OK", `"taken":1`},
		"chunks without end":            {chunked, "400 Bad Request", "before its announced end"},
		"announced beyond the limit":    {rawWebhook(maxWebhookBytes+1, ""), "413 Request Entity Too Large", "larger than 16777216 bytes"},
		"no length":                     {"POST /api/v1/alerts HTTP/1.1\r\nHost: aegis\r\nConnection: close\r\nContent-Type: application/json\r\n\r\n", "400 Bad Request", "body is empty"},
		"headers beyond the limit":      {"GET /-/ready HTTP/1.1\r\nHost: aegis\r\nX: " + strings.Repeat("x", 80<<10) + "\r\n\r\n", "431 Request Header Fields Too Large", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			server := NewServer("", f.routes)
			ended := make(chan error, 1)
			go func() { ended <- server.Serve(listener) }()
			conn, err := net.Dial("tcp", listener.Addr().String())
			require.NoError(t, err)
			_, err = io.WriteString(conn, tc.raw)
			require.NoError(t, err)
			half, ok := conn.(interface{ CloseWrite() error })
			require.True(t, ok)
			require.NoError(t, half.CloseWrite())

			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			text, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			require.Equal(t, tc.status, response.Status)
			require.Contains(t, string(text), tc.says)
			require.Equal(t, tc.status == "200 OK", len(f.sink.all()) == 1)

			require.NoError(t, conn.Close())
			require.NoError(t, server.Close())
			require.ErrorIs(t, <-ended, http.ErrServerClosed)
		})
	}
}
