// Package strict decodes the YAML files that people write. It finds everything that is wrong with a file at once, says where
// in plain words, and names the nearest word that it knows.
package strict

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Position is a place in a file.
type Position struct {
	File string
	// Line and Column count from 1. Line is 0 when the file cannot be read.
	Line, Column int
}

// String returns "file:line:column".
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Problem is one mistake in a file.
type Problem struct {
	Position
	Text string
}

// Error returns "file:line:column: text".
func (p *Problem) Error() string { return p.String() + ": " + p.Text }

// Join returns the problems as one error, nil when there is none.
func Join(problems []*Problem) error {
	errs := make([]error, 0, len(problems))
	for _, p := range problems {
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}

// Sort puts the problems of one file in the order in which a reader of the file meets them.
func Sort(problems []*Problem) {
	slices.SortStableFunc(problems, Compare)
}

// Compare orders problems of one file by their place.
func Compare(a, b *Problem) int {
	return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}
