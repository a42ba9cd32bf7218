package host

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/jobs/protocol"
)

var quoted = regexp.MustCompile("`([^`]+)`")

// tables returns the rows of the tables of the page, by the first cell of their heading.
func tables(t *testing.T) map[string][][]string {
	text, err := os.ReadFile("../../docs/host.md")
	require.NoError(t, err)
	found := make(map[string][][]string)
	var heading string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			heading = ""
			continue
		}
		var cells []string
		for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		if heading == "" {
			heading = cells[0]
			require.NotContains(t, found, heading)
		} else if !strings.HasPrefix(cells[0], "---") {
			found[heading] = append(found[heading], cells)
		}
	}
	return found
}

// names returns the words in the first cells that are set as code.
func names(rows [][]string) []string {
	var out []string
	for _, row := range rows {
		for _, m := range quoted.FindAllStringSubmatch(row[0], -1) {
			out = append(out, m[1])
		}
	}
	return out
}

func TestPageListsTheActions(t *testing.T) {
	t.Parallel()
	all := tables(t)
	for heading, actions := range map[string][]builtin{"remedy": builtinRemedies(), "repair": builtinRepairs()} {
		require.Len(t, all[heading], len(actions))
		for i, b := range actions {
			row := all[heading][i]
			require.Equal(t, "`"+b.name+"`", row[0])
			require.Equal(t, b.needs, row[1], b.name)
			require.Equal(t, b.device != nil, row[2] != "", b.name)
		}
	}
}

func TestPageListsTheChecks(t *testing.T) {
	t.Parallel()
	rows := tables(t)["check"]
	require.Len(t, rows, len(builtinChecks()))
	codes := make(map[string]string)
	for _, row := range tables(t)["code"] {
		codes[row[0]] = row[1]
	}
	for i, k := range builtinChecks() {
		require.Equal(t, "`"+k.name+"`", rows[i][0])
		for _, code := range strings.Split(rows[i][1], ", ") {
			require.Equal(t, k.hardware, codes[code], k.name)
		}
	}
	for _, code := range append(severity(), protocol.ExitOK, protocol.ExitUsage, protocol.ExitUnknown, protocol.ExitSkipped) {
		text, ok := codes[strconv.Itoa(code)]
		require.True(t, ok, code)
		require.Equal(t, protocol.HardwareOf(code), text)
	}
}

func TestPageListsTheProfileAndTheDirectories(t *testing.T) {
	t.Parallel()
	fields := ProfileFields()
	listed := names(tables(t)["field of a profile"])
	slices.Sort(fields)
	slices.Sort(listed)
	require.Equal(t, fields, listed)
	require.Equal(t, []string{checksDir, remediesDir, repairsDir}, names(tables(t)["directory on the host"]))
}

func TestPageHasTheUsage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/host.md")
	require.NoError(t, err)
	for line := range strings.Lines(usage) {
		if action, ok := strings.CutPrefix(line, "  "); ok {
			require.Contains(t, string(text), "aegis op "+action)
		}
	}
}
