package cmd

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strings"
)

// parsePackage parses the sources of a package, without its tests, in the order of their names. A package without sources is an
// error, so that no test of them passes because it has looked at nothing.
func parsePackage(root fs.FS, name string) (*token.FileSet, []*ast.File, error) {
	names, err := fs.Glob(root, path.Join(name, "*.go"))
	if err != nil {
		return nil, nil, err
	}
	positions := token.NewFileSet()
	var parsed []*ast.File
	for _, file := range names {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := fs.ReadFile(root, file)
		if err != nil {
			return nil, nil, err
		}
		f, err := parser.ParseFile(positions, file, source, 0)
		if err != nil {
			return nil, nil, err
		}
		parsed = append(parsed, f)
	}
	if len(parsed) == 0 {
		return nil, nil, fmt.Errorf("%s: there is no source", name)
	}
	return positions, parsed, nil
}
