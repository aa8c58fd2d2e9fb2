#!/usr/bin/env bash
# Shows what on this host matters to Mainstay; with --apply, sets the block device's scheduler and the sysctl.
# Usage: tuning/host.sh DEVICE [--apply]      (DEVICE as in /sys/block, such as nvme0n1)
set -euo pipefail

device=${1:-}
apply=${2:-}
if [ -z "$device" ] || [ ! -d "/sys/block/$device" ]; then
  echo "usage: $0 DEVICE [--apply]; devices here: $(ls /sys/block | tr '\n' ' ')" >&2
  exit 2
fi

queue=/sys/block/$device/queue
echo "kernel:                 $(uname -r) (6.1 or later)"
echo "io_uring_disabled:      $(cat /proc/sys/kernel/io_uring_disabled 2>/dev/null || echo absent) (0)"
echo "locked memory, KiB:     $(ulimit -l) (65536 or more)"
echo "scheduler:              $(cat "$queue/scheduler") (none)"
echo "write cache:            $(cat "$queue/write_cache") (write through only with power-loss protection)"
echo "logical block, bytes:   $(cat "$queue/logical_block_size")"
governor=/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor
echo "frequency governor:     $(cat $governor 2>/dev/null || echo absent) (performance)"
echo "transparent huge pages: $(cat /sys/kernel/mm/transparent_hugepage/enabled) (madvise)"

if [ "$apply" = --apply ]; then
  echo none >"$queue/scheduler"
  if [ -w /proc/sys/kernel/io_uring_disabled ]; then
    echo 0 >/proc/sys/kernel/io_uring_disabled
  fi
  echo "applied: scheduler none, io_uring_disabled 0 (until the next boot)"
fi
