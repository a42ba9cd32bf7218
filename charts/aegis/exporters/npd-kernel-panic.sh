#!/bin/sh
# Tells whether the machine booted because its kernel had panicked: 0 no, 1 yes, 2 not known. The folders of the host are
# mounted below /host.
host=${HOST_ROOT:-/host}
proc=${PROC_ROOT:-/proc}

booted=$(sed -n 's/^btime //p' "$proc/stat" 2>/dev/null)
if [ -z "$booted" ]; then
  echo "the time of the boot is not known"
  exit 2
fi
# A large machine needs a while from its crash to the next boot. systemd moves the firmware's records after that boot.
oldest=$((booted - 3600))

# What lies beside the records of crashes: consoles of boots that ended well, the crash kernel, reports of programs.
beside() {
  case $1 in
  linux-image*) return 1 ;;
  console-* | pmsg-* | ftrace-* | kexec_cmd* | kdump_lock* | *.crash | *.upload | *.uploaded | *.lock) return 0 ;;
  *) return 1 ;;
  esac
}

# A kernel survives an oops, and leaves a record all the same.
survived() {
  case $1 in
  */dmesg*) [ "$(head -c 5 "$1" 2>/dev/null | tr -d '\000')" = "Oops#" ] ;;
  *) return 1 ;;
  esac
}

looked=
for dir in sys/fs/pstore var/lib/systemd/pstore var/crash; do
  [ -d "$host/$dir" ] || continue
  looked=yes
  for file in "$host/$dir"/* "$host/$dir"/*/* "$host/$dir"/*/*/*; do
    [ -f "$file" ] || continue
    beside "${file##*/}" && continue
    at=$(stat -c %Y "$file" 2>/dev/null) || continue
    [ "$at" -ge "$oldest" ] || continue
    survived "$file" && continue
    echo "record of a crash: ${file#"$host"}"
    exit 1
  done
done
if [ -z "$looked" ]; then
  echo "no folder of crash records is mounted below $host"
  exit 2
fi
echo "no record of a crash goes with the last boot"
