package cmd

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"aegis.io/aegis/jobs/host"
	"aegis.io/aegis/rules"
	"aegis.io/aegis/rules/prom"
	"aegis.io/aegis/sop"
)

// resetGPU is a remedy that is a step of its own in procedures, because it counts as destructive.
const resetGPU = "ResetGPU"

// checkRemediations makes sure that each condition names an operation if, and only if, its procedure carries one out, and that
// the procedure does to the node what a built-in operation needs.
func checkRemediations(c *rules.Catalogue, procedures sop.Procedures) error {
	return c.Object(func(c rules.Condition) string {
		how := sop.RemediationOf(procedures, c.SOP)
		o, named := operationOf(c.Policy)
		switch {
		case c.Policy.Remedy != "" && c.Policy.Repair != "":
			return "policy has both a remedy and a repair, set one of them to \"\""
		case named && how == sop.RemediatesNothing:
			return fmt.Sprintf("the procedure %q carries out no remedy or repair that the policy names, use %s", c.SOP, remediating(procedures))
		case !named && how != sop.RemediatesNothing:
			return fmt.Sprintf("the procedure %s needs the name of a remedy or a repair in the policy, such as remedy: RestartKubelet", c.SOP)
		case o.Name == resetGPU:
			return "ResetGPU is destructive and is no remedy to name, use the procedure gpu/reset"
		}
		return unprepared(o, how, c.Policy.Workload)
	})
}

// operationOf describes what the policy names, if it names anything.
func operationOf(p prom.Policy) (host.Operation, bool) {
	switch {
	case p.Remedy != "":
		return host.Remedy(p.Remedy), true
	case p.Repair != "":
		return host.Repair(p.Repair), true
	}
	return host.Operation{}, false
}

// remediating lists the procedures that carry out what a policy names.
func remediating(procedures sop.Procedures) string {
	names := slices.DeleteFunc(procedures.Names(), func(name string) bool {
		return sop.RemediationOf(procedures, name) == sop.RemediatesNothing
	})
	return strings.Join(names, " or ")
}

// unprepared says what the procedure does not do to the node that the built-in operation needs.
func unprepared(o host.Operation, how sop.Remediation, workload prom.Workload) string {
	empty := workload == prom.WorkloadDrain || workload == prom.WorkloadWaitIdle
	switch {
	case o.Needs == "":
	case how == sop.RemediatesInPlace:
		return fmt.Sprintf("%s needs a cordoned node, which the procedure leaves in service", o.Name)
	case o.Needs == "drain" && !empty:
		return fmt.Sprintf("%s needs an empty node, set workload to drain or waitIdle", o.Name)
	case o.Needs == "drainGPU" && !empty && workload != prom.WorkloadDrainGPU:
		return fmt.Sprintf("%s needs the GPUs to be free, set workload to drainGPU, drain or waitIdle", o.Name)
	}
	return ""
}

// tellExecutables says which files the nodes must have: nothing but a node can tell whether they are there.
func tellExecutables(c *rules.Catalogue, stdout io.Writer) error {
	var errs []error
	for _, condition := range c.Conditions() {
		o, named := operationOf(condition.Policy)
		if !named || o.BuiltIn {
			continue
		}
		_, err := fmt.Fprintf(stdout, "note: condition %s runs %s, which each of its nodes must have\n", condition.Name, o.Executable)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
