# SPDX-License-Identifier: Apache-2.0
"""How does a machine of a pool become a node of its own? (Part: what runs before its kubelet.)"""

from __future__ import annotations

from cloudinit.part import Context, Part, unit


def render(context: Context) -> Part:
    """Give the unit that finds out the machine's address and looks whether its token is taken."""
    del context
    name = "kubekiln-join.service"
    return Part(files=(unit(name),), units=(name,))
