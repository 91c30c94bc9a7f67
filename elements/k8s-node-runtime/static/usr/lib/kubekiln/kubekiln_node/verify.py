# SPDX-License-Identifier: Apache-2.0
"""Is everything on this machine that the node manifest promises, unchanged and meant for it?"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING

from kubekiln_node.manifest import Manifest, WrittenFile
from kubekiln_node.pool import has_name

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE_PATH = "/etc/kubekiln/image.json"
UNIT_DIRS = ("/etc/systemd/system", "/usr/lib/systemd/system")
HASH_CHUNK = 1 << 20


def find_problems(
    manifest: Manifest, *, host_name: str, root: str = "", owner_of: Callable[[int, int], str]
) -> list[str]:
    """Compare the machine with the manifest; every problem, in a stable order."""
    return [
        *_identity_problems(manifest, host_name),
        *_image_problems(manifest, root),
        *(p for item in manifest.files for p in _file_problems(item, root, owner_of)),
        *_unit_problems(manifest, root),
    ]


def owner_name(uid: int, gid: int) -> str:
    """Name a file's owner as `user:group`; numbers where the machine knows no name."""
    if uid == 0 and gid == 0:
        return "root:root"  # nearly every file: spare the look-up
    import grp
    import pwd

    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    try:
        group = grp.getgrgid(gid).gr_name
    except KeyError:
        group = str(gid)
    return f"{user}:{group}"


def _identity_problems(manifest: Manifest, host_name: str) -> list[str]:
    # The kubelet registers under the host name, and its certificate carries the node's.
    pool = manifest.pool
    if pool is not None:
        if has_name(pool.prefix, host_name.lower()):
            return []
        return [
            f"this machine is called {host_name}, and those of pool {pool.name} are called "
            f"{pool.prefix}…: its name comes from the platform's meta-data (local-hostname)"
        ]
    if host_name.lower().partition(".")[0] == manifest.node.lower().partition(".")[0]:
        return []
    return [f"foreign user-data: it is for node {manifest.node}, this machine is {host_name}"]


def _image_problems(manifest: Manifest, root: str) -> list[str]:
    try:
        with open(root + IMAGE_PATH, encoding="utf-8") as stream:
            image = json.load(stream)
        has = image.get("kubernetes")
    except (OSError, ValueError, AttributeError) as error:
        return [f"{IMAGE_PATH} is unreadable: {error}"]
    if not has:
        return [f"this image carries no kubernetes, the node needs {manifest.kubernetes}"]
    if has != manifest.kubernetes:
        return [f"this image carries kubernetes {has}, the node needs {manifest.kubernetes}"]
    return []


def _file_problems(item: WrittenFile, root: str, owner_of: Callable[[int, int], str]) -> list[str]:
    try:
        # O_NOFOLLOW: a link in the place of a key would pass the hash and lie about the mode.
        fd = os.open(root + item.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return [f"{item.path} is missing"]
    except OSError as error:
        return [f"{item.path} can't be opened: {error.strerror}"]
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        return [f"{item.path} is not a regular file"]
    problems = []
    with os.fdopen(fd, "rb") as stream:
        mode = stat.S_IMODE(found.st_mode)
        if mode != item.mode:
            problems.append(f"{item.path} has mode {mode:04o}, wanted {item.mode:04o}")
        owner = owner_of(found.st_uid, found.st_gid)
        if owner != item.owner:
            problems.append(f"{item.path} belongs to {owner}, wanted {item.owner}")
        digest = hashlib.sha256()
        while chunk := stream.read(HASH_CHUNK):
            digest.update(chunk)
    # Half a hash is as good against damage, and less of user-data (cloudinit/userdata.py).
    if not digest.hexdigest().startswith(item.sha256):
        problems.append(
            f"{item.path} is damaged: sha256 {digest.hexdigest()[:12]}…, wanted {item.sha256[:12]}…"
        )
    return problems


def _unit_problems(manifest: Manifest, root: str) -> list[str]:
    return [
        f"unit {unit} is nowhere on this machine"
        for unit in manifest.units
        if not any(os.path.isfile(f"{root}{place}/{unit}") for place in UNIT_DIRS)
    ]
