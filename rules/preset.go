package rules

import (
	"bytes"
	"embed"
	"fmt"
	"path"
	"strings"

	"go.yaml.in/yaml/v3"

	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/strict"
)

// presets holds a file for each preset, named after it.
//
//go:embed catalogue/presets/*.yaml
var presets embed.FS

const (
	presetsDir = embeddedDir + "/presets"
	presetExt  = ".yaml"
)

// Preset is a reviewed list of conditions that Aegis acts on by itself.
type Preset struct {
	Name string `yaml:"-"`
	// Summary says in a sentence what is in it.
	Summary    string
	Conditions []PresetCondition
}

// PresetCondition is a condition of a preset, and why it is one.
type PresetCondition struct {
	Name   string
	Kind   PresetKind
	Reason string
}

// PresetKind is why a condition may be repaired with nobody watching.
type PresetKind string

// The kinds.
const (
	PresetNote     PresetKind = "note"     // It is only noted, or told to a team.
	PresetKeep     PresetKind = "keep"     // The pods stay.
	PresetWaitIdle PresetKind = "waitIdle" // Aegis waits until no pod runs.
	PresetCertain  PresetKind = "certain"  // The fault is certain, and no workload survives it.
)

// Presets returns the names of the presets, sorted.
func Presets() []string {
	files, err := presets.ReadDir(presetsDir)
	if err != nil {
		return nil // The folder is part of the program.
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), presetExt))
	}
	return names
}

// LoadPreset returns the preset of that name.
func LoadPreset(name string) (Preset, error) {
	raw, err := presets.ReadFile(path.Join(presetsDir, name+presetExt))
	if err != nil {
		return Preset{}, fmt.Errorf("unknown preset %s, %s", strict.Quote(name), strict.Hint(name, Presets()))
	}
	p := Preset{Name: name}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(&p); err != nil {
		return Preset{}, fmt.Errorf("preset %s: %w", name, err)
	}
	return p, nil
}

// turnOn sets the mode of the conditions of the preset, unless the defaults of a file set one. It comes before the conditions of those
// files, whose modes win.
func (l *loader) turnOn() {
	if l.explicit {
		return
	}
	for _, c := range l.preset.Conditions {
		if e := l.byName[c.Name]; e != nil {
			e.Policy.Mode = prom.ModeAuto
		}
	}
}

// TurnedOn returns the conditions of the preset that are in mode auto, and those that a file keeps in another one, sorted by urgency.
func (c *Catalogue) TurnedOn(p Preset) (on, held []string) {
	of := make(map[string]bool)
	for _, listed := range p.Conditions {
		of[listed.Name] = true
	}
	for _, e := range c.entries {
		switch {
		case !of[e.Name]:
		case e.Policy.Mode == prom.ModeAuto:
			on = append(on, e.Name)
		default:
			held = append(held, e.Name)
		}
	}
	return on, held
}
