#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Is one container machine: its mounts, its network cable, the way to its API, and its reboots.
# All of it is in namespaces of this process: ending unshare ends and unmounts everything.
# Usage: nspawn-machine.sh RUN_DIR LOWER_ROOT NETWORK_PID MAC[,MAC…] CABLE API_PORT|- API_ADDRESS
#        COMMAND…
set -eu
set -o pipefail

# Under cgroup v2 a group has processes or hands controllers down, not both: the machine gets a group
# in which systemd-nspawn is alone, and this script one beside it.
split_cgroup() {
    local base
    base=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
    mkdir -p "$base/keeper" "$base/kubekiln/$1"
    echo $$ >"$base/keeper/cgroup.procs"
    for parent in "$base" "$base/kubekiln"; do
        sed 's/[^ ]*/+&/g' "$parent/cgroup.controllers" >"$parent/cgroup.subtree_control" ||
            echo "nspawn-machine: no controllers for the machine in $parent" >&2
    done
    cgroup=$base/kubekiln/$1
}

# A node takes the group that it starts in for the root of all groups, and leaves its pods' behind:
# each boot gets empty ones of the machine's own. The parent's CPUs and memory nodes are copied since
# a cgroup v1 without any takes no process.
enter_cgroups() {
    local group file
    for group in "${cgroups[@]}"; do
        # Itself, too: systemd-nspawn has made it one that hands controllers down.
        [ ! -e "$group" ] || find "$group" -depth -type d -exec rmdir {} +
        mkdir -p "$group"
        for file in cpuset.cpus cpuset.mems; do
            if [ -e "$group/$file" ] && [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
                cat "$group/../../$file" >"$group/../$file"
                cat "$group/../$file" >"$group/$file"
            fi
        done
        echo "$BASHPID" >"$group/cgroup.procs"
    done
}

find_cgroups() {
    local hierarchy
    if [ "$cgroup" != - ]; then
        cgroups=("$cgroup")
        return
    fi
    cgroups=()
    for hierarchy in /sys/fs/cgroup/*/cgroup.procs; do
        cgroups+=("${hierarchy%/*}/kubekiln/$cable")
    done
}

mount_root() {
    # These can't be loaded from within a container; without modprobe they are built in or missing.
    modprobe -a -q overlay br_netfilter vxlan tun nf_conntrack nf_tables 2>/dev/null || true
    mount -t overlay overlay \
        -o "lowerdir=$lower,upperdir=$run_dir/upper,workdir=$run_dir/work" "$run_dir/root"
    # systemd-nspawn's own traces are in the way of a second machine of the same name.
    mkdir -p /run/systemd/nspawn
    mount -t tmpfs -o mode=0755 tmpfs /run/systemd/nspawn
}

# A file in our own mount namespace, since systemd-socket-activate passes no open files on.
find_network() {
    touch "$run_dir/network" "$run_dir/own-network"
    mount --no-canonicalize --bind /proc/self/fd/8 "$run_dir/network"
}

forward_api() {
    if [ "$api_port" != - ]; then
        systemd-socket-activate --listen="127.0.0.1:$api_port" \
            nsenter --net="$run_dir/network" -- \
            /lib/systemd/systemd-socket-proxyd "$api_address" \
            </dev/null >>"$run_dir/proxy.log" 2>&1 &
    fi
}

# Each boot starts with an empty network, as that of a machine that was reset. Not by
# --network-interface=: the machine renames its card, and then systemd-nspawn can't take it back.
plug_cables() {
    local number=0 mac
    unshare --net="$run_dir/own-network" true
    for mac in ${macs//,/ }; do
        plug_cable "$cable$number" "host$number" "$mac" "$((number > 0 ? 1 : 0))"
        number=$((number + 1))
    done
}

# Our end carries frames of any size, as a switch does: the machine says what it sends.
plug_cable() {
    # That of the boot before goes with its network, but the kernel takes its time.
    nsenter --net="$run_dir/network" -- ip link delete "$1" 2>/dev/null || true
    nsenter --net="$run_dir/network" -- ip link add "$1" mtu 65535 type veth \
        peer name "$2" address "$3" mtu 1500 netns "$run_dir/own-network"
    nsenter --net="$run_dir/network" -- ip link set "$1" master "kk$4" up
}

keep_booting() {
    local status=133
    while [ "$status" = 133 ]; do # systemd-nspawn(1): 133 says that the machine is to be rebooted
        plug_cables
        touch "$run_dir/started"
        status=0
        # In the machine's network already: its /sys is that of the network it is mounted from.
        (enter_cgroups && exec nsenter --net="$run_dir/own-network" -- "$@") \
            </dev/null >>"$run_dir/console.log" 2>&1 || status=$?
        umount "$run_dir/own-network"
    done
    return "$status"
}

# In functions, so that all of it is read before any of it runs: it runs as long as the machine,
# and the file may be replaced by a newer one meanwhile.
main() {
    if [ "$1" != --inside ]; then
        exec >>"$1/keeper.log" 2>&1
        cgroup=-
        if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
            split_cgroup "$5"
        fi
        # /proc will be our own: the network's namespace is handed down as an open file.
        exec 8<"/proc/$3/ns/net"
        exec unshare --mount --pid --fork --kill-child=SIGKILL --mount-proc -- \
            "$BASH" "$0" --inside "$cgroup" "$@"
    fi
    cgroup=$2 run_dir=$3 lower=$4 macs=$6 cable=$7 api_port=$8 api_address=$9
    shift 9
    # Held by everything below, so that nobody removes the root that this machine runs on.
    exec 9<"$lower.lock"
    flock --shared 9
    find_cgroups
    mount_root
    find_network
    forward_api
    keep_booting "$@"
    exit
}

main "$@"
