package charttest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"aegis.io/aegis/e2e/build"
)

const (
	bin = "../../bin"
	// renderer renders the chart as Helm does.
	renderer = bin + "/helm-render"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	_, err := build.Run(context.Background(), build.Options{
		Out:  os.Stderr,
		Only: []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "promtool"},
	})
	if err == nil {
		err = buildRenderer()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func buildRenderer() error {
	cmd := exec.Command("go", "build", "-C", "render", "-buildvcs=false", "-o", "../"+renderer, ".")
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the renderer: %w\n%s", err, out)
	}
	return nil
}
