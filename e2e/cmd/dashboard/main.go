// Command dashboard writes the Grafana dashboard of the chart. With -picture it draws what the dashboard shows of a Prometheus instead.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"aegis.io/aegis/e2e/dashboard"
	"aegis.io/aegis/e2e/dashboard/picture"
	"aegis.io/aegis/e2e/monitoring"
)

func main() {
	file := flag.String("write", filepath.Join("..", "charts", "aegis", "dashboards", "aegis.json"), "`file` to write the dashboard to")
	drawn := flag.String("picture", "", "`file` to draw a picture to, as PNG")
	prometheus := flag.String("prometheus", "http://127.0.0.1:9090", "`URL` of the Prometheus to draw")
	last := flag.Duration("last", time.Hour, "how much of the past to draw")
	flag.Parse()
	err := error(nil)
	if *drawn == "" {
		err = write(*file)
	} else {
		err = draw(*drawn, *prometheus, *last)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

func write(file string) error {
	text, err := dashboard.JSON()
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, text, 0o644); err != nil { //nolint:gosec // The chart is for everybody to read.
		return fmt.Errorf("write the dashboard: %w", err)
	}
	return nil
}

func draw(file, prometheus string, last time.Duration) (err error) {
	to, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("draw: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	now := time.Now()
	return picture.Write(context.Background(), to, picture.Options{
		Source: monitoring.Attach(prometheus), From: now.Add(-last), To: now,
		Settings: dashboard.Settings{Namespace: ".*", Job: ".*", Window: "1h", RateInterval: "2m"},
	})
}
