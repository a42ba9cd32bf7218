package host

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"strings"

	"aegis.io/aegis/jobs/protocol"
)

const usage = `usage: aegis op ACTION [arguments]
  reboot --boot-id ID
  shutdown --boot-id ID
  healthcheck --profile NAME [--boot-id ID] [--since TIME] [--gpus N] [--ib N] [--gpfs NAME,...] [--require CHECK,...]
  remedy NAME [--device ID]
  repair NAME [--device ID]
  diagnose [--condition NAME] [--device ID]
With --root DIR, an action runs against the files and the captured outputs in a directory, and executes nothing.
`

var (
	// executableName is what an executable of a site may be called. It cannot leave its directory, nor be a flag.
	executableName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,62}$`)
	profileName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$`)
)

// parse returns the action and its operation. It has written the usage where it returns an error.
func parse(args []string, stderr io.Writer) (action string, op operation, err error) {
	if len(args) > 0 {
		action = known(args[0])
	}
	fs := flag.NewFlagSet("aegis op "+action, flag.ContinueOnError)
	// Its messages are in the error.
	fs.SetOutput(io.Discard)
	switch action {
	case protocol.ActionReboot, protocol.ActionShutdown:
		op, err = parsePower(action, fs, args[1:])
	case protocol.ActionHealthcheck:
		op, err = parseHealthcheck(fs, args[1:])
	case protocol.ActionRemedy:
		op, err = parseRemedy(fs, args[1:])
	case protocol.ActionRepair:
		op, err = parseRepair(fs, args[1:])
	case protocol.ActionDiagnose:
		op, err = parseDiagnose(fs, args[1:])
	default:
		err = fmt.Errorf("unknown action %.64q", strings.Join(args[:min(len(args), 1)], ""))
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s\n%s", oneLine(err.Error()), usage)
	}
	return action, op, err
}

// known returns the action, empty for one that does not exist: nothing else may get into a report as its action.
func known(action string) string {
	switch action {
	case protocol.ActionReboot, protocol.ActionShutdown, protocol.ActionHealthcheck, protocol.ActionRemedy, protocol.ActionRepair, protocol.ActionDiagnose:
		return action
	}
	return ""
}

func parseFlags(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %.64q", fs.Arg(0))
	}
	return nil
}

// parseNamed takes the name of the action to run from in front of the flags, or from behind them.
func parseNamed(fs *flag.FlagSet, args []string) (string, error) {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		return checkedName(args[0], parseFlags(fs, args[1:]))
	}
	if err := fs.Parse(args); err != nil {
		return "", err
	}
	if fs.NArg() == 0 {
		return "", errors.New("a name is missing")
	}
	return checkedName(fs.Arg(0), parseFlags(fs, fs.Args()[1:]))
}

func checkedName(name string, err error) (string, error) {
	if err == nil && !executableName.MatchString(name) {
		err = fmt.Errorf("name %.64q must be made of letters, digits, '_' and '-'", name)
	}
	return name, err
}

// list splits a comma-separated flag, without empty parts.
func list(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' })
}
