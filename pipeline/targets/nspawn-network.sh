#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Holds the network of one cluster's container machines: a namespace of its own with a bridge that
# has the gateway's addresses, and one for the machines' further cards. It lives as long as this
# process: nothing of it is mounted or named on the host, and when the process is gone, so is the
# network.
# Usage: nspawn-network.sh NETWORK_DIR GATEWAY/PREFIX…
set -eu
set -o pipefail

if [ "$1" != --inside ]; then
    # A process namespace too: ending unshare ends all that is in it.
    exec unshare --net --pid --fork --kill-child=SIGKILL -- "$BASH" "$0" --inside "$@"
fi
network_dir=$2
shift 2

ip link set lo up
ip link add kk0 type bridge
for gateway in "$@"; do
    nodad=()
    # Nobody else is there yet, and it is to be in use when the first machine comes.
    [[ $gateway != *:* ]] || nodad=(nodad)
    ip address add "$gateway" dev kk0 "${nodad[@]}"
done
# The host speaks as most do, whatever its ports carry.
ip link set kk0 mtu 1500 up
ip link add kk1 type bridge
ip link set kk1 up
touch "$network_dir/network.ready"
exec sleep infinity
