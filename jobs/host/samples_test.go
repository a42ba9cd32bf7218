package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
)

// sample returns an output in testdata/samples, without the lines at its head that say where its format is described.
func sample(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata/samples", name+".txt"))
	require.NoError(t, err)
	text := string(data)
	for strings.HasPrefix(text, "# ") {
		_, text, _ = strings.Cut(text, "\n")
	}
	return text
}

// The samples are in the formats of the tools; each says in its head where that is described.
func TestSamples(t *testing.T) {
	t.Parallel()
	prints := func(tool, call string) func(*node, string) {
		return func(n *node, text string) { n.tool(tool, call, answer{Out: text}) }
	}
	kernel := prints("dmesg", "")
	sensors := prints("ipmitool", "sdr type Processor")
	const passed = protocol.ResultPassed
	for _, tc := range []struct {
		name   string
		feed   func(*node, string)
		check  string
		result string
		code   int
		want   string
	}{

		{"sxid-fatal", kernel, checkXID, "", 23, "SXid 20009 on the switch 0000:a5:00"},
		{"sxid-nonfatal", kernel, checkXID, passed, 0, ""},
		{"sxid-reset", kernel, checkXID, passed, 0, ""},
		{"caller-xid", kernel, checkXID, "", 23, "XID 79 on 0000:30:00"},
		{"caller-xid-close", kernel, checkXID, "", 23, "XID 119 on 0000:30:00"},
		{"caller-reset", kernel, checkXID, passed, 0, ""},
		{"xid-instance", kernel, checkXID, "", 23, "XID 95 on 0000:31:00"},
		{"xid-compute-instance", kernel, checkXID, "", 23, "XID 48 on 0000:31:00"},
		{"xid-instance-application", kernel, checkXID, passed, 0, ""},
		{"xid-54", kernel, checkXID, "", 23, "XID 54 on 0000:31:00"},
		{"xid-first", kernel, checkXID, "", 23, "XID 48 on 0000:31:00"},
		{"xid-reinitialised", kernel, checkXID, passed, 0, ""},
		{"xid-reboot-reinitialised", kernel, checkXID, "", 23, "XID 79 on 0000:31:00"},
		{"bus-lost-lines", kernel, checkXID, "", 23, "0000:31:00 fell off the bus"},
		{"bus-lost-plain", kernel, checkXID, "", 23, "0000:31:00 fell off the bus"},
		{"bus-lost-one-line", kernel, checkXID, "", 23, "0000:31:00 fell off the bus"},
		{"bus-unsupported", kernel, checkXID, passed, 0, ""},

		{"ghes-fatal", kernel, checkCPU, "", 4, "1 uncorrected errors of the hardware, the first: "},
		{"ghes-recoverable", kernel, checkCPU, "", 4, "event severity: recoverable"},
		{"ghes-recoverable-caller", kernel, checkCPU, "", 4, "event severity: recoverable"},
		{"ghes-corrected", kernel, checkCPU, passed, 0, ""},
		{"bert-fatal", kernel, checkCPU, passed, 0, ""},
		{"amd-fatal", kernel, checkCPU, "", 4, "System Fatal error"},
		{"amd-status", kernel, checkCPU, "", 4, "System Fatal error"},
		{"amd-corrected", kernel, checkCPU, passed, 0, ""},
		{"caller-mce", kernel, checkCPU, "", 4, "Machine Check Exception"},

		{"ipmi-ierr", sensors, checkCPU, "", 4, "sensor P1 Status says Presence detected, IERR"},
		{"ipmi-thermal-trip", sensors, checkCPU, "", 4, "sensor P1 Status says Thermal Trip"},
		{"ipmi-configuration", sensors, checkCPU, "", 4, "Configuration Error"},
		{"ipmi-frb", sensors, checkCPU, "", 4, "FRB2"},
		{"ipmi-uncorrectable", sensors, checkCPU, "", 4, "Uncorrectable machine check exception"},
		{"ipmi-well", sensors, checkCPU, passed, 0, ""},
		{"ipmi-throttled", sensors, checkCPU, passed, 0, ""},
		{"ipmi-correctable", sensors, checkCPU, passed, 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			n := newGPUNode(t)
			tc.feed(n, sample(t, tc.name))
			r := n.examine(hardwareCheckedBy(tc.check), gpuArgs()...)
			if tc.result == "" {
				tc.result = protocol.ResultFailed
			}
			require.Equal(t, tc.result, results(r)[tc.check], "%+v", r)
			require.Equal(t, tc.code, r.ExitCode, "%+v", r)
			require.Contains(t, detail(t, r, tc.check), tc.want)
		})
	}
}

// A sample that no test reads shows nothing.
func TestEverySampleIsRead(t *testing.T) {
	t.Parallel()
	tests, err := os.ReadFile("samples_test.go")
	require.NoError(t, err)
	files, err := filepath.Glob("testdata/samples/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		require.Contains(t, string(tests), `"`+name+`"`)
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(data), "# "), "%s does not say where its format is described", file)
	}
}

// ibDevice adds an RDMA device with one port.
// bind makes the driver that of the function on the PCI bus.
// gpfs_exporter leaves these threads out, because they wait for work and not for each other:
// https://github.com/treydock/gpfs_exporter/blob/master/collectors/mmdiag_waiter.go, defWaiterExclude.
// The driver says what it asks for where the kernel log does not have it any more.
