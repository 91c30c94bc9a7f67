# SPDX-License-Identifier: Apache-2.0
"""What do the names in a target's settings mean in the cloud? (Asked once, by several threads.)"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from openstack.network.v2.network import Network as NeutronNetwork
from openstack.network.v2.security_group import SecurityGroup

from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.openstack_client import Client
from pipeline.targets.openstack_errors import asking
from pipeline.targets.openstack_request import Flavor
from pipeline.targets.openstack_settings import Network, Settings


class Lookups:
    """What is called so: networks, security groups and flavors."""

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
        problems: list[Problem] = []
        with asking("look for networks and security groups"):
            there = _ids(self._client.network.networks())
            # An administrator would see those of all projects.
            project = self._client.project_id
            groups = _ids(self._client.network.security_groups(project_id=project))
        found = [
            (
                network,
                _only("network", network.name, there, problems),
                [_only("security group", one, groups, problems) for one in network.security_groups],
            )
            for network in self._settings.networks
        ]
        if problems:
            raise KubekilnError.of(problems)
        return found

    @cached_property
    def _flavors(self) -> Sequence[Flavor]:
        with asking("list flavors"):
            return [
                Flavor(str(f.id), str(f.name), int(f.vcpus), int(f.ram), int(f.disk))
                for f in self._client.compute.flavors()
            ]


def _ids(things: Iterable[NeutronNetwork | SecurityGroup]) -> dict[str, set[str]]:
    ids: dict[str, set[str]] = {}
    for thing in things:
        for key in (str(thing.name), str(thing.id)):
            ids.setdefault(key, set()).add(str(thing.id))
    return ids


def _only(kind: str, name: str, ids: Mapping[str, set[str]], problems: list[Problem]) -> str:
    found = sorted(ids.get(name, ()))
    if not found:
        hint = f"`openstack {kind} list` says which there are"
        problems.append(Problem(f"no {kind} {name!r}", "networks", hint))
    elif len(found) > 1:
        hint = f"give the id of one: {', '.join(found)}"
        problems.append(Problem(f"{len(found)} {kind}s are called {name!r}", "networks", hint))
    return found[0] if found else ""
