// Command stub stands in for a tool of the host in tests: under any name it plays that tool, from the answers in a file beside it.
// It is a program of its own because the binary of the tests starts ten times as slowly with the race detector.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

func main() {
	code, err := play(os.Args[0], os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 99
	}
	os.Exit(code)
}

// answer is what a stub tool does when it is called with certain arguments.
type answer struct {
	Out  string
	Err  string
	Exit int
	// Repeat prints Out that many times more.
	Repeat int
	// Hang makes the tool sleep for ever, with a child that does the same and whose PID goes to the file.
	Hang string
	// Linger leaves a child behind that keeps the output open.
	Linger bool
	// Stdin is what the tool must be given.
	Stdin string
	// Restore writes the second text to the first, a file outside the root, as the effect of the tool.
	Restore []string
	// Unlink removes the file, outside the root, as the effect of the tool.
	Unlink string
	// Signal makes the tool end itself with the signal.
	Signal int
}

// play answers with the next of the answers for the arguments; the last one repeats.
func play(self string, args []string) (int, error) {
	call := strings.Join(args, " ")
	if call == "sleep" {
		time.Sleep(time.Hour)
	}
	if err := record(self+".log", call); err != nil {
		return 0, err
	}
	data, err := os.ReadFile(self + ".json")
	if err != nil {
		return 0, err
	}
	var answers map[string][]answer
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&answers); err != nil {
		return 0, err
	}
	list, ok := answers[call]
	if !ok {
		list = answers["*"]
	}
	if len(list) == 0 {
		return 0, fmt.Errorf("unexpected arguments %q", call)
	}
	log, err := os.ReadFile(self + ".log")
	if err != nil {
		return 0, err
	}
	n := 0
	for line := range strings.Lines(string(log)) {
		if strings.TrimSuffix(line, "\n") == call {
			n++
		}
	}
	return list[min(n, len(list))-1].act(self)
}

func record(file, line string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, line)
	return errors.Join(err, f.Close())
}

// given returns what the tool was given, where it matters.
func (a answer) given() (string, error) {
	if a.Stdin == "" {
		return "", nil
	}
	text, err := io.ReadAll(os.Stdin)
	return string(text), err
}

func (a answer) act(self string) (int, error) {
	if a.Hang != "" || a.Linger {
		child := exec.Command(self, "sleep")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			return 0, err
		}
		if a.Hang != "" {
			if err := os.WriteFile(a.Hang, fmt.Append(nil, child.Process.Pid), 0o644); err != nil {
				return 0, err
			}
			time.Sleep(time.Hour)
		}
		if err := os.WriteFile(self+".pid", fmt.Append(nil, child.Process.Pid), 0o644); err != nil {
			return 0, err
		}
	}
	if len(a.Restore) == 2 {
		if err := os.WriteFile(a.Restore[0], []byte(a.Restore[1]), 0o644); err != nil {
			return 0, err
		}
	}
	if a.Unlink != "" {
		if err := os.Remove(a.Unlink); err != nil {
			return 0, err
		}
	}
	if given, err := a.given(); given != a.Stdin || err != nil {
		return 0, fmt.Errorf("was given %q, %w", given, err)
	}
	for range a.Repeat + 1 {
		if _, err := io.WriteString(os.Stdout, a.Out); err != nil {
			return 0, err
		}
	}
	if _, err := io.WriteString(os.Stderr, a.Err); err != nil {
		return 0, err
	}
	if a.Signal != 0 {
		err := syscall.Kill(os.Getpid(), syscall.Signal(a.Signal))
		// The kernel may take its time; the tool must not end by itself before.
		<-time.After(time.Minute)
		return 0, err
	}
	return a.Exit, nil
}
