package main

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

const product = "../../.."

// A mutation that does not compile is never tried, and so proves nothing.
func TestMutationsCompile(t *testing.T) {
	t.Parallel()
	c := newCompiler(t)
	for _, m := range mutations() {
		t.Run(m.name, func(t *testing.T) { require.NoError(t, c.check(t, m)) })
	}
}

func TestMutationsThatDoNotCompileAreFound(t *testing.T) {
	t.Parallel()
	m := mutation{"a variable that nobody uses", honest, "sop/step_cordon.go", " && blocks(s) {", " && false {"}
	require.ErrorContains(t, newCompiler(t).check(t, m), "declared and not used: blocks")
}

// compiler checks packages of the product against the compiled ones that they import.
type compiler struct {
	positions *token.FileSet
	imports   types.Importer
}

// compiled says where the compiled packages are that any package of the product imports.
var compiled = sync.OnceValues(func() (map[string]string, error) {
	list := exec.Command("go", "list", "-export", "-deps", "-f", "{{if .Export}}{{.ImportPath}} {{.Export}}{{end}}", "./sop/...", "./queue/...", "./jobs", "./election")
	list.Dir, list.Stderr = product, os.Stderr
	text, err := list.Output()
	files := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		files[name] = file
	}
	return files, err
})

func newCompiler(t *testing.T) *compiler {
	t.Helper()
	files, err := compiled()
	require.NoError(t, err)
	positions := token.NewFileSet()
	open := func(name string) (io.ReadCloser, error) { return os.Open(files[name]) }
	return &compiler{positions, importer.ForCompiler(positions, "gc", open)}
}

// check compiles the package of the mutation as far as its types.
func (c *compiler) check(t *testing.T, m mutation) error {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(product, filepath.Dir(m.file), "*.go"))
	require.NoError(t, err)
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		var text any // Nil stands for what the file has.
		if filepath.Base(name) == filepath.Base(m.file) {
			text, err = m.apply(product)
			require.NoError(t, err)
		}
		file, err := parser.ParseFile(c.positions, name, text, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files = append(files, file)
	}
	_, err = (&types.Config{Importer: c.imports}).Check(filepath.Dir(m.file), c.positions, files, nil)
	return err
}
