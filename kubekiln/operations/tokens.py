# SPDX-License-Identifier: Apache-2.0
"""Until when may machines join a cluster's pools, and how does it learn of new tokens?

Masters apply the tokens that they were rendered with; a later one is given to the API from here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from cloudinit.bootstraptoken import BootstrapToken, token_object
from cloudinit.model import Cluster
from cloudinit.nodepool import NodePool
from cloudinit.render import open_state, render_cluster
from kubekiln.errors import ConfigError
from kubekiln.operations.kubectl import admin_for
from kubekiln.paths import Project
from kubekiln.secret import Secret


@dataclass(frozen=True)
class PoolToken:
    """A pool and the token in the user-data that was rendered last."""

    pool: NodePool
    token: BootstrapToken

    def days_left(self, now: datetime) -> float:
        """Tell how many days are left; less than none if it has ended."""
        return (self.token.expires - now).total_seconds() / 86400


def rendered_tokens(project: Project, cluster: Cluster) -> tuple[PoolToken, ...]:
    """List the pools' tokens; raises ConfigError if there are none, or not yet."""
    if not cluster.pools:
        raise ConfigError(f"cluster {cluster.name} has no pools", hint="docs/pools.md says how")
    tokens = open_state(cluster, project).tokens
    missing = [pool.name for pool in cluster.pools if pool.name not in tokens]
    if missing:
        raise ConfigError(
            f"no token yet for pool {', '.join(missing)}",
            hint=f"`kubekiln cluster render {cluster.name}` makes it",
        )
    return tuple(PoolToken(pool, tokens[pool.name]) for pool in cluster.pools)


def renew_tokens(
    project: Project, cluster: Cluster, pools: Collection[str]
) -> tuple[PoolToken, ...]:
    """Render the cluster with new tokens for these pools; gives the ones that they had.

    Raises ConfigError if there is no such pool, or if it has no token yet.
    """
    before = {item.pool.name: item for item in rendered_tokens(project, cluster)}
    if unknown := sorted(set(pools) - before.keys()):
        raise ConfigError(
            f"cluster {cluster.name} has no pool {', '.join(unknown)}",
            hint=f"there are: {', '.join(before)}",
        )
    render_cluster(cluster, project=project, new_tokens=set(pools))
    return tuple(before[name] for name in dict.fromkeys(pools))


def manifest(tokens: tuple[PoolToken, ...]) -> Secret:
    """Write the tokens as Kubernetes objects."""
    items = [token_object(item.pool, item.token) for item in tokens]
    return Secret(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))


def apply_tokens(
    project: Project, cluster: Cluster, tokens: tuple[PoolToken, ...]
) -> Iterator[str]:
    """Give the tokens to the cluster's API; what it says, a line a token."""
    admin = admin_for(project, cluster, usage="kubekiln cluster tokens CLUSTER --apply")
    yield from admin.apply(manifest(tokens)).splitlines()
