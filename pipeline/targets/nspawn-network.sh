#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Holds the network of one cluster's container machines: a namespace of its own with a bridge that
# has the gateway's addresses. It lives as long as this process: nothing of it is mounted or named on
# the host, and when the process is gone, so is the network.
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
ip link set kk0 up
touch "$network_dir/network.ready"
exec sleep infinity
