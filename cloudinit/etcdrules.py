# SPDX-License-Identifier: Apache-2.0
"""Which rules do a cluster's databases have to keep?"""

from __future__ import annotations

from collections.abc import Iterator

from cloudinit import sizing
from cloudinit.finding import Finding, Rule
from cloudinit.model import Cluster

_MIB_PER_GIB = 1024
# Up to seven files of 64 MiB of its log, its snapshots, and what the file system itself takes.
_LOG_MIB = 1024


def etcd_survives_what_it_seems_to(cluster: Cluster) -> Iterator[Finding]:
    """An even number of members survives no more failures than one less, and more can fail.

    https://etcd.io/docs/v3.6/faq/#why-an-odd-number-of-cluster-members
    """
    count = len(cluster.etcd_members)
    if count > 1 and count % 2 == 0:
        yield Finding(
            ("nodes",),
            f"etcd would have {count} members: they survive no more failures than {count - 1}",
            f"take {count - 1} or {count + 1} of {cluster.etcd_members[0].role}",
        )
    elif count > 7:
        yield Finding(
            ("nodes",),
            f"etcd would have {count} members, each of which must take every write",
            "take 3 or 5, of role etcd, and more masters without a database",
        )


def the_disk_has_room_for_the_database_twice(cluster: Cluster) -> Iterator[Finding]:
    """Defragmenting and etcd-restore write a second database before the first one goes."""
    disk_gib, quota_mib = cluster.etcd.disk_gib, sizing.etcd_quota_mib(cluster)
    if disk_gib is None:
        return
    needed_gib = -(-(2 * quota_mib + _LOG_MIB) // _MIB_PER_GIB)
    fitting_mib = (disk_gib * _MIB_PER_GIB - _LOG_MIB) // 2
    if disk_gib < needed_gib:
        smaller = f", or quota_mib: {fitting_mib} or less" if fitting_mib else ""
        yield Finding(
            ("etcd", "disk_gib"),
            f"disk_gib {disk_gib} has no room for a database of {quota_mib} MiB (quota_mib), its "
            "copy and its log",
            f"give disk_gib: {needed_gib} or more{smaller}",
        )


ETCD_RULES: tuple[Rule, ...] = (
    etcd_survives_what_it_seems_to,
    the_disk_has_room_for_the_database_twice,
)
