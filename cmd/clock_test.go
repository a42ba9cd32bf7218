package cmd

import (
	"fmt"
	"go/ast"
	"go/token"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// clocked are the packages that are given a clock, so that a replay can run them in virtual time. The deadline of a request to
// another server does not depend on that clock: context.WithTimeout is allowed.
func clocked() []string {
	return []string{"queue", "queue/source", "rules", "rules/prom", "sop", "sop/policy", "sop/playbook", "ticket"}
}

// wallClock are the names of package time that read the wall, or wait for it.
func wallClock() []string {
	return []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}
}

func TestNobodyReadsTheWallClock(t *testing.T) {
	t.Parallel()
	for _, name := range clocked() {
		readings, err := wallReadings(os.DirFS(".."), name)
		require.NoError(t, err)
		require.Empty(t, readings)
	}
}

func TestWallClockReadingsAreFound(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		source string
		want   []string
	}{
		"a call":                  {"import \"time\"\nvar a = time.Now()", []string{"p/a.go:3: time.Now"}},
		"a value":                 {"import \"time\"\nvar now = time.Now", []string{"p/a.go:3: time.Now"}},
		"another name":            {"import wall \"time\"\nvar a = wall.Tick(1)", []string{"p/a.go:3: time.Tick"}},
		"no name":                 {"import . \"time\"\nvar a = Now()", []string{"p/a.go:2: package time is imported without a name"}},
		"what reads no clock":     {"import \"time\"\nvar a = time.Unix(1, 0).Add(time.Second)", nil},
		"a clock":                 {"var clock interface{ Now() int }\nvar a = clock.Now()", nil},
		"two":                     {"import \"time\"\nfunc f() { time.Sleep(1); <-time.After(1) }", []string{"p/a.go:3: time.Sleep", "p/a.go:3: time.After"}},
		"a variable of that name": {"import wall \"time\"\nvar _ wall.Time\nvar time struct{ Now int }\nvar a = time.Now", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := fstest.MapFS{
				"p/a.go":      {Data: []byte("package p\n" + tt.source)},
				"p/a_test.go": {Data: []byte("package p; import \"time\"; var b = time.Now()")},
			}
			readings, err := wallReadings(tree, "p")
			require.NoError(t, err)
			require.Equal(t, tt.want, readings)
		})
	}
	_, err := wallReadings(fstest.MapFS{"p/a_test.go": {}}, "p")
	require.EqualError(t, err, "p: there is no source")
}

// wallReadings says where a package reads the wall clock outside its tests.
func wallReadings(root fs.FS, name string) ([]string, error) {
	positions, files, err := parsePackage(root, name)
	if err != nil {
		return nil, err
	}
	var readings []string
	for _, file := range files {
		for _, r := range wallReadingsOf(file) {
			at := positions.Position(r.at)
			readings = append(readings, fmt.Sprintf("%s:%d: %s", at.Filename, at.Line, r.what))
		}
	}
	return readings, nil
}

// wallReading is a place that reads the wall clock.
type wallReading struct {
	at   token.Pos
	what string
}

func wallReadingsOf(file *ast.File) []wallReading {
	var readings []wallReading
	local := ""
	for _, spec := range file.Imports {
		if imported, err := strconv.Unquote(spec.Path.Value); err != nil || imported != "time" {
			continue
		}
		local = "time"
		if spec.Name != nil {
			local = spec.Name.Name
		}
		if local == "." {
			readings = append(readings, wallReading{spec.Pos(), "package time is imported without a name"})
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		from, ok := selector.X.(*ast.Ident)
		if ok && local != "" && from.Name == local && slices.Contains(wallClock(), selector.Sel.Name) {
			readings = append(readings, wallReading{selector.Pos(), "time." + selector.Sel.Name})
		}
		return true
	})
	return readings
}
