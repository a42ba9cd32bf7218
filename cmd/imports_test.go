package cmd

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

const modulePath = "aegis.io/aegis"

// directions says which packages of this module each package may import. A package that is not in it is not allowed to
// exist: whoever adds one decides where it stands.
func directions() map[string][]string {
	table := map[string][]string{
		"election":     {},
		"handler":      {"rules", "rules/prom", "strict", "ticket", "sop/policy", "web"},
		"rules":        {"rules/prom", "strict"},
		"rules/prom":   {},
		"strict":       {},
		"web":          {"strict"},
		"coverage":     {"rules", "rules/prom", "queue/source"},
		"queue":        {"rules", "rules/prom", "queue/source"},
		"queue/source": {"rules/prom"},
		"sop":          {"rules/prom", "ticket", "jobs", "jobs/protocol", "sop/policy"},
		"sop/policy":   {"rules/prom", "ticket"},
		// It stands on what is exported alone, as a plugin from outside would.
		"sop/playbook": {"sop", "sop/policy", "rules/prom", "ticket"},
		// The fake cluster of the tests. No package that is part of the product imports it, so it is in no list.
		"sop/soptest": {"rules/prom", "queue/source", "jobs", "jobs/protocol"},
		"ticket":      {},
		"jobs":        {"jobs/protocol", "strict"},
		"jobs/host":   {"jobs/protocol", "strict"},
		// What the step Jobs and the host agree on. It holds nothing that only one side needs.
		"jobs/protocol": {},
	}
	domains := []string{
		"node", "memory", "disk", "gpfs", "gpu", "ib", "roce", "peermem", "baseboard",
	}
	var plugins []string
	for _, domain := range domains {
		plugins = append(plugins, "sop/"+domain)
		table["sop/"+domain] = []string{"sop", "sop/playbook", "rules/prom", "ticket"}
	}
	table["sop/procedures"] = append(plugins, "sop", "sop/playbook", "sop/policy")
	// A site with one node, for the tests of procedures. As the fake cluster, it is no part of the product.
	table["sop/sitetest"] = []string{
		"sop", "sop/policy", "sop/procedures", "sop/soptest", "rules", "rules/prom", "queue", "queue/source", "ticket", "jobs", "jobs/protocol",
	}
	table["cmd/aegis-op"] = []string{"jobs/host"}
	// The program knows no procedure but those that its main function passes.
	table["cmd/aegis"] = []string{"cmd", "sop/procedures"}
	table["cmd"] = []string{
		"sop", "sop/policy", "handler", "rules", "rules/prom", "strict", "web", "queue", "queue/source", "ticket",
		"jobs", "jobs/host", "election", "coverage",
	}
	return table
}

func TestImportDirections(t *testing.T) {
	t.Parallel()
	problems, err := forbiddenImports(os.DirFS(".."), directions())
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestImportDirectionsCoverTheModule(t *testing.T) {
	t.Parallel()
	packages, err := importsOf(os.DirFS(".."))
	require.NoError(t, err)
	for _, name := range []string{"jobs", "rules/prom", "sop"} {
		require.Contains(t, packages, name, "the walk must not miss a package")
	}
	require.NotEmpty(t, packages["sop"], "the parser must not miss the imports")
}

func TestForbiddenImportsAreFound(t *testing.T) {
	t.Parallel()
	source := func(name string, imports ...string) *fstest.MapFile {
		var text strings.Builder
		fmt.Fprintf(&text, "package %s\n", name)
		for _, i := range imports {
			fmt.Fprintf(&text, "import _ %q\n", i)
		}
		return &fstest.MapFile{Data: []byte(text.String())}
	}
	tests := map[string]struct {
		tree fstest.MapFS
		want []string
	}{
		"allowed": {
			tree: fstest.MapFS{
				"queue/queue.go":    source("queue", "context", modulePath+"/rules/prom", "k8s.io/api/core/v1"),
				"cmd/aegis/main.go": source("main", modulePath+"/sop/procedures", modulePath+"/cmd"),
			},
		},
		"against the direction": {
			tree: fstest.MapFS{"rules/load.go": source("rules", modulePath+"/queue")},
			want: []string{"rules/load.go: package rules must not import queue"},
		},
		"the product imports the fake cluster": {
			tree: fstest.MapFS{"sop/limits.go": source("sop", modulePath+"/sop/soptest")},
			want: []string{"sop/limits.go: package sop must not import sop/soptest"},
		},
		"the fake cluster imports what it tests": {
			tree: fstest.MapFS{"sop/soptest/node.go": source("soptest", modulePath+"/sop")},
			want: []string{"sop/soptest/node.go: package sop/soptest must not import sop"},
		},
		"one plugin imports another": {
			tree: fstest.MapFS{"sop/gpu/hung.go": source("gpu", modulePath+"/sop", modulePath+"/sop/node")},
			want: []string{"sop/gpu/hung.go: package sop/gpu must not import sop/node"},
		},
		"the dispatcher imports a plugin": {
			tree: fstest.MapFS{"sop/table.go": source("sop", modulePath+"/sop/gpu")},
			want: []string{"sop/table.go: package sop must not import sop/gpu"},
		},
		"nobody imports the command": {
			tree: fstest.MapFS{"ticket/ticket.go": source("ticket", modulePath+"/cmd")},
			want: []string{"ticket/ticket.go: package ticket must not import cmd"},
		},
		"the command imports a procedure": {
			tree: fstest.MapFS{"cmd/app.go": source("cmd", modulePath+"/sop/procedures")},
			want: []string{"cmd/app.go: package cmd must not import sop/procedures"},
		},
		"a package that is not in the table": {
			tree: fstest.MapFS{"utils/utils.go": source("utils"), "handler/new.go": source("handler", modulePath+"/utils")},
			want: []string{
				"handler/new.go: package handler must not import utils",
				"utils/utils.go: package utils is not in the table of import directions",
			},
		},
		"the module's own root": {
			tree: fstest.MapFS{"doc.go": source("aegis"), "jobs/run.go": source("jobs", modulePath)},
			want: []string{
				"doc.go: package . is not in the table of import directions",
				"jobs/run.go: package jobs must not import .",
			},
		},
		"every file of a package": {
			tree: fstest.MapFS{
				"jobs/a.go": source("jobs", modulePath+"/ticket"),
				"jobs/b.go": source("jobs", modulePath+"/ticket"),
			},
			want: []string{"jobs/a.go: package jobs must not import ticket", "jobs/b.go: package jobs must not import ticket"},
		},
		"another module, tests, and what the go command ignores": {
			tree: fstest.MapFS{
				"e2e/go.mod":           {Data: []byte("module " + modulePath + "/e2e\n")},
				"e2e/demo/demo.go":     source("demo", modulePath+"/queue"),
				"queue/queue_test.go":  source("queue", modulePath+"/handler"),
				"rules/testdata/x.go":  source("x", modulePath+"/handler"),
				".cache/mod/module.go": source("module", modulePath+"/handler"),
			},
		},
		"a module whose name begins like ours": {
			tree: fstest.MapFS{"jobs/a.go": source("jobs", modulePath+"-tools/queue")},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problems, err := forbiddenImports(tc.tree, directions())
			require.NoError(t, err)
			require.ElementsMatch(t, tc.want, problems)
		})
	}
}

func TestImportsOfUnreadableSource(t *testing.T) {
	t.Parallel()
	_, err := forbiddenImports(fstest.MapFS{"jobs/a.go": {Data: []byte("no Go")}}, directions())
	require.ErrorContains(t, err, "jobs/a.go")
}

// forbiddenImports says which files under root belong to a package that is not in the table, or import what its package
// must not.
func forbiddenImports(root fs.FS, table map[string][]string) ([]string, error) {
	packages, err := importsOf(root)
	if err != nil {
		return nil, err
	}
	var problems []string
	for name, sources := range packages {
		allowed, known := table[name]
		for file, imports := range sources {
			if !known {
				problems = append(problems, fmt.Sprintf("%s: package %s is not in the table of import directions", file, name))
				continue
			}
			for _, i := range imports {
				if !slices.Contains(allowed, i) {
					problems = append(problems, fmt.Sprintf("%s: package %s must not import %s", file, name, i))
				}
			}
		}
	}
	slices.Sort(problems)
	return problems, nil
}

// importsOf returns what each file of each package under root imports of this module. Packages are named by their folder.
func importsOf(root fs.FS) (map[string]map[string][]string, error) {
	packages := make(map[string]map[string][]string)
	err := fs.WalkDir(root, ".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && foreign(root, file):
			return fs.SkipDir
		case d.IsDir() || path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go"):
			return nil
		}
		imports, err := ownImports(root, file)
		if err != nil {
			return err
		}
		name := path.Dir(file)
		if packages[name] == nil {
			packages[name] = make(map[string][]string)
		}
		packages[name][file] = imports
		return nil
	})
	return packages, err
}

// foreign reports whether a folder is not part of the module: the go command ignores it, or it is a module of its own.
func foreign(root fs.FS, dir string) bool {
	if dir == "." {
		return false
	}
	base := path.Base(dir)
	if base == "testdata" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return true
	}
	_, err := fs.Stat(root, path.Join(dir, "go.mod"))
	return err == nil
}

// ownImports returns the packages of this module that the file imports, by their folders.
func ownImports(root fs.FS, file string) ([]string, error) {
	source, err := fs.ReadFile(root, file)
	if err != nil {
		return nil, err
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), file, source, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var own []string
	for _, spec := range parsed.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: import %s: %w", file, spec.Path.Value, err)
		}
		if name == modulePath {
			own = append(own, ".")
		} else if folder, ok := strings.CutPrefix(name, modulePath+"/"); ok {
			own = append(own, folder)
		}
	}
	return own, nil
}
