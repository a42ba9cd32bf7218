package procedures_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"aegis.io/aegis/rules"
	"aegis.io/aegis/sop"
	"aegis.io/aegis/sop/procedures"
)

// The rows of a condition stand beside the code of its domain, or here if that has none, and sitetest.Run proves that no condition of
// the domain is without them. So no condition is, if no domain is.
func TestEveryDomainHasItsRows(t *testing.T) {
	t.Parallel()
	catalogue, err := rules.Load(rules.Options{})
	require.NoError(t, err)
	tested := testedDomains(t)
	for _, c := range catalogue.Conditions() {
		domain, _, _ := strings.Cut(c.SOP, "/")
		require.Equal(t, 1, tested[domain], "tests of the domain of %s", c.Name)
	}
}

// testedDomains counts the tests that play the rows of a domain.
func testedDomains(t *testing.T) map[string]int {
	t.Helper()
	files, err := filepath.Glob("../*/*_test.go")
	require.NoError(t, err)
	run := regexp.MustCompile(`sitetest\.Run\(t, "([a-z]+)", `)
	tested := make(map[string]int)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, match := range run.FindAllStringSubmatch(string(text), -1) {
			tested[match[1]]++
		}
	}
	return tested
}

// A procedure that no condition has is one that nobody needs, except what the dispatcher itself starts.
func TestEveryProcedureHasItsDomain(t *testing.T) {
	t.Parallel()
	tested := testedDomains(t)
	for _, name := range procedures.Table().Names() {
		domain, _, _ := strings.Cut(name, "/")
		// Those for what a site names have no condition of the product. TestRemediationThatAPolicyNames plays each.
		if sop.RemediationOf(procedures.Table(), name) == sop.RemediatesNothing {
			require.Positive(t, tested[domain], name)
		}
	}
}
