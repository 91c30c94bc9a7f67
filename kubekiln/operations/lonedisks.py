# SPDX-License-Identifier: Apache-2.0
"""Is there a disk without its machine, which making that machine anew would remove?"""

from __future__ import annotations

from collections.abc import Iterable

from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.platform import Instance


def refuse_lone_disks(failed: Iterable[Instance], target: str) -> None:
    """Raise if a disk that was in use is left of a machine: only `destroy` removes it."""
    left = [
        Problem(
            f"of {one.node} only a disk is left, which may hold its data: "
            f"{', '.join(one.lone_disks)}",
            hint=f"`kubekiln destroy --target {target} --cluster {one.cluster} {one.node}` removes "
            "it; to keep it, take our mark off it first (docs/etcd-disk.md)",
        )
        for one in failed
        if one.state == "failed" and one.lone_disks
    ]
    if left:
        raise KubekilnError.of(left)
