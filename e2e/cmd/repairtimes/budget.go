package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	// page is what is published of the times, below the repository.
	page = "docs/time-to-repair.md"
	// measured is what the page tells of the last measurement.
	measuredFile = "e2e/cmd/repairtimes/measured.yaml"
)

// linked is the link that begins the row of a condition.
var linked = regexp.MustCompile(`^\| \[([A-Za-z0-9]+)\]\(conditions/`)

// publishedBudgets reads from the page how long each stage of the conditions is expected to take. A cell without a time has no budget.
func publishedBudgets(repository string) (map[string]map[stage]time.Duration, error) {
	raw, err := os.ReadFile(filepath.Join(repository, page))
	if err != nil {
		return nil, fmt.Errorf("read budgets: %w", err)
	}
	all := make(map[string]map[stage]time.Duration)
	for line := range strings.Lines(string(raw)) {
		name := linked.FindStringSubmatch(line)
		// What was measured comes after what is expected.
		if name == nil || all[name[1]] != nil {
			continue
		}
		budgets := make(map[stage]time.Duration)
		for i, cell := range strings.Split(strings.Trim(line, "| \n"), " | ")[1:] {
			expected, _, _ := strings.Cut(cell, " / ")
			if d, err := time.ParseDuration(expected); err == nil && i+1 < len(stages()) {
				budgets[stages()[i+1]] = d
			}
		}
		all[name[1]] = budgets
	}
	return all, nil
}

// check says which stages took longer than the page lets a reader expect.
func check(repository string, all []*course) error {
	budgets, err := publishedBudgets(repository)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range all {
		if len(budgets[c.scene.condition]) == 0 {
			errs = append(errs, fmt.Errorf("%s has no row in %s", c.scene.condition, page))
		}
		var before, by time.Duration
		for _, s := range stages()[1:] {
			budget, bounded := budgets[c.scene.condition][s]
			by += budget
			if _, reached := c.at[s]; !reached {
				continue
			}
			took := c.since(s) - before
			before = c.since(s)
			// A stage may take what one before it has left.
			if bounded && took > budget && before > by {
				errs = append(errs, fmt.Errorf("%s took %s to %s, of %s", c.scene.condition, took, s, budget))
			}
		}
	}
	return errors.Join(errs...)
}

// record writes what the page tells of the measurement.
func record(repository, hardware string, all []*course) error {
	file := struct {
		Date       string                      `yaml:"date"`
		Hardware   string                      `yaml:"hardware"`
		BootTime   string                      `yaml:"bootTime"`
		Conditions map[string]map[stage]string `yaml:"conditions"`
	}{time.Now().UTC().Format(time.DateOnly), hardware, bootTime.String(), make(map[string]map[stage]string)}
	if hardware == "" {
		file.Hardware = fmt.Sprintf("%d cores", runtime.NumCPU())
	}
	for _, c := range all {
		reached := make(map[stage]string)
		for _, s := range stages()[1:] {
			if _, ok := c.at[s]; ok {
				reached[s] = c.since(s).String()
			}
		}
		file.Conditions[c.scene.condition] = reached
	}
	text, err := yaml.Marshal(file)
	if err != nil {
		return fmt.Errorf("record: %w", err)
	}
	text = append([]byte("# What `make times` has measured: how long after the fault each stage was reached.\n"), text...)
	if err := os.WriteFile(filepath.Join(repository, measuredFile), text, 0o600); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}
