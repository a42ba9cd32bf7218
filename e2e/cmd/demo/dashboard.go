package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"aegis.io/aegis/e2e/dashboard"
	"aegis.io/aegis/e2e/dashboard/picture"
	"aegis.io/aegis/e2e/testenv"
)

// dashboardWithin is how long the metrics have to reach Prometheus.
const dashboardWithin = 20 * time.Second

// quickSettings suit a Prometheus that scrapes each second.
func quickSettings(shown time.Duration) dashboard.Settings {
	return dashboard.Settings{
		Namespace: ".*", Job: ".*", Window: "15m", RateInterval: "30s", Range: fmt.Sprintf("%ds", int(shown.Seconds())),
	}
}

// scraped is how long the metrics of the last incident take to Prometheus, and what comes after it to be seen.
const scraped = 5 * time.Second

// checkDashboard is an error when a panel of the dashboard is empty after the story.
func checkDashboard(ctx context.Context, l *testenv.Environment, began time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, dashboardWithin)
	defer cancel()
	var missing []string
	for wait := scraped; ; wait = time.Second {
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		empty, err := dashboard.Empty(ctx, l.Monitoring.Query, quickSettings(time.Since(began)))
		if err == nil && len(empty) == 0 {
			return nil
		}
		if err == nil {
			missing = empty
		}
		if ctx.Err() != nil {
			return errors.Join(err, fmt.Errorf("panels of the dashboard without data:\n%s", strings.Join(missing, "\n")))
		}
	}
}

// drawDashboard draws the dashboard as it is after the story.
func drawDashboard(ctx context.Context, l *testenv.Environment, began time.Time, file string) (err error) {
	to, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("draw the dashboard: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	now := time.Now()
	return picture.Write(ctx, to, picture.Options{Source: l.Monitoring, From: began, To: now, Settings: quickSettings(now.Sub(began))})
}
