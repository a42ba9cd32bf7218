package host

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	// maxFile is far above what any file that is read here holds.
	maxFile = 4 << 20
	// maxLinks is how many symbolic links the kernel follows in one name.
	maxLinks = 40
)

// resolve follows the symbolic links of a name as a process does whose root is the host's: an absolute link starts at that
// root, and ".." does not lead out of it. The result is relative to the root.
func (h *host) resolve(name string) (string, error) {
	var done string
	links := 0
	pending := strings.Split(name, "/")
	for len(pending) > 0 {
		part := pending[0]
		pending = pending[1:]
		if part == "" || part == "." {
			continue
		}
		next := path.Join("/", done, part)[1:]
		if part == ".." || next == "" {
			done = next
			continue
		}
		target, err := h.root.Readlink(next)
		if errors.Is(err, syscall.EINVAL) {
			done = next
			continue
		}
		if err != nil {
			return "", of(name, err)
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s: %w", name, syscall.ELOOP)
		}
		if path.IsAbs(target) {
			done = ""
		}
		pending = append(strings.Split(target, "/"), pending...)
	}
	if done == "" {
		done = "."
	}
	return done, nil
}

// of makes an error of a part of a name one of the name.
func of(name string, err error) error {
	var part *fs.PathError
	if errors.As(err, &part) {
		return &fs.PathError{Op: "open", Path: name, Err: part.Err}
	}
	return err
}

func (h *host) open(name string, flags int) (*os.File, error) {
	inside, err := h.resolve(name)
	if err != nil {
		return nil, err
	}
	if h.options.replay {
		// A pipe would be waited for, and a device is one of this machine.
		info, err := h.root.Stat(inside)
		switch {
		case err != nil:
			return nil, of(name, err)
		case !info.Mode().IsRegular() && !info.IsDir():
			return nil, fmt.Errorf("%s is not a regular file", name)
		}
	}
	return h.root.OpenFile(inside, flags, 0)
}

func (h *host) stat(name string) (os.FileInfo, error) {
	inside, err := h.resolve(name)
	if err != nil {
		return nil, err
	}
	return h.root.Stat(inside)
}

func (h *host) read(name string) (string, error) {
	f, err := h.open(name, os.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: %w", name, errTruncated)
	}
	return string(data), err
}

// readLine reads a file that holds one value.
func (h *host) readLine(name string) (string, error) {
	text, err := h.read(name)
	return strings.TrimSpace(text), err
}

func (h *host) readNumber(name string) (int, error) {
	text, err := h.readLine(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// names returns the names in a directory, sorted. A directory that does not exist has none.
func (h *host) names(dir string) ([]string, error) {
	f, err := h.open(dir, os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	return sortedNames(entries), nil
}

// write writes to a file that must exist. A directory has no kernel that would take what is written to it, and what looks like one may be
// that of this machine.
func (h *host) write(name, text string, flags int) error {
	if h.options.replay && (strings.HasPrefix(name, "/proc/") || strings.HasPrefix(name, "/sys/")) {
		_, err := h.stat(name)
		return err
	}
	f, err := h.open(name, os.O_WRONLY|flags)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// add appends to a file, which it makes where it is absent, with its directory.
func (h *host) add(name, text string) error {
	inside, err := h.resolve(name)
	if isAbsent(err) {
		var dir string
		if dir, err = h.makeDir(path.Dir(name)); err == nil {
			inside = path.Join(dir, path.Base(name))
		}
	}
	if err != nil {
		return err
	}
	f, err := h.root.OpenFile(inside, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// makeDir makes a directory where it is absent. The one above it must be there.
func (h *host) makeDir(name string) (string, error) {
	dir, err := h.resolve(name)
	if !isAbsent(err) {
		return dir, err
	}
	above, err := h.resolve(path.Dir(name))
	if err != nil {
		return "", err
	}
	dir = path.Join(above, path.Base(name))
	return dir, h.root.Mkdir(dir, 0o755)
}

// link returns what a symbolic link points to. The links on the way to it are followed.
func (h *host) link(name string) (string, error) {
	dir, err := h.resolve(path.Dir(name))
	if err != nil {
		return "", err
	}
	return h.root.Readlink(path.Join(dir, path.Base(name)))
}

// exists says whether there is a file, whatever its kind.
func (h *host) exists(name string) (bool, error) {
	_, err := h.stat(name)
	if isAbsent(err) {
		return false, nil
	}
	return err == nil, err
}

func sortedNames(entries []os.DirEntry) []string {
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names
}
