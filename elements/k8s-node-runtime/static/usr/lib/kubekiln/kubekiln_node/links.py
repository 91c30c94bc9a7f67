# SPDX-License-Identifier: Apache-2.0
"""Does networkd know this machine's links, where their files came after it had started?

A seed disk is read before networkd starts. What comes over the network (a metadata service, a seed
by HTTP), or from a datasource that cloud-init reads in its network stage, finds it at work with
what cloud-init wrote by itself: a lease at first, then network-config as far as a card could be
renamed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubekiln_node.manifest import Manifest

DIRECTORY = "/etc/systemd/network/"
# systemd makes this link when it starts the unit.
STARTED = "/run/systemd/units/invocation:systemd-networkd.service"
# networkctl(1): links whose files are others now are configured anew, and no others.
RELOAD = ("networkctl", "reload")


def came_late(manifest: Manifest, *, root: str = "") -> bool:
    """Tell whether a file of a link is younger than networkd, which runs."""
    try:
        started = os.lstat(root + STARTED).st_mtime
    except FileNotFoundError:
        return False
    paths = [item.path for item in manifest.files if item.path.startswith(DIRECTORY)]
    return any(os.stat(root + path).st_mtime > started for path in paths)
