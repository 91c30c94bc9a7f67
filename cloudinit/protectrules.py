# SPDX-License-Identifier: Apache-2.0
"""Which rules does `userdata` have to keep?"""

from __future__ import annotations

from collections.abc import Iterator

from cloudinit.finding import Finding, Rule
from cloudinit.model import Cluster


def a_server_is_there_for_who_asks_it(cluster: Cluster) -> Iterator[Finding]:
    """A node that is to fetch must be told where; one that isn't has no use for it."""
    settings = cluster.userdata
    if settings.protect == "url" and settings.server is None:
        yield Finding(
            ("userdata", "protect"),
            "protect url needs userdata.server, where the nodes reach `kubekiln serve`",
            "such as server: https://10.80.0.5:8443",
        )
    if settings.protect != "url" and settings.server is not None:
        yield Finding(
            ("userdata", "server"),
            f"server {settings.server} is for protect: url, not for {settings.protect}",
        )


def a_pool_is_no_single_machine(cluster: Cluster) -> Iterator[Finding]:
    """What may be fetched once can't be for any number of machines."""
    if cluster.pools and cluster.userdata.protect == "url":
        yield Finding(
            ("userdata", "protect"),
            f"protect url gives user-data to one machine once; pool "
            f"{cluster.pools[0].name} has many",
            "take protect: age, or none: a pool's user-data holds no key but its token",
        )


PROTECT_RULES: tuple[Rule, ...] = (a_server_is_there_for_who_asks_it, a_pool_is_no_single_machine)
