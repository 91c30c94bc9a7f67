# SPDX-License-Identifier: Apache-2.0
"""What do the names in a target's settings mean in the cloud? (Asked once, by several threads.)"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property

from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.openstack_client import Client
from pipeline.targets.openstack_errors import asking
from pipeline.targets.openstack_request import Flavor
from pipeline.targets.openstack_settings import Network, Settings


class Lookups:
    """Networks, security groups and flavors."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._lock = threading.RLock()

    @property
    def networks(self) -> Sequence[tuple[Network, str, Sequence[str]]]:
        """Each network of the settings with its id and those of its security groups.

        Raises KubekilnError with all that aren't there.
        """
        with self._lock:
            return self._networks

    @property
    def flavors(self) -> Sequence[Flavor]:
        """All that the project may use."""
        with self._lock:
            return self._flavors

    @cached_property
    def _networks(self) -> Sequence[tuple[Network, str, Sequence[str]]]:
        found, problems = [], []
        with asking("look for networks"):
            for network in self._settings.networks:
                there = self._client.network.find_network(network.name, ignore_missing=True)
                if there is None:
                    hint = "`openstack network list` says which there are"
                    problems.append(Problem(f"no network {network.name!r}", "networks", hint))
                    continue
                found.append((network, str(there.id), self._groups(network, problems)))
        if problems:
            raise KubekilnError.of(problems)
        return found

    def _groups(self, network: Network, problems: list[Problem]) -> Sequence[str]:
        ids = []
        for name in network.security_groups:
            there = self._client.network.find_security_group(name, ignore_missing=True)
            if there is None:
                hint = "`openstack security group list` says which there are"
                problems.append(Problem(f"no security group {name!r}", "networks", hint))
            else:
                ids.append(str(there.id))
        return ids

    @cached_property
    def _flavors(self) -> Sequence[Flavor]:
        with asking("list flavors"):
            return [
                Flavor(str(f.id), str(f.name), int(f.vcpus), int(f.ram), int(f.disk))
                for f in self._client.compute.flavors()
            ]
