#!/bin/sh
# Become qemu-nbd for the listening socket that is our standard input (systemd's socket activation).
#
# serve-disk.sh ARGUMENT…
# It is told of the socket by number and by its own process id, which only the process itself knows.
set -eu

exec 3<&0 </dev/null
LISTEN_PID=$$ LISTEN_FDS=1 exec qemu-nbd "$@"
