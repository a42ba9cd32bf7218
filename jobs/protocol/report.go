package protocol

// The results of an operation and of a check. A check that could not be made is skipped, or an error where it was
// required; neither says anything about health.
const (
	ResultPassed  = "passed"
	ResultFailed  = "failed"
	ResultSkipped = "skipped"
	ResultError   = "error"
)

// Report is what a node operation says about its own run, as JSON in the termination message of its container. Whoever decides
// reads the other fields; Detail is for people alone.
type Report struct {
	// Action is the node operation that ran.
	Action string `json:"action"`
	// Node is the name of the node it ran on.
	Node string `json:"node"`
	// BootID is the boot ID of the host while the operation ran.
	BootID string `json:"bootId,omitempty"`
	// Result is one of the Result constants.
	Result string `json:"result"`
	// Hardware names the hardware a failure points at.
	Hardware string `json:"hardware,omitempty"`
	// ExitCode is the exit status the operation ends with, one of the Exit constants.
	ExitCode int `json:"exitCode"`
	// Recovery is what the driver of the GPU asks for, in its own words, of several GPUs the most. Nothing means that it asks for
	// nothing, or that nobody knows.
	Recovery string `json:"recovery,omitempty"`
	// Refusals says what forbids an operation that was not begun.
	Refusals []string `json:"refusals,omitempty"`
	// Unneeded says that the operation found in order what it was to put right, and changed nothing.
	Unneeded bool `json:"unneeded,omitempty"`
	// Detail is one line for people.
	Detail string `json:"detail,omitempty"`
	// Checks holds the outcome of each check, in the order they ran.
	Checks []Check `json:"checks,omitempty"`
}

// Check is the outcome of one check of a node operation.
type Check struct {
	// Name is the name of the check.
	Name string `json:"name"`
	// Hardware names the hardware the check looks at.
	Hardware string `json:"hardware,omitempty"`
	// Result is one of the Result constants.
	Result string `json:"result"`
	// Detail is one line for people.
	Detail string `json:"detail,omitempty"`
	// Seconds is how long the check took.
	Seconds float64 `json:"seconds,omitempty"`
}
