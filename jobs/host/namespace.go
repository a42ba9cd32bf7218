package host

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// initNamespace is the mount namespace of the host, that of its init process.
const initNamespace = "proc/1/ns/mnt"

// inNamespace calls the function in the mount namespace. The thread that has entered it is left there and ends, and takes nobody else along.
func inNamespace(namespace *os.File, call func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		// But for the first one, which never ends, and is what others see of the process. While it is taken, there is another one.
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- inNamespace(namespace, call)
			return
		}
		// Threads that share their root and working directory cannot enter a mount namespace.
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS)
		}
		if err != nil {
			done <- fmt.Errorf("enter the mount namespace of the host: %w", err)
			return
		}
		done <- call()
	}()
	return <-done
}
