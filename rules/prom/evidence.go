package prom

import "strings"

// IsSelector reports whether a kind of evidence is a selector of series. The others are values of the label source of aegis:evidence.
func IsSelector(kind string) bool { return strings.ContainsAny(kind, "{}") }
