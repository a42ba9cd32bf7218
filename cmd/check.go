package cmd

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"aegis.io/aegis/handler"
	"aegis.io/aegis/jobs"
	"aegis.io/aegis/jobs/host"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/strict"
	"aegis.io/aegis/web"
)

// check reads the files without any cluster and says everything that is wrong with them. An aegis.yaml brings the files
// that it names with it, and a web configuration its certificates. Of several conditions.yaml files, each later one overrides
// the earlier ones.
func check(files []string, stdout io.Writer, procedures sop.Procedures) error {
	if len(files) == 0 {
		return usageErrorf("check: no file named")
	}
	var o rules.Options
	configs := make(map[string]config)
	var errs []error
	for _, file := range files {
		kind, err := kindOf(file)
		switch {
		case err != nil:
			errs = append(errs, err)
		case kind == kindConfig:
			c, err := checkConfig(file)
			errs = append(errs, err)
			o.Files, o.Preset = append(o.Files, c.Conditions...), cmp.Or(c.knownPreset(), o.Preset)
			configs[file] = c
		case kind == kindWeb:
			errs = append(errs, web.CheckFile(file))
		case kind == kindProfile:
			errs = append(errs, host.CheckProfile(file))
		case kind == kindJob:
			errs = append(errs, jobs.CheckFile(file))
		default:
			o.Files = append(o.Files, file)
		}
	}
	catalogue, err := loadCatalogue(o, procedures)
	if err == nil {
		for _, file := range slices.Sorted(maps.Keys(configs)) {
			errs = append(errs, checkSources(file, configs[file], catalogue))
		}
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return &usageError{err}
	}
	if err := tellWideLimits(configs, stdout); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if err := tellExecutables(catalogue, stdout); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if _, err := fmt.Fprintf(stdout, "ok: %d files, %d conditions\n", len(files), len(catalogue.Conditions())); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return tellPreset(stdout, catalogue, o.Preset)
}

// tellPreset says which conditions the preset lets Aegis act on, and which it would if no file set another mode.
func tellPreset(stdout io.Writer, catalogue *rules.Catalogue, name string) error {
	if name == "" {
		return nil
	}
	p, err := rules.LoadPreset(name)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	on, held := catalogue.TurnedOn(p)
	text := fmt.Sprintf("preset %s: %d conditions in mode auto: %s\n", name, len(on), strings.Join(on, ", "))
	if len(held) > 0 {
		text += fmt.Sprintf("preset %s: %d conditions that a file keeps in another mode: %s\n", name, len(held), strings.Join(held, ", "))
	}
	if _, err := io.WriteString(stdout, text); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return nil
}

// kind is what a file configures.
type kind int

const (
	kindConditions kind = iota
	kindConfig
	kindWeb
	kindProfile
	kindJob
)

// kindOf tells the kinds of files apart by their top-level keys. A file that is not YAML is left to the loader of conditions, which says
// where it is broken.
func kindOf(file string) (kind, error) {
	raw, err := strict.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	root, ok := strict.NewDecoder(file).Document(raw, "")
	if !ok {
		return kindConditions, nil
	}
	has := func(key string) bool { return strict.Field(root, key) != nil }
	listed := strict.Field(root, "conditions")
	switch {
	case has("apiVersion") && has("kind"):
		return kindJob, nil
	case slices.ContainsFunc(configKeys(), has), listed != nil && listsNames(listed):
		return kindConfig, nil
	case slices.ContainsFunc(web.Keys(), has):
		return kindWeb, nil
	case slices.ContainsFunc(host.ProfileFields(), has):
		return kindProfile, nil
	}
	return kindConditions, nil
}

// configKeys returns the fields that an aegis.yaml alone has at its top. A file of conditions has the field conditions as well.
func configKeys() []string {
	var keys []string
	for _, f := range reflect.VisibleFields(reflect.TypeFor[config]()) {
		if name := f.Tag.Get("yaml"); name != "conditions" {
			keys = append(keys, name)
		}
	}
	return keys
}

// listsNames reports whether the node is a list of file names.
func listsNames(n *yaml.Node) bool {
	return n.Kind == yaml.SequenceNode && len(n.Content) > 0 && n.Content[0].Kind == yaml.ScalarNode
}

// tellWideLimits warns of limits of pools that those of the cluster make vain.
func tellWideLimits(configs map[string]config, stdout io.Writer) error {
	for _, file := range slices.Sorted(maps.Keys(configs)) {
		for _, warning := range configs[file].wideLimits() {
			if _, err := fmt.Fprintf(stdout, "%s: warning: %s\n", file, warning); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkConfig checks an aegis.yaml and returns it.
func checkConfig(file string) (config, error) {
	c, err := loadConfig(file)
	errs := []error{err}
	for _, t := range c.Auth.Tokens {
		if t.File != "" {
			errs = append(errs, handler.TokenFile{File: t.File}.Check())
		}
	}
	_, templatesErr := jobs.LoadTemplates(c.Jobs.Templates)
	errs = append(errs, templatesErr)
	// What is wrong with the conditions is told where all of them are loaded.
	options := rules.Options{Files: c.Conditions, Mode: c.Mode, Preset: c.knownPreset()}
	if catalogue, unknown := rules.Load(options); err == nil && unknown == nil {
		if text := c.nothingHeals(catalogue); text != "" {
			errs = append(errs, fmt.Errorf("%s: %s", file, text))
		}
	}
	return c, errors.Join(errs...)
}

// loadCatalogue reads the catalogue and makes sure that every procedure it names exists, and is told what it needs.
func loadCatalogue(o rules.Options, procedures sop.Procedures) (*rules.Catalogue, error) {
	catalogue, err := rules.Load(o)
	if err != nil {
		return nil, err
	}
	return catalogue, errors.Join(catalogue.UnknownSOPs(procedures.Names()), checkRemediations(catalogue, procedures))
}

func newAuth(c config) (*handler.Auth, error) {
	o := handler.AuthOptions{AllowLoopback: c.Auth.AllowLoopback}
	for _, t := range c.Auth.Tokens {
		o.Tokens = append(o.Tokens, handler.TokenFile{File: t.File, Roles: t.Roles})
	}
	for _, g := range c.Auth.Users {
		o.Users = append(o.Users, handler.Grant{Name: g.Name, Roles: g.Roles})
	}
	for _, g := range c.Auth.Certificates {
		o.Certificates = append(o.Certificates, handler.Grant{Name: g.Name, Roles: g.Roles})
	}
	return handler.NewAuth(o)
}
