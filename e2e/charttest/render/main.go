// Command render renders a Helm chart as `helm template` does: render CHART RELEASE NAMESPACE, with values on the standard
// input and the manifests on the standard output. It is a module of its own: the tests' other programs are built with the
// versions that they choose, not with those of Helm.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

func main() { os.Exit(run()) }

func run() int {
	if err := render(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func render(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 3 {
		return errors.New("usage: render CHART RELEASE NAMESPACE < VALUES")
	}
	chart, err := loader.LoadDir(args[0])
	if err != nil {
		return err
	}
	given, err := loader.LoadValues(in)
	if err != nil {
		return err
	}
	release := common.ReleaseOptions{Name: args[1], Namespace: args[2], IsInstall: true}
	values, err := util.ToRenderValues(chart, given, release, common.DefaultCapabilities)
	if err != nil {
		return err
	}
	// Strict: a value that values.yaml does not have is a mistake of a template.
	files, err := engine.Engine{Strict: true}.RenderWithContext(context.Background(), chart, values)
	if err != nil {
		return err
	}
	return write(files, out)
}

func write(files map[string]string, out io.Writer) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if filepath.Ext(name) != ".yaml" || strings.TrimSpace(files[name]) == "" {
			continue
		}
		if _, err := fmt.Fprintf(out, "---\n# Source: %s\n%s\n", name, strings.TrimSpace(files[name])); err != nil {
			return err
		}
	}
	return nil
}
