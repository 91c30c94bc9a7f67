#!/bin/sh
# Run a command as root with mounts and processes of its own, gone with it, and with its caller.
#
# sandbox.sh LOCK TMPFS_SIZE TMPFS_DIR COMMAND…
# The caller holds LOCK (flock) while it lives. TMPFS_SIZE 0: no tmpfs, TMPFS_DIR stays on disk.
set -eu
# Modes inside an image, and of what the caller reads, are not to depend on whose bake it is.
umask 022

lock=$1 size=$2 dir=$3
shift 3

# shellcheck disable=SC2016 # for the inner shell
mount_and_run='[ "$1" = 0 ] || mount -t tmpfs -o "size=$1,mode=0755" tmpfs "$2"; shift 2; exec "$@"'
unshare --mount --propagation=private --pid --fork --kill-child=SIGKILL --mount-proc \
    sh -eu -c "$mount_and_run" sandbox "$size" "$dir" "$@" &
child=$!
trap 'kill -KILL "$child"' TERM INT HUP

# Whatever ends the caller gives its lock back: then this gets it.
flock --exclusive --no-fork "$lock" kill -KILL "$child" &
watch=$!

status=0
wait "$child" || status=$?
kill "$watch" 2>/dev/null || :
exit "$status"
