# SPDX-License-Identifier: Apache-2.0
"""Whom does every node trust? (Part: the cluster's public certificate authority.)"""

from __future__ import annotations

from cloudinit.credentials import CA_PATH
from cloudinit.part import Context, NodeFile, Part


def render(context: Context) -> Part:
    """Give the certificate that everything of Kubernetes is verified against."""
    certificate = context.state.authority("kubernetes").certificate
    keys = ("pki.algorithm", "pki.ca_days")
    return Part((NodeFile(CA_PATH, certificate, "state: authority kubernetes", keys),))
