package prom

import (
	"fmt"
	"maps"
	"slices"
)

// The parameters of FNV-1a with 64 bits, and the byte that ends every name and value. No valid UTF-8 contains it.
const (
	fnvOffset    uint64 = 14695981039346656037
	fnvPrime     uint64 = 1099511628211
	fnvSeparator byte   = 0xff
)

// Fingerprint identifies an alert by its labels, as Alertmanager does: FNV-1a over the sorted labels, in 16
// hexadecimal digits. Every label counts, so labels that a relabelling adds change it.
func Fingerprint(labels map[string]string) string {
	sum := fnvOffset
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		sum = fnvAdd(sum, name)
		sum = fnvAdd(sum, labels[name])
	}
	return fmt.Sprintf("%016x", sum)
}

// fnvAdd adds text and the separator to the hash.
func fnvAdd(sum uint64, text string) uint64 {
	for i := range len(text) {
		sum = (sum ^ uint64(text[i])) * fnvPrime
	}
	return (sum ^ uint64(fnvSeparator)) * fnvPrime
}
