package strict

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxQuoted is how many bytes of a foreign value an error repeats.
	maxQuoted = 64
	// maxMessage bounds what an error repeats of another one.
	maxMessage = 256
)

// Quote returns the value in quotes, shortened and without control characters.
func Quote(value string) string {
	if len(value) > maxQuoted {
		return strconv.Quote(strings.ToValidUTF8(value[:maxQuoted], "")) + "..."
	}
	return strconv.Quote(value)
}

// Clip returns the value as Quote does, without the quotes.
func Clip(value string) string { return strings.ReplaceAll(Quote(value), `"`, "") }

// Clean returns the text on one line, without characters that a terminal or a page would act on, and with at most
// limit characters.
func Clean(text string, limit int) string {
	var b strings.Builder
	var gap bool
	count := 0
	for _, r := range text {
		if r == utf8.RuneError || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			gap = count > 0
			continue
		}
		if gap {
			if count++; count < limit {
				b.WriteByte(' ')
			}
			gap = false
		}
		if count++; count > limit {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Hint says what the word may have been meant to be: the nearest known name, or all of them when none is near.
func Hint[T ~string](word string, known []T) string {
	if near := Nearest(word, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	if len(known) == 0 {
		return "none is known"
	}
	names := make([]string, 0, len(known))
	for _, name := range known {
		names = append(names, string(name))
	}
	slices.Sort(names)
	return "known are " + strings.Join(slices.Compact(names), ", ")
}

// Nearest returns the known name with the least edit distance to the word, ignoring case, or nothing when even that
// one differs too much to have been meant.
func Nearest[T ~string](word string, known []T) T {
	var best T
	limit := 1 + len(word)/4
	if len(word) > maxQuoted {
		return best
	}
	word = strings.ToLower(word)
	for _, name := range slices.Sorted(slices.Values(known)) {
		if d := distance(word, strings.ToLower(string(name)), limit); d <= limit {
			best, limit = name, d-1
		}
	}
	return best
}

// distance returns how many letters must be inserted, deleted, replaced or swapped with their neighbour to turn a
// into b. It may stop at any number above limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost(a[i-1], b[j-1]))
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

func cost(a, b byte) int {
	if a == b {
		return 0
	}
	return 1
}
