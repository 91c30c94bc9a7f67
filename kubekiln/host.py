# SPDX-License-Identifier: Apache-2.0
"""Which programs of the host does kubekiln need, for what, and which package has them?

Standard library only: `kubekiln.bootstrap` reads this table before anything is installed.
Package names are those of Debian 12, Debian 13 and Ubuntu 24.04.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tool:
    """A program (or a file) that a host must have for a part of the work."""

    name: str
    package: str
    purpose: str
    scope: str
    """`bake`, `qemu`, `nspawn` or `check`."""

    def is_there(self) -> bool:
        """Tell whether the program is in PATH or a system directory, or the file exists."""
        if self.name.startswith("/"):
            return Path(self.name).exists()
        search = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
        return shutil.which(self.name, path=search) is not None


TOOLS: tuple[Tool, ...] = (
    Tool("sudo", "sudo", "diskimage-builder calls it, also as root", "bake"),
    Tool("lsb_release", "lsb-release", "diskimage-builder asks it for the host", "bake"),
    Tool("mmdebstrap", "mmdebstrap", "makes the Debian root file system", "bake"),
    Tool(
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
        "verifies the Debian mirror",
        "bake",
    ),
    Tool("sfdisk", "fdisk", "writes the partition table", "bake"),
    Tool("mke2fs", "e2fsprogs", "makes the root file system from a directory", "bake"),
    Tool("debugfs", "e2fsprogs", "reads the finished disk back", "bake"),
    Tool("mkfs.vfat", "dosfstools", "makes the EFI system partition", "bake"),
    Tool("mcopy", "mtools", "fills the EFI system partition", "bake"),
    Tool("qemu-img", "qemu-utils", "converts and checks disk images", "bake"),
    Tool("zstd", "zstd", "compresses the root file system", "bake"),
    Tool("unshare", "util-linux", "keeps every mount of a bake private to it", "bake"),
    Tool("qemu-system-x86_64", "qemu-system-x86", "runs machines", "qemu"),
    Tool("systemd-nspawn", "systemd-container", "runs machines as containers", "nspawn"),
    Tool("ip", "iproute2", "gives container machines their own network", "nspawn"),
    Tool("/usr/share/ovmf/OVMF.fd", "ovmf", "boots a disk under UEFI in a test", "check"),
    Tool("dnsmasq", "dnsmasq-base", "gives addresses to machines in a test", "check"),
    Tool("libvirtd", "libvirt-daemon", "the server that a target is tested on", "check"),
    Tool(
        "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so",
        "libvirt-daemon-driver-qemu",
        "lets libvirt run machines",
        "check",
    ),
    Tool("/usr/include/libvirt/libvirt.h", "libvirt-dev", "builds libvirt's binding", "check"),
    Tool("pkg-config", "pkg-config", "builds libvirt's binding", "check"),
    Tool("gcc", "gcc", "builds libvirt's binding", "check"),
    Tool(
        f"{sysconfig.get_path('include')}/Python.h",
        "python3-dev",
        "builds libvirt's binding",
        "check",
    ),
    Tool("gpgv", "gpgv", "verifies signatures when a pin is made", "check"),
    Tool("openssl", "openssl", "checks certificates in tests", "check"),
    Tool("shellcheck", "shellcheck", "lints the elements", "check"),
    Tool("shfmt", "shfmt", "formats the elements", "check"),
    Tool("systemd-analyze", "systemd", "verifies units", "check"),
)


def missing_tools(*scopes: str) -> list[Tool]:
    """List the tools that this host lacks, of these scopes (of all, if none is given)."""
    return [t for t in TOOLS if (not scopes or t.scope in scopes) and not t.is_there()]
