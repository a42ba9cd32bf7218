package sop

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The bridge is what plugins see of a run. What carries the steps out has types of its own, so that the bridge stays as small as this.
const (
	maxBridgeFields  = 12
	maxBridgeMethods = 50
)

func TestBridgeStaysSmall(t *testing.T) {
	t.Parallel()
	fields, methods := sizeOf(t, "ApiBridge")
	require.Positive(t, fields, "the walk must not miss the type")
	require.LessOrEqual(t, fields, maxBridgeFields)
	require.Greater(t, methods, 30, "the walk must not miss the methods")
	require.LessOrEqual(t, methods, maxBridgeMethods)
}

// sizeOf counts the fields and the methods of a type of this package, tests aside.
func sizeOf(t *testing.T, name string) (fields, methods int) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		parsed, err := parser.ParseFile(token.NewFileSet(), file, source, 0)
		require.NoError(t, err)
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.TypeSpec:
				if s, ok := n.Type.(*ast.StructType); ok && n.Name.Name == name {
					fields += countFields(s)
				}
			case *ast.FuncDecl:
				if receiver(n) == name {
					methods++
				}
			}
			return true
		})
	}
	return fields, methods
}

// countFields counts an embedded type as one field.
func countFields(s *ast.StructType) int {
	n := 0
	for _, f := range s.Fields.List {
		n += max(1, len(f.Names))
	}
	return n
}

// receiver names the type that a method is of. Empty for a function.
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	of := f.Recv.List[0].Type
	if star, ok := of.(*ast.StarExpr); ok {
		of = star.X
	}
	name, ok := of.(*ast.Ident)
	if !ok {
		return ""
	}
	return name.Name
}
