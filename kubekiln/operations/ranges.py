# SPDX-License-Identifier: Apache-2.0
"""Which node network and which port of this host does no other cluster have?"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from kubekiln.errors import ConfigError
from kubekiln.paths import Project
from pipeline.targets.ports import is_free
from pipeline.targets.record import list_records

if TYPE_CHECKING:
    from cloudinit.model import Cluster

# Beside the ranges of our own examples (10.80 to 10.84), the pods' and the services'.
_NETWORKS = IPv4Network("10.90.0.0/16")
_PREFIX = 24
_PORTS = range(6500, 7000)


def free_node_network(project: Project, clusters: Sequence[Cluster]) -> IPv4Network:
    """Give a network that overlaps none of these clusters' and of no machine that is there."""
    taken: list[IPv4Network | IPv6Network] = []
    for cluster in clusters:
        taken += [network for _, network in cluster.network.networks()]
    machines = [record.machine for record in list_records(project.machines_dir)]
    taken += [address.network for machine in machines for address in machine.addresses]
    for candidate in _NETWORKS.subnets(new_prefix=_PREFIX):
        if not any(isinstance(t, IPv4Network) and candidate.overlaps(t) for t in taken):
            return candidate
    raise ConfigError(
        f"no network of {_NETWORKS} is free for another cluster",
        hint="`kubekiln cluster list` shows whose they are; `kubekiln down NAME --forget`",
    )


def free_host_port(project: Project, clusters: Sequence[Cluster]) -> int:
    """Give a port of 127.0.0.1 that none of these clusters has and nobody listens on now."""
    taken = {cluster.api.host_port for cluster in clusters}
    taken |= {r.machine.api_host_port or 0 for r in list_records(project.machines_dir)}
    for port in _PORTS:
        if port not in taken and is_free(port):
            return port
    raise ConfigError(f"no port of {_PORTS[0]} to {_PORTS[-1]} is free for a cluster's API")
