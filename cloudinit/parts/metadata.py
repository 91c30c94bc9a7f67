# SPDX-License-Identifier: Apache-2.0
"""May pods ask the platform's metadata address? (Part: the rule of the image that forbids it.)"""

from __future__ import annotations

from cloudinit.part import Context, Part


def render(context: Context) -> Part:
    """Start the image's rule before the first pod, unless the cluster allows it."""
    allowed = context.cluster.network.allow_metadata
    return Part(files=(), units=() if allowed else ("kubekiln-metadata.service",))
