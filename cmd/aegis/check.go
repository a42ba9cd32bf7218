package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"go.yaml.in/yaml/v3"

	"aegis.io/aegis/handler"
	"aegis.io/aegis/jobs"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/strict"
)

// check reads the files without any cluster and says everything that is wrong with them. An aegis.yaml brings the files
// that it names with it; all others are conditions.yaml files, each later one overriding the earlier ones.
func check(files []string, stdout io.Writer) error {
	if len(files) == 0 {
		return usageErrorf("check: no file named")
	}
	var conditions []string
	var errs []error
	for _, file := range files {
		ours, err := isConfig(file)
		switch {
		case err != nil:
			errs = append(errs, err)
		case ours:
			named, err := checkConfig(file)
			errs = append(errs, err)
			conditions = append(conditions, named...)
		default:
			conditions = append(conditions, file)
		}
	}
	catalogue, err := loadCatalogue(rules.Options{Files: conditions})
	if err := errors.Join(append(errs, err)...); err != nil {
		return &usageError{err}
	}
	if _, err := fmt.Fprintf(stdout, "ok: %d files, %d conditions\n", len(files), len(catalogue.Conditions())); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return nil
}

// isConfig tells an aegis.yaml from a conditions.yaml by their top-level keys. A file that is not YAML is left to the
// loader of conditions, which says where it is broken.
func isConfig(file string) (bool, error) {
	raw, err := strict.ReadFile(file)
	if err != nil {
		return false, fmt.Errorf("%s: %w", file, err)
	}
	root, ok := strict.NewDecoder(file).Document(raw, "")
	if !ok {
		return false, nil
	}
	if listed := strict.Field(root, "conditions"); listed != nil && listsNames(listed) {
		return true, nil
	}
	own := []string{"prometheus", "alertmanagers", "jobs", "leaderElection", "pools", "auth", "mode", "cluster", "paused"}
	return slices.ContainsFunc(own, func(key string) bool { return strict.Field(root, key) != nil }), nil
}

// listsNames reports whether the node is a list of file names.
func listsNames(n *yaml.Node) bool {
	return n.Kind == yaml.SequenceNode && len(n.Content) > 0 && n.Content[0].Kind == yaml.ScalarNode
}

// checkConfig checks an aegis.yaml and returns the conditions files that it names.
func checkConfig(file string) ([]string, error) {
	c, err := loadConfig(file)
	_, authErr := newAuth(c)
	_, jobsErr := jobs.LoadTemplates(c.Jobs.Templates)
	return c.Conditions, errors.Join(err, authErr, jobsErr)
}

// loadCatalogue reads the catalogue and makes sure that every procedure it names exists.
func loadCatalogue(o rules.Options) (*rules.Catalogue, error) {
	catalogue, err := rules.Load(o)
	if err != nil {
		return nil, err
	}
	return catalogue, catalogue.UnknownSOPs(procedures().Names())
}

func newAuth(c config) (*handler.Auth, error) {
	var files []handler.TokenFile
	for _, t := range c.Auth.Tokens {
		files = append(files, handler.TokenFile{File: t.File, Roles: t.Roles})
	}
	return handler.NewAuth(files)
}
