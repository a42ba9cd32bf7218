package web

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

const (
	// maxProven bounds how many right passwords are remembered: one of each user, and those of hashes that have changed.
	maxProven = 1024
	// checkWithin bounds how long a request waits for its password to be checked.
	checkWithin = 5 * time.Second
)

// passwords checks passwords. That takes much of a CPU, so one is checked at a time, and right ones are remembered.
type passwords struct {
	turn chan struct{}

	mu     sync.Mutex
	proven map[[sha256.Size]byte]bool
}

func newPasswords() *passwords {
	return &passwords{turn: make(chan struct{}, 1), proven: make(map[[sha256.Size]byte]bool)}
}

// right reports whether the password is that of the user. The error says that there was no time to find out.
func (p *passwords) right(ctx context.Context, users map[string][]byte, user, password string) (bool, error) {
	hash, known := users[user]
	if !known {
		hash = anyOf(users)
	}
	key := sha256.Sum256([]byte(string(hash) + "\x00" + password))
	if known && p.remembered(key) {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || !known {
		return false, nil
	}
	p.remember(key)
	return true, nil
}

// anyOf returns the hash of some user. Comparing with it takes as long as for a user, so an answer does not tell who is one.
func anyOf(users map[string][]byte) []byte {
	for _, hash := range users {
		return hash
	}
	return nil
}

func (p *passwords) remembered(key [sha256.Size]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proven[key]
}

func (p *passwords) remember(key [sha256.Size]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.proven) >= maxProven {
		clear(p.proven)
	}
	p.proven[key] = true
}
