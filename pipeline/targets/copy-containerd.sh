#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Give a machine a copy of the directory that the image's containerd has.
# Usage: copy-containerd.sh SOURCE TARGET
set -eu
set -o pipefail

source=$1 target=$2
snapshotter=io.containerd.snapshotter.v1.overlayfs

# copy PATH: what containerd writes to is the machine's own.
copy() {
    cp -a --reflink=auto "$source/$1" "$target/$1"
}

# link PATH: unpacked images are read only, and nearly all of it. Hard links if the machine's directory
# is on the same file system.
link() {
    cp -a --link "$source/$1" "$target/$1" 2>/dev/null || {
        rm -rf "${target:?}/$1"
        copy "$1"
    }
}

rm -rf "$target"
install -d -m 0710 "$target"
[ -d "$source" ] || exit 0
for path in "$source"/*; do
    [ "${path##*/}" = "$snapshotter" ] || copy "${path##*/}"
done
[ -d "$source/$snapshotter" ] || exit 0
install -d -m 0700 "$target/$snapshotter"
for path in "$source/$snapshotter"/*; do
    case $path in
        */snapshots) link "$snapshotter/${path##*/}" ;;
        *) copy "$snapshotter/${path##*/}" ;;
    esac
done
