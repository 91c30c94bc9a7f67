# SPDX-License-Identifier: Apache-2.0
"""How does a person at the node's console use the cluster? (Part: admin.conf.)"""

from __future__ import annotations

from cloudinit.credentials import identity
from cloudinit.part import Context, Part

ADMINS = "kubekiln:cluster-admins"


def render(context: Context) -> Part:
    """Give /etc/kubernetes/admin.conf; its group can be taken its rights, unlike system:masters."""
    return Part(files=identity(context, "admin", "kubernetes-admin", organization=ADMINS))
