package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode"

	"aegis.io/aegis/jobs/protocol"
)

const (
	// maxTermination is what the kubelet keeps of a termination message; a report that is cut there is invalid JSON.
	maxTermination = 4096
	// maxDetail keeps a detail one line that a person reads.
	maxDetail = 512
	// shortDetail is what is left of the details of failures when a report is too long.
	shortDetail = 120
)

// emit prints the report and leaves it as the termination message.
func emit(report *protocol.Report, o Options) error {
	var errs []error
	text, err := json.Marshal(report)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(o.Stdout, "%s\n", text); err != nil {
		errs = append(errs, fmt.Errorf("print: %w", err))
	}
	short, err := shorten(*report)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	// Only where the kubelet has made the file.
	f, err := os.OpenFile(o.TerminationLog, os.O_WRONLY|os.O_TRUNC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return errors.Join(errs...)
	}
	if err == nil {
		_, err = f.Write(short)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("write termination message: %w", err))
	}
	return errors.Join(errs...)
}

// shorten returns the report in at most maxTermination bytes. What says least goes first: the details of what is well,
// then most of the other details, then what is well, and in the end all that the exit code does not say.
func shorten(report protocol.Report) ([]byte, error) {
	report.Checks, report.Refusals = slices.Clone(report.Checks), slices.Clone(report.Refusals)
	cuts := []func(){
		func() {},
		func() { cutDetails(report.Checks, protocol.ResultPassed, 0) },
		func() { cutDetails(report.Checks, protocol.ResultSkipped, 0) },
		func() { cutDetails(report.Checks, "", shortDetail) },
		func() { cutDetails(report.Checks, "", 0) },
		func() { dropChecks(&report, protocol.ResultPassed) },
		func() { dropChecks(&report, protocol.ResultSkipped) },
		func() { report.Checks = nil },
		func() { report.Refusals = report.Refusals[:min(len(report.Refusals), 1)] },
		func() { cutDetail(&report, shortDetail) },
		func() { report.Node, report.BootID, report.Action = "", "", truncate(report.Action, shortDetail) },
	}
	for _, cut := range cuts {
		cut()
		text, err := json.Marshal(report)
		if err != nil {
			return nil, err
		}
		if len(text) <= maxTermination {
			return text, nil
		}
	}
	return nil, errors.New("report does not fit into a termination message")
}

// cutDetails cuts the details of the checks with the result, or of all when it is empty.
func cutDetails(checks []protocol.Check, result string, runes int) {
	for i := range checks {
		if result == "" || checks[i].Result == result {
			checks[i].Detail = truncate(checks[i].Detail, runes)
		}
	}
}

// cutDetail cuts what the report as a whole says to people.
func cutDetail(report *protocol.Report, runes int) {
	report.Detail = truncate(report.Detail, runes)
	for i := range report.Refusals {
		report.Refusals[i] = truncate(report.Refusals[i], runes)
	}
}

func dropChecks(report *protocol.Report, result string) {
	report.Checks = slices.DeleteFunc(report.Checks, func(c protocol.Check) bool { return c.Result == result })
}

func truncate(text string, runes int) string {
	r := []rune(text)
	return string(r[:min(len(r), runes)])
}

// oneLine makes text fit for a report: one line, printable, bounded.
func oneLine(text string) string {
	text = strings.Map(func(c rune) rune {
		switch {
		case unicode.IsSpace(c):
			return ' '
		case unicode.IsPrint(c) && c != unicode.ReplacementChar:
			return c
		}
		return -1
	}, strings.ToValidUTF8(text, ""))
	return truncate(strings.TrimSpace(text), maxDetail)
}
