// Command hosttool stands for every program on a simulated host: it asks the simulation what the program of its own name
// would print, prints it, and ends as that program would.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// socket is inside the root of the host.
const socket = "/run/nodesim.sock"

type request struct {
	Tool string   `json:"tool"`
	Args []string `json:"args"`
}

type answer struct {
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
	Exit   int    `json:"exit"`
}

func main() {
	told, err := ask(request{Tool: filepath.Base(os.Args[0]), Args: os.Args[1:]})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprint(os.Stdout, told.Stdout)
	fmt.Fprint(os.Stderr, told.Stderr)
	os.Exit(told.Exit)
}

func ask(r request) (told answer, err error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return told, err
	}
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return told, fmt.Errorf("ask: %w", err)
	}
	if err := json.NewDecoder(conn).Decode(&told); err != nil {
		return told, fmt.Errorf("no answer: %w", err)
	}
	return told, conn.Close()
}
