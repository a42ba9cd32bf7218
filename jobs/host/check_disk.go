package host

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"aegis.io/aegis/jobs/protocol"
)

const (
	// minFree is the part of a file system that must be free.
	minFree = 0.05
	// maxDisks bounds how many disks are asked for their health.
	maxDisks = 64
)

var (
	diskName     = regexp.MustCompile(`^(?:sd[a-z]+|nvme\d+n\d+)$`)
	degradedRAID = regexp.MustCompile(`\[[U_]*_[U_]*\]|\(F\)`)
	smartFailed  = regexp.MustCompile(`(?:result|Status): FAILED`)
	mountEscape  = regexp.MustCompile(`\\[0-7]{3}`)
)

// mount is one line of a table of mounts.
type mount struct {
	device, point, fstype string
	options               []string
}

func (m mount) readOnly() bool {
	return slices.Contains(m.options, "ro")
}

// mounts returns the mounts of the init process of the host: those of this container are not those of the host.
func (h *host) mounts() ([]mount, error) {
	text, err := h.read("/proc/1/mounts")
	if err != nil {
		return nil, err
	}
	return parseMounts(text), nil
}

// parseMounts reads a table of mounts, in the form that /etc/fstab has as well.
func parseMounts(text string) []mount {
	var mounts []mount
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 4 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		mounts = append(mounts, mount{
			device:  unescape(fields[0]),
			point:   unescape(fields[1]),
			fstype:  fields[2],
			options: strings.Split(fields[3], ","),
		})
	}
	return mounts
}

// unescape undoes the octal escapes of what would break a line into other fields.
func unescape(text string) string {
	return mountEscape.ReplaceAllStringFunc(text, func(e string) string {
		n, err := strconv.ParseUint(e[1:], 8, 8)
		if err != nil {
			return e
		}
		return string([]byte{byte(n)})
	})
}

// at returns the mount that is seen at the point, which is the last one there.
func at(mounts []mount, point string) (mount, bool) {
	for _, m := range slices.Backward(mounts) {
		if m.point == point {
			return m, true
		}
	}
	return mount{}, false
}

func diskFinding(ctx context.Context, h *host, e *expectation) finding {
	mounts, err := h.mounts()
	if err != nil {
		return broken("%v", err)
	}
	p := parts{code: protocol.ExitDisk}
	p.readOnlyMounts(h, mounts, e)
	p.space(ctx, h, mounts)
	p.nvme(h)
	p.raid(h)
	p.smart(ctx, h)
	return p.finding()
}

// readOnlyMounts finds what is read-only although /etc/fstab says otherwise: the kernel gave up writing to it.
func (p *parts) readOnlyMounts(h *host, mounts []mount, e *expectation) {
	text, err := h.read("/etc/fstab")
	if isAbsent(err) {
		p.note("there is no /etc/fstab")
		return
	}
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	for _, want := range parseMounts(text) {
		have, ok := at(mounts, want.point)
		if ok && have.readOnly() && !want.readOnly() && (want.point != "/" || !e.ReadOnlyRoot) {
			p.fault("%s is read-only", want.point)
		}
	}
}

// space checks the file systems that the node itself needs. Those of users may be full.
func (p *parts) space(ctx context.Context, h *host, mounts []mount) {
	var points []string
	for _, point := range []string{
		"/", "/var", "/var/lib", "/var/lib/kubelet", "/var/lib/containerd", "/var/lib/docker", "/var/lib/containers", "/var/log",
	} {
		if m, ok := at(mounts, point); ok && !m.readOnly() {
			points = append(points, point)
		}
	}
	if len(points) == 0 {
		return
	}
	for _, unit := range []struct{ flag, what string }{{"-k", "space"}, {"-i", "inodes"}} {
		out, err := h.run(ctx, 30*time.Second, "df", append([]string{"-P", unit.flag, "--"}, points...)...)
		if err != nil {
			p.unmade(err)
			continue
		}
		rows, err := parseDF(out)
		if err != nil {
			p.errs = append(p.errs, err)
		}
		for _, row := range rows {
			if row.total > 0 && row.free/row.total < minFree {
				p.fault("%s has less than %g %% of its %s left", row.point, 100*minFree, unit.what)
			}
		}
	}
}

// dfRow is one file system of df. A file system that does not count what was asked for has a total of 0.
type dfRow struct {
	point       string
	total, free float64
}

// parseDF reads the portable form of the table. It returns at least one row, or an error.
func parseDF(text string) ([]dfRow, error) {
	var rows []dfRow
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[0] == "Filesystem" {
			continue
		}
		row := dfRow{point: strings.Join(fields[5:], " ")}
		total, err := strconv.ParseFloat(fields[1], 64)
		free, errFree := strconv.ParseFloat(fields[3], 64)
		if err == nil && errFree == nil {
			row.total, row.free = total, free
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("df printed no table: %.64q", firstLine(text))
	}
	return rows, nil
}

func (p *parts) nvme(h *host) {
	const dir = "/sys/class/nvme/"
	names, err := h.names(dir)
	if err != nil {
		p.errs = append(p.errs, err)
	}
	for _, name := range names {
		state, err := h.readLine(dir + name + "/state")
		if err != nil {
			p.errs = append(p.errs, err)
		} else if state != "live" {
			p.fault("%s is %.32q", name, state)
		}
	}
}

func (p *parts) raid(h *host) {
	text, err := h.read("/proc/mdstat")
	if isAbsent(err) {
		return
	}
	if err != nil {
		p.errs = append(p.errs, err)
	}
	for _, a := range parseArrays(text) {
		switch {
		// A container of the metadata of Intel or DDF is always inactive; the arrays in it are not.
		case a.state == "inactive" && !a.container, a.state == "broken":
			p.fault("%s is %s", a.name, a.state)
		case a.degraded:
			p.fault("%s is degraded", a.name)
		}
	}
}

// array is one of /proc/mdstat.
type array struct {
	name, state         string
	degraded, container bool
}

func parseArrays(text string) []array {
	var all []array
	for line := range strings.Lines(text) {
		if name, rest, ok := strings.Cut(line, " : "); ok && strings.HasPrefix(line, "md") {
			state, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			all = append(all, array{name: name, state: state})
		}
		if len(all) == 0 {
			continue
		}
		a := &all[len(all)-1]
		a.degraded = a.degraded || degradedRAID.MatchString(line)
		a.container = a.container || strings.Contains(line, "super external:") && !strings.Contains(line, "super external:/")
	}
	return all
}

// smart asks each disk for its own opinion of its health. Many have none to give, behind a controller or in a virtual
// machine, which is no fault.
func (p *parts) smart(ctx context.Context, h *host) {
	names, err := h.names("/sys/block")
	if err != nil {
		p.errs = append(p.errs, err)
		return
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !diskName.MatchString(n) })
	for _, name := range names[:min(len(names), maxDisks)] {
		out, err := h.run(ctx, 15*time.Second, "smartctl", "-H", "/dev/"+name)
		if absent, ok := missing(err); ok {
			p.note("disk health not checked, %v", absent)
			return
		}
		status, exited := exitStatus(err)
		switch {
		// Bit 3 of the status is "the disk is failing".
		case smartFailed.MatchString(out), exited && status&8 != 0:
			p.fault("%s says that it is failing", name)
		case exited && status&7 != 0:
			p.note("%s does not tell its health", name)
		case err != nil && !exited:
			p.errs = append(p.errs, err)
		}
	}
}

// imageRoot says that the root is an image that is never written to: by its file system, or by the distribution.
func (h *host) imageRoot(root mount) bool {
	if slices.Contains([]string{"squashfs", "erofs"}, root.fstype) {
		return true
	}
	return slices.Contains([]string{"talos", "bottlerocket", "cos"}, h.distribution())
}

// distribution returns the identifier of the distribution, nothing where the host does not tell.
func (h *host) distribution() string {
	text, err := h.read("/etc/os-release")
	if isAbsent(err) {
		text, err = h.read("/usr/lib/os-release")
	}
	if err != nil {
		return ""
	}
	return parseEnv(text)["ID"]
}

func rootFSFinding(_ context.Context, h *host, e *expectation) finding {
	mounts, err := h.mounts()
	if err != nil {
		return broken("%v", err)
	}
	root, ok := at(mounts, "/")
	switch {
	case !ok:
		return broken("/proc/1/mounts has no root file system")
	case root.readOnly() && e.ReadOnlyRoot:
		return passed("read-only, as is expected")
	case root.readOnly() && h.imageRoot(root):
		return passed("read-only, as an image is")
	case root.readOnly():
		return failed(protocol.ExitDisk, "the root file system is read-only")
	}
	return passed("writable")
}
