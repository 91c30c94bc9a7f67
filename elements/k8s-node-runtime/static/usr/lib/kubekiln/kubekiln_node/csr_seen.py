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
    SERVING_SIGNER,
    USER_PREFIX,
    common_name,
    is_decided,
    read_request,
    spec_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# So long after an approval a machine may not have registered its Node yet.
REGISTERS_S = 120

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

    @property
    def is_approved(self) -> bool:
        """Whether its machine has the certificate, or is about to."""
        return self._approval is not None

    def approved_s(self, now: datetime.datetime) -> float:
        """Give the seconds since it was approved; for ever ago if it wasn't."""
        approval = self._approval
        return _age_s(approval, now) if approval else float("inf")

    @property
    def _approval(self) -> Object | None:
        return next((c for c in _conditions(self.csr) if c.get("type") == "Approved"), None)


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

    @cached_property
    def served(self) -> dict[str, str]:
        """When each node last made a request for a serving certificate that was decided."""
        found: dict[str, str] = {}
        for csr in self._requests:
            spec = spec_of(csr)
            if spec.get("signerName") == SERVING_SIGNER and is_decided(csr):
                node = str(spec.get("username", "")).removeprefix(USER_PREFIX)
                found[node] = max(found.get(node, ""), created(csr))
        return found

    @property
    def expected(self) -> set[str]:
        """Which nodes were given a name just now, and have no Node yet.

        For two minutes: what has not come then may never come, and shall keep out nobody.
        """
        return {
            node
            for node, requests in self.asked.items()
            if node not in self.nodes
            and any(
                asked.approved_s(self.now) < REGISTERS_S and not self.has_registered(node, asked)
                for asked in requests
            )
        }

    def has_registered(self, node: str, asked: Asked) -> bool:
        """Tell whether the machine that asked to be this node has since had its Node.

        Without a Node no request for a serving certificate is decided, and only the holder of the
        node's certificate can make one. It is kept for longer than the request before it.
        """
        return self.served.get(node, "") > created(asked.csr)


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
