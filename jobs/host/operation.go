package host

import (
	"context"
	"path"
	"time"
)

// Operation describes a remedy or a repair.
type Operation struct {
	// Name is spelt as it is built in, or as it was asked for.
	Name string
	// BuiltIn is false for an executable of the site.
	BuiltIn bool
	// Needs says what has to be done to the node before: nothing where it is empty, else cordon, drainGPU or drain. What an executable
	// of a site needs, only the site knows.
	Needs string
	// Executable is the file on the host that is run, or that is run in place of what is built in. Empty where none is.
	Executable string
}

// Remedy describes the remedy of the name.
func Remedy(name string) Operation {
	if b, ok := named(builtinRemedies(), name); ok {
		return Operation{Name: b.name, BuiltIn: true, Needs: b.needs}
	}
	return Operation{Name: name, Executable: path.Join(remediesDir, name)}
}

// Repair describes the repair of the name.
func Repair(name string) Operation {
	file := path.Join(repairsDir, name)
	if b, ok := named(builtinRepairs(), name); ok {
		return Operation{Name: b.name, BuiltIn: true, Needs: b.needs, Executable: file}
	}
	return Operation{Name: name, Executable: file}
}

// unavailable makes a finding one of an operation that the host does not have, or must not run: it is refused.
func unavailable(f finding) finding {
	f.refusals, f.detail = []string{f.detail}, "refused: "+f.detail
	return f
}

// runOperation runs the executable of the site, which takes a device and so long at most. Absent is what is found without one.
func (h *host) runOperation(ctx context.Context, file, device string, timeout time.Duration, absent finding) finding {
	err := h.siteExecutable(file)
	switch {
	case isAbsent(err):
		return unavailable(absent)
	case err != nil:
		return unavailable(broken("%v", err))
	}
	return h.runSite(ctx, file, timeout, true, "AEGIS_DEVICE="+device)
}
