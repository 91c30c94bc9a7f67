#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Is one container machine: its mounts, its network cable, the way to its API, and its reboots.
# All of it is in namespaces of this process: ending unshare ends and unmounts everything.
# Usage: nspawn-machine.sh RUN_DIR LOWER_ROOT NETWORK_PID MAC CABLE API_PORT|- API_ADDRESS COMMAND…
set -eu
set -o pipefail

# cgroup v2 lets a group have processes or hand controllers down, not both: the machine gets a group
# in which systemd-nspawn is alone, and this script one beside it.
split_cgroup() {
    local base controllers
    base=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
    mkdir -p "$base/keeper" "$base/machine"
    echo $$ >"$base/keeper/cgroup.procs"
    controllers=$(sed 's/[^ ]*/+&/g' "$base/cgroup.controllers")
    echo "$controllers" >"$base/cgroup.subtree_control" ||
        echo "nspawn-machine: no controllers for the machine in $base" >&2
    machine_cgroup=$base/machine
}

if [ "$1" != --inside ]; then
    exec >>"$1/keeper.log" 2>&1
    machine_cgroup=-
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        split_cgroup
    fi
    # /proc will be our own: the network's namespace is handed down as an open file.
    exec 8<"/proc/$3/ns/net"
    exec unshare --mount --pid --fork --kill-child=SIGKILL --mount-proc -- \
        "$BASH" "$0" --inside "$machine_cgroup" "$@"
fi
machine_cgroup=$2 run_dir=$3 lower=$4 mac=$6 cable=$7 api_port=$8 api_address=$9
shift 9
network=(nsenter --net="$run_dir/network" --)

# Held by everything below, so that nobody removes the root that this machine runs on.
exec 9<"$lower.lock"
flock --shared 9

# These can't be loaded from within a container; without modprobe they are built in or missing.
modprobe -a -q overlay br_netfilter vxlan nf_conntrack nf_tables 2>/dev/null || true

mount -t overlay overlay \
    -o "lowerdir=$lower,upperdir=$run_dir/upper,workdir=$run_dir/work" "$run_dir/root"
# Its own traces there are in the way of a second machine of the same name, and it leaves some.
mkdir -p /run/systemd/nspawn
mount -t tmpfs -o mode=0755 tmpfs /run/systemd/nspawn

# As a file in our own mount namespace, since systemd-socket-activate passes no open files on.
touch "$run_dir/network"
mount --no-canonicalize --bind /proc/self/fd/8 "$run_dir/network"

# systemd-nspawn looks its network interface up in /sys, which must be the network's own; and only
# where /sys is read-only it doesn't wait for a udev that knows nothing of the interface
# (udev_available() in systemd's nspawn-network.c).
mkdir /run/systemd/nspawn/cgroup
mount --rbind /sys/fs/cgroup /run/systemd/nspawn/cgroup
"${network[@]}" mount -t sysfs -o ro sysfs /sys
mount --rbind /run/systemd/nspawn/cgroup /sys/fs/cgroup
umount --recursive --lazy /run/systemd/nspawn/cgroup

if [ "$api_port" != - ]; then
    systemd-socket-activate --listen="127.0.0.1:$api_port" \
        "${network[@]}" /lib/systemd/systemd-socket-proxyd "$api_address" \
        </dev/null >>"$run_dir/proxy.log" 2>&1 &
fi

enter_cgroup() {
    if [ "$machine_cgroup" != - ]; then
        # What the boot before left is empty, but would not take a process.
        find "$machine_cgroup" -mindepth 1 -depth -type d -exec rmdir {} +
        echo "$BASHPID" >"$machine_cgroup/cgroup.procs"
    fi
}

status=133
while [ "$status" = 133 ]; do # systemd-nspawn(1): 133 says that the machine wants to be rebooted
    "${network[@]}" ip link delete "$cable" 2>/dev/null || true
    "${network[@]}" ip link add "$cable" type veth peer name host0 address "$mac"
    "${network[@]}" ip link set "$cable" master kk0 up
    touch "$run_dir/started"
    status=0
    (enter_cgroup && exec "${network[@]}" "$@") </dev/null >>"$run_dir/console.log" 2>&1 ||
        status=$?
done
exit "$status"
