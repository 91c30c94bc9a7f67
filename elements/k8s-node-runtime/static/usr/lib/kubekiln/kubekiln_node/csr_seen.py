# SPDX-License-Identifier: Apache-2.0
"""What does one look at the API show of the requests and Nodes that others' claims depend on?

Nothing is kept from one look to the next: what a master knows, any other one sees as well.
"""

from __future__ import annotations

import datetime
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from kubekiln_node.csr_request import (
    CLIENT_SIGNER,
    USER_PREFIX,
    common_name,
    is_decided,
    read_request,
    spec_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Object = dict[str, object]


class Asked(NamedTuple):
    """A request for a node's first certificate, which was read."""

    csr: Object
    key: bytes

    @property
    def name(self) -> str:
        """The request's name."""
        return name_of(self.csr)

    @property
    def order(self) -> tuple[str, str]:
        """What all masters sort requests by, so that no two say yes to two machines."""
        return created(self.csr), self.name

    @property
    def is_decided(self) -> bool:
        """Whether somebody approved or denied it."""
        return is_decided(self.csr)

    def approved_s(self, now: datetime.datetime) -> float | None:
        """Give the seconds since it was approved; None if it wasn't."""
        for condition in _conditions(self.csr):
            if condition.get("type") == "Approved":
                return _age_s(condition, now)
        return None


class Seen:
    """All requests, and the Nodes once somebody needs them; each is read once a look."""

    def __init__(
        self,
        requests: Iterable[Object],
        list_nodes: Callable[[], Iterable[Object]],
        now: datetime.datetime,
    ) -> None:
        self._requests = list(requests)
        self._list_nodes = list_nodes
        self.now = now

    @cached_property
    def nodes(self) -> dict[str, frozenset[str]]:
        """Each Node's addresses."""
        return {name_of(node): addresses_of(node) for node in self._list_nodes()}

    @cached_property
    def asked(self) -> dict[str, list[Asked]]:
        """The requests for first certificates, by the node that each would be."""
        found: dict[str, list[Asked]] = {}
        for csr in self._requests:
            if spec_of(csr).get("signerName") != CLIENT_SIGNER:
                continue
            if request := read_request(spec_of(csr)):
                node = common_name(request).removeprefix(USER_PREFIX)
                found.setdefault(node, []).append(Asked(csr, request.key))
        return found


def addresses_of(node: Object) -> frozenset[str]:
    """Give the addresses in a Node's status."""
    status = node.get("status")
    found = status.get("addresses") if isinstance(status, dict) else None
    return frozenset(
        str(item.get("address"))
        for item in found or []
        if isinstance(item, dict) and item.get("type") in ("InternalIP", "ExternalIP")
    )


def name_of(item: Object) -> str:
    """Give an object's name."""
    metadata = item.get("metadata")
    return str(metadata.get("name")) if isinstance(metadata, dict) else "?"


def created(item: Object) -> str:
    """Give when an object was made; as RFC 3339 in UTC, it sorts as text."""
    metadata = item.get("metadata")
    found = metadata.get("creationTimestamp") if isinstance(metadata, dict) else None
    return str(found or "")


def _conditions(csr: Object) -> list[Object]:
    status = csr.get("status")
    found = status.get("conditions") if isinstance(status, dict) else None
    return [condition for condition in found or [] if isinstance(condition, dict)]


def _age_s(condition: Object, now: datetime.datetime) -> float:
    try:
        then = datetime.datetime.fromisoformat(str(condition.get("lastUpdateTime")))
        return (now - then).total_seconds()
    except (ValueError, TypeError):
        return 0.0
