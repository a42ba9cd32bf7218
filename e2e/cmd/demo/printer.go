package main

import (
	"fmt"
	"io"
	"time"

	"aegis.io/aegis/e2e/testenv"
)

// printer writes the story. What the terminal does not take is lost, and nothing else depends on it.
type printer struct{ out io.Writer }

func (t printer) line(format string, args ...any) {
	fmt.Fprintf(t.out, "  "+format+"\n", args...)
}

func (t printer) title(format string, args ...any) {
	fmt.Fprintf(t.out, "\n== "+format+"\n", args...)
}

// needs says what the demo takes, before it takes it.
func (t printer) needs() {
	t.title("What this takes")
	t.line("disk          4 GB: the Go modules of the control plane and the monitoring, their packages, and 0.7 GB of programs in bin/")
	t.line("memory        4 GB while it builds, 1 GB while it runs")
	t.line("the first run about 4000 Go packages are compiled: half an hour on 2 cores, some minutes on 16")
	t.line("later runs    a minute until it is up, and some minutes for the story")
	t.line("network       the Go module proxy, the first time")
}

func (t printer) event(after time.Duration, what, text string) {
	fmt.Fprintf(t.out, "  %6.1f s  %-12s %s\n", after.Seconds(), what, text)
}

func mark(ok bool) string {
	if ok {
		return "ok   "
	}
	return "FAIL "
}

func (t printer) summary(ended []result) {
	t.title("What happened")
	for _, r := range ended {
		t.line("%s %-7s %-32s %6.1f s  %-20s %s", mark(r.err == nil), r.scene.node, r.scene.condition, r.took.Seconds(), r.ending, r.stepped)
	}
}

// invitation says how to go on by hand.
func (t printer) invitation(l *testenv.Environment) {
	t.title("It stays up until you press Ctrl-C")
	t.line("kubectl       kubectl --kubeconfig %s get nodes", l.Cluster.KubeconfigAdmin)
	t.line("a ticket      kubectl --kubeconfig %s get node gpu-14 -o jsonpath='{.metadata.annotations.aegis\\.io/ticketing}'", l.Cluster.KubeconfigAdmin)
	t.line("why           curl %s/api/v1/nodes/gpu-14", l.Aegis[0].URL)
	t.line("Prometheus    %s/alerts", l.Monitoring.PrometheusURL)
	t.line("Alertmanager  %s/api/v2/alerts", l.Monitoring.AlertmanagerURLs[0])
	t.line("metrics       %s/metrics", l.Aegis[0].Telemetry)
	t.line("break a node  curl -X POST '%s/inject?node=gpu-01&fault=gpu-hung&fixedBy=reboot'", l.Sim.URL())
	t.line("all faults    curl %s/faults", l.Sim.URL())
	t.line("heal by hand  curl -X POST -H 'Content-Type: application/json' -d '{\"node\":\"gpu-02\",\"condition\":\"GpuHung\"}' %s/api/v1/heal", l.Aegis[0].URL)
}
