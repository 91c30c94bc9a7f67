# SPDX-License-Identifier: Apache-2.0
"""Where else on this machine is its user-data, once the gate is open, and how is it forgotten?

The files that it brought are where they belong. What cloud-init keeps beside them, what a platform
left in a place that any process may ask, and the disk that it came on would only be read by others.
"""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING

from kubekiln_node.console import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# What cloud-init 25.1 writes of an instance (its helpers.Paths): as it came, with its inclusions,
# merged, and pickled.
INSTANCES_DIR = "/var/lib/cloud/instances"
OF_AN_INSTANCE = (
    "boothooks", "cloud-config.txt", "obj.pkl", "scripts", "user-data.txt", "user-data.txt.i",
    "vendor-cloud-config.txt", "vendor-data.txt", "vendor-data.txt.i", "vendor-data2.txt",
    "vendor-data2.txt.i", "vendor2-cloud-config.txt",
)  # fmt: skip
SEED_DIR = "/var/lib/cloud/seed"
OTHERS = (
    "/run/cloud-init/combined-cloud-config.json",
    "/run/cloud-init/instance-data-sensitive.json",
    # Azure's custom data, in base64.
    "/var/lib/waagent/ovf-env.xml",
    # kubekiln_node.protected removes it itself, unless the machine is reset just then.
    "/etc/kubekiln/user-data.rest",
)
STATUS = "/run/cloud-init/status.json"
# As cloud-init's own clean-up has it: a document of YAML that says nothing.
CLEAR_GUESTINFO = ("vmware-rpctool", "info-set guestinfo.userdata ---")
LABELS_DIR = "/dev/disk/by-label"
SEED_LABELS = ("CIDATA", "cidata", "config-2")
# linux/cdrom.h
CDROM_EJECT = 0x5309
CDROM_LOCK_DOOR = 0x5329


def forget_copies(*, root: str = "", tell: Callable[[str], None]) -> None:
    """Remove every copy below `root`; a seed that is mounted read-only is its host's business."""
    for path in copies(root):
        try:
            remove(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EBUSY):
                why = f"{path.removeprefix(root)}: {error.strerror}"
                tell(f"KUBEKILN userdata=kept reason={quote(why)}")


def give_back(
    *,
    root: str = "",
    run: Callable[[Sequence[str]], int],
    eject: Callable[[str], None] | None = None,
) -> None:
    """Clear what the platform shows to processes of this machine, and eject the seed's CD."""
    if "VMware" in _datasource(root) and os.path.exists(f"{root}/usr/bin/{CLEAR_GUESTINFO[0]}"):
        run(CLEAR_GUESTINFO)
    for label in SEED_LABELS:
        device = os.path.realpath(f"{root}{LABELS_DIR}/{label}")
        if os.path.basename(device).startswith("sr"):
            (eject or eject_disk)(device)


def copies(root: str) -> Iterator[str]:
    """Name what there may be."""
    for instance in _names(root + INSTANCES_DIR):
        yield from (f"{root}{INSTANCES_DIR}/{instance}/{name}" for name in OF_AN_INSTANCE)
    yield from (f"{root}{SEED_DIR}/{name}" for name in _names(root + SEED_DIR))
    yield from (root + path for path in OTHERS)


def remove(path: str) -> None:
    """Remove a file or a whole directory. (shutil's import costs more than all of this.)"""
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            remove(f"{path}/{name}")
        os.rmdir(path)
    else:
        os.unlink(path)


def eject_disk(device: str) -> None:
    """Open a CD drive's tray; a drive that has none, or a hypervisor that won't, is no error."""
    import fcntl

    try:
        fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        fcntl.ioctl(fd, CDROM_LOCK_DOOR, 0)  # udev locks it while a disk is in
        fcntl.ioctl(fd, CDROM_EJECT, 0)
    except OSError:
        pass
    finally:
        os.close(fd)


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _datasource(root: str) -> str:
    try:
        with open(root + STATUS, encoding="utf-8") as stream:
            return str(json.load(stream)["v1"]["datasource"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""
