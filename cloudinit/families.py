# SPDX-License-Identifier: Apache-2.0
"""How does one thing have an address of each family (IPv4, IPv6), and how is each written?

Everywhere the first value is that of the primary family: the one that a component which takes only
one address is given, and whose addresses come first where it takes both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import TypeVar

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network
SMALLEST_MTU = {4: 576, 6: 1280}
"""Every host must take a packet of this size in one piece (RFC 791, RFC 8200), by family."""
ValueT = TypeVar("ValueT", IPAddress, IPInterface, IPNetwork)


def families_of(values: Iterable[IPAddress | IPNetwork]) -> tuple[int, ...]:
    """Name the families of values in their order: 4, 6."""
    return tuple(value.version for value in values)


def name_families(families: Iterable[int]) -> str:
    """Say families as people do: `IPv4 and IPv6`."""
    return " and ".join(f"IPv{family}" for family in families)


def of_family(values: Sequence[ValueT], family: int) -> ValueT | None:
    """Give the one value of a family, if there is one."""
    return next((value for value in values if value.version == family), None)


def joined(values: Iterable[object]) -> str:
    """Write values as Kubernetes' options take a pair of them."""
    return ",".join(str(value) for value in values)


def in_url(address: IPAddress | str) -> str:
    """Write an address (or a name) as it stands before a port: IPv6 in brackets."""
    return f"[{address}]" if ":" in str(address) else str(address)
