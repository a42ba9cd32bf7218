package host

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

const (
	// kernelLogFile has the records of the kernel log, one for each read.
	kernelLogFile = "/dev/kmsg"
	// maxRecords is far above what the kernel keeps.
	maxRecords = 1 << 20
)

// kernelRecords hands each record of the kernel log to each, as dmesg prints it.
func (h *host) kernelRecords(each func(line string)) error {
	f, err := h.open(kernelLogFile, os.O_RDONLY|syscall.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer f.Close()
	reader := &lines{each: func(line string) {
		if line, ok := recordLine(line); ok {
			each(line)
		}
	}}
	err = readRecords(f, reader)
	reader.close()
	return err
}

// readRecords reads until there is no further record. The file never ends, so nothing may wait for more; a record that was lost while
// others were read is passed over.
func readRecords(f *os.File, to io.Writer) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	record := make([]byte, 16<<10)
	for range maxRecords {
		n := 0
		var failed error
		err := conn.Read(func(fd uintptr) bool {
			n, failed = syscall.Read(int(fd), record)
			return true
		})
		switch {
		case err != nil:
			return err
		case errors.Is(failed, syscall.EPIPE), errors.Is(failed, syscall.EINTR):
			continue
		case errors.Is(failed, syscall.EAGAIN):
			return nil
		case failed != nil:
			return fmt.Errorf("%s: %w", kernelLogFile, failed)
		case n == 0:
			return nil
		}
		if _, err := to.Write(record[:n]); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w", kernelLogFile, errTruncated)
}

// recordLine makes a line as dmesg prints it of a record: priority, number, microseconds since the boot and flags before a semicolon, then
// the message. Lines that begin with a blank tell more of the record.
func recordLine(record string) (string, bool) {
	head, message, ok := strings.Cut(record, ";")
	fields := strings.Split(head, ",")
	if !ok || len(fields) < 3 || strings.HasPrefix(record, " ") {
		return "", false
	}
	at, err := strconv.ParseUint(fields[2], 10, 64)
	if err != nil {
		return "", false
	}
	return fmt.Sprintf("[%5d.%06d] %s", at/1e6, at%1e6, message), true
}
