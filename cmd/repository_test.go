package cmd

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the repository promises to those who work on it.

func readText(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(repository, file))
	require.NoError(t, err)
	return string(raw)
}

// makeVerbs lists what the Makefile can do.
func makeVerbs(t *testing.T) []string {
	t.Helper()
	var verbs []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z0-9]+):.*## `).FindAllStringSubmatch(readText(t, "Makefile"), -1) {
		verbs = append(verbs, m[1])
	}
	require.NotEmpty(t, verbs)
	return verbs
}

// A workflow that does more than the verbs would pass where a machine of a person fails, or the other way round.
func TestWorkflowsCallMakeVerbsOnly(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(repository, ".github/workflows/*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		workflow, err := readYAML[struct {
			Jobs map[string]struct {
				Steps []struct{ Run string }
			}
		}](file)
		require.NoError(t, err)
		require.NotEmpty(t, workflow.Jobs, file)
		for name, job := range workflow.Jobs {
			for _, step := range job.Steps {
				if step.Run == "" {
					continue
				}
				verb, isMake := strings.CutPrefix(step.Run, "make ")
				require.True(t, isMake, "%s: job %s runs %q", file, name, step.Run)
				require.Contains(t, makeVerbs(t), verb)
			}
		}
	}
}

// A guide that names a verb or a test which is gone sends people the wrong way.
func TestGuidesNameWhatIsThere(t *testing.T) {
	t.Parallel()
	var sources []string
	for _, pattern := range []string{"cmd/*_test.go", "sop/*_test.go", "sop/*/*_test.go"} {
		found, err := filepath.Glob(filepath.Join(repository, pattern))
		require.NoError(t, err)
		sources = append(sources, found...)
	}
	var tests []string
	for _, file := range sources {
		raw, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(raw), -1) {
			tests = append(tests, m[1])
		}
	}
	for _, page := range []string{"README.md", "CONTRIBUTING.md", "docs/architecture.md"} {
		text := readText(t, page)
		for _, m := range regexp.MustCompile("`make ([a-z0-9]+)").FindAllStringSubmatch(text, -1) {
			require.Contains(t, makeVerbs(t), m[1], page)
		}
		for _, command := range regexp.MustCompile(`go test \./[^'\n]* -run '([^']+)'`).FindAllStringSubmatch(text, -1) {
			for name := range strings.SplitSeq(command[1], "|") {
				test, _, _ := strings.Cut(name, "/")
				require.True(t, slices.ContainsFunc(tests, regexp.MustCompile(test).MatchString), "%s names the test %s", page, name)
			}
		}
	}
}

// The page on the architecture lists the packages that there are.
func TestArchitectureListsThePackages(t *testing.T) {
	t.Parallel()
	want := map[string]bool{"sop/DOMAIN": true}
	for name := range directions() {
		domain, below := strings.CutPrefix(name, "sop/")
		if !below || slices.Contains([]string{"policy", "playbook", "procedures", "sitetest", "soptest"}, domain) {
			want[name] = true
		}
	}
	for name := range table(t, section(t, filepath.Join(repository, "docs/architecture.md"), "Packages")) {
		require.True(t, want[name], "docs/architecture.md lists the package %s, which is not there", name)
		delete(want, name)
	}
	require.Empty(t, want, "docs/architecture.md says nothing of these packages")
}

// Each link of a page to a file of the repository leads to one.
func TestLinksOfPagesLeadSomewhere(t *testing.T) {
	t.Parallel()
	var pages []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/conditions/*.md"} {
		found, err := filepath.Glob(filepath.Join(repository, pattern))
		require.NoError(t, err)
		pages = append(pages, found...)
	}
	links := regexp.MustCompile(`\]\(([^)#:\s]*)(#[^)\s]*)?\)`)
	for _, page := range pages {
		raw, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range links.FindAllStringSubmatch(string(raw), -1) {
			target := page
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(page), m[1])
			}
			text, err := os.ReadFile(target)
			if info, statErr := os.Stat(target); statErr == nil && info.IsDir() {
				continue
			}
			require.NoError(t, err, page)
			if m[2] != "" {
				require.Contains(t, anchors(string(text)), m[2], page)
			}
		}
	}
}

// anchors lists the headings of a page as links name them.
func anchors(page string) []string {
	var all []string
	dropped := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	for line := range strings.Lines(page) {
		if heading, found := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); found && strings.HasPrefix(line, "#") {
			heading = strings.ToLower(strings.TrimSpace(heading))
			all = append(all, "#"+strings.ReplaceAll(dropped.ReplaceAllString(heading, ""), " ", "-"))
		}
	}
	return all
}
