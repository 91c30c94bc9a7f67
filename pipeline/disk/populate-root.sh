#!/bin/sh
# Unpack a root tar and make the ext4 file system of it inside a disk file.
#
# populate-root.sh TAR SCRATCH ESP_DIR BOOT_DIR MKE2FS-ARGUMENT…
# As root, in a sandbox whose tmpfs is SCRATCH: gone with the process, whatever ends it.
set -eu

tar=$1 scratch=$2 esp=$3 boot=$4
shift 4

tree=$scratch/tree
mkdir "$tree"
tar -C "$tree" -x --numeric-owner --xattrs --xattrs-include='*' -f "$tar"
# dib leaves these out of its tar.
install -d -m 0555 "$tree/proc" "$tree/sys"

# The pipeline, which is not root, needs these.
cp -r --no-preserve=mode,ownership "$tree/boot/efi/." "$esp"
cp --no-preserve=mode,ownership "$tree"/boot/grub/*/boot.img "$tree"/boot/grub/*/core.img "$boot" ||
    [ ! -e "$tree/boot/grub/i386-pc" ]
rm -rf "$tree/boot/efi"/*
cp --no-preserve=mode,ownership "$tree/var/lib/dpkg/status" "$boot/dpkg-status"

mke2fs -d "$tree" "$@"
