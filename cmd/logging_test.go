package cmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/klog/v2"
)

// logging are the packages whose logs people read together.
func logging() []string {
	return []string{"cmd", "handler", "jobs", "queue", "rules", "sop", "sop/playbook", "ticket", "web"}
}

// logKey is what keys look like, and otherNames are those that have another name everywhere else.
var (
	logKey     = regexp.MustCompile(`^[a-z][a-z_]*$`)
	otherNames = map[string]string{"error": "err", "cause": "err", "node_name": "node", "name": "node", "id": "device"}
)

func TestLogStyle(t *testing.T) {
	t.Parallel()
	for _, name := range logging() {
		problems, err := logProblems(os.DirFS(".."), name)
		require.NoError(t, err)
		require.Empty(t, problems)
	}
}

func TestLogProblemsAreFound(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		source string
		want   []string
	}{
		"in order": {
			"type O struct{ Logger *slog.Logger }\nfunc f(o O) { o.Logger.With(\"component\", \"p\").Info(\"begins\", \"node\", 1) }", nil,
		},
		"no component": {
			"type O struct{ Logger *slog.Logger }\nfunc f(o O) { o.Logger.Info(\"begins\") }",
			[]string{"p: takes 1 loggers and names 0 components"},
		},
		"upper case":         {"func f() { logger.WarnContext(ctx, \"Begins\") }", []string{`p/a.go:2: message "Begins" begins in upper case`}},
		"a message is made":  {"func f() { a.logger.Error(fmt.Sprint(1)) }", []string{"p/a.go:2: the message is no constant"}},
		"a key in camelCase": {"func f() { b.Logger().Debug(\"x\", \"nodeName\", 1) }", []string{`p/a.go:2: key "nodeName" is not in lower case`}},
		"another key":        {"func f() { logger.With(\"error\", 1).Info(\"x\") }", []string{`p/a.go:2: key "error" is called "err" elsewhere`}},
		"no logger":          {"func f() { errs.Error(\"Begins\") }", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := fstest.MapFS{
				"p/a.go":      {Data: []byte("package p\n" + tt.source)},
				"p/a_test.go": {Data: []byte("package p; func g() { logger.Info(\"Begins\") }")},
			}
			problems, err := logProblems(tree, "p")
			require.NoError(t, err)
			require.Equal(t, tt.want, problems)
		})
	}
	_, err := logProblems(fstest.MapFS{"p/a_test.go": {}}, "p")
	require.EqualError(t, err, "p: there is no source")
}

// logProblems says where a package logs in another style than the others, outside its tests.
func logProblems(root fs.FS, name string) ([]string, error) {
	positions, files, err := parsePackage(root, name)
	if err != nil {
		return nil, err
	}
	s := logStyle{positions: positions}
	for _, file := range files {
		ast.Inspect(file, s.look)
	}
	if s.loggers > s.components {
		s.problems = append(s.problems, fmt.Sprintf("%s: takes %d loggers and names %d components", name, s.loggers, s.components))
	}
	return s.problems, nil
}

// logStyle is what was seen of a package. Every logger that its callers may give it has to get the name of a component.
type logStyle struct {
	positions           *token.FileSet
	loggers, components int
	problems            []string
}

func (s *logStyle) look(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.Field:
		named := func(i *ast.Ident) bool { return i.Name == "Logger" }
		if star, ok := n.Type.(*ast.StarExpr); ok && slices.ContainsFunc(n.Names, named) && isLogger(star.X) {
			s.loggers++
		}
	case *ast.CallExpr:
		s.call(n)
	}
	return true
}

func (s *logStyle) call(c *ast.CallExpr) {
	selector, ok := c.Fun.(*ast.SelectorExpr)
	if !ok || !isLogger(selector.X) {
		return
	}
	level, withContext := strings.CutSuffix(selector.Sel.Name, "Context")
	arguments := c.Args
	switch {
	case selector.Sel.Name == "With":
		s.keys(arguments)
		return
	case !slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, level):
		return
	case withContext && len(arguments) > 0:
		arguments = arguments[1:]
	}
	if len(arguments) == 0 {
		return
	}
	message, ok := literal(arguments[0])
	switch {
	case !ok:
		s.fail(c, "the message is no constant")
	case message == "" || message[:1] != strings.ToLower(message[:1]):
		s.fail(c, "message %q begins in upper case", message)
	}
	s.keys(arguments[1:])
}

// keys looks at the keys among pairs of keys and values. What is no constant, such as an slog.Attr, is left alone.
func (s *logStyle) keys(pairs []ast.Expr) {
	for i := 0; i < len(pairs); i += 2 {
		key, ok := literal(pairs[i])
		switch {
		case !ok:
			return
		case key == "component":
			s.components++
		case !logKey.MatchString(key):
			s.fail(pairs[i], "key %q is not in lower case", key)
		case otherNames[key] != "":
			s.fail(pairs[i], "key %q is called %q elsewhere", key, otherNames[key])
		}
	}
}

func (s *logStyle) fail(at ast.Node, format string, args ...any) {
	p := s.positions.Position(at.Pos())
	s.problems = append(s.problems, fmt.Sprintf("%s:%d: ", p.Filename, p.Line)+fmt.Sprintf(format, args...))
}

// isLogger reports whether the expression is called a logger, or is made of one by With, or of several of which one is there.
func isLogger(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return strings.HasSuffix(e.Name, "ogger")
	case *ast.SelectorExpr:
		return strings.HasSuffix(e.Sel.Name, "ogger")
	case *ast.CallExpr:
		if selector, ok := e.Fun.(*ast.SelectorExpr); ok && selector.Sel.Name == "With" {
			return isLogger(selector.X)
		}
		return isLogger(e.Fun) || slices.ContainsFunc(e.Args, isLogger)
	}
	return false
}

func literal(e ast.Expr) (string, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(l.Value)
	return text, err == nil
}

// What client-go logs has the form of all other lines.
func TestClientGoLogsInOneForm(t *testing.T) {
	var lines bytes.Buffer
	adoptClientLogs(slog.New(slog.NewJSONHandler(&lines, nil)))
	defer klog.ClearLogger()
	klog.Background().Error(errors.New("no route"), "Failed to watch", "type", "*v1.Node")
	utilruntime.HandleError(errors.New("lost"))
	klog.V(2).InfoS("for who looks for a fault in client-go")
	for line := range strings.Lines(lines.String()) {
		var entry map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &entry))
		require.Equal(t, "client-go", entry["component"])
		require.Equal(t, "ERROR", entry["level"])
	}
	require.Contains(t, lines.String(), `"err":"no route"`)
	require.Contains(t, lines.String(), `"err":"lost"`)
}
