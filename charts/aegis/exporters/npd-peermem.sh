#!/bin/sh
# Tells whether a node with NVIDIA's driver loads nvidia-peermem at boot: 0 yes, 1 no, 2 not known. The host's
# /etc/modules-load.d is mounted below /host.
host=${HOST_ROOT:-/host}
sys=${SYS_ROOT:-/sys}

if [ ! -d "$sys/module/nvidia" ]; then
  echo "the NVIDIA driver is not loaded"
  exit 0
fi
if [ ! -d "$host/etc/modules-load.d" ]; then
  echo "/etc/modules-load.d is not mounted below $host"
  exit 2
fi
if grep -Eqsx '[[:space:]]*nvidia[-_]peermem[[:space:]]*' "$host"/etc/modules-load.d/*.conf; then
  echo "nvidia-peermem is loaded at boot"
  exit 0
fi
echo "no line nvidia-peermem in /etc/modules-load.d"
exit 1
