# SPDX-License-Identifier: Apache-2.0
"""Which machines does a pool take in? By how they are called, where they are, and until when."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

# RFC 1123, as Kubernetes and the kernel take a name of one label.
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
KEYS = {"name": str, "prefix": str, "addresses": str, "token_id": str, "token_expires": int}


class Pool(NamedTuple):
    """What a node manifest says of the pool that its machine is of."""

    name: str
    prefix: str
    addresses: str
    token_id: str
    token_expires: int
    """When the token ends, in seconds since 1970."""


def read_pool(raw: object) -> Pool:
    """Read the manifest's pool; raises ValueError with what is wrong."""
    if not isinstance(raw, dict) or set(raw) != set(KEYS):
        raise ValueError(f"pool must have exactly {', '.join(KEYS)}")
    for key, kind in KEYS.items():
        if type(raw[key]) is not kind or not raw[key]:
            raise ValueError(f"pool.{key} is {raw[key]!r}")
    has_address(raw["addresses"], "0.0.0.0")  # noqa: S104 - raises where it is no network
    return Pool(**raw)


def has_name(prefix: str, name: str) -> bool:
    """Tell whether a pool with this prefix may have a machine of this name."""
    return name.startswith(prefix) and LABEL.fullmatch(name) is not None


def has_address(addresses: str, address: str) -> bool:
    """Tell whether a machine at this address is where the pool's machines are.

    What is no address is nowhere: a kubelet writes into its Node's status what it likes.
    """
    import ipaddress  # most nodes are of no pool, and it is slow on an emulated CPU

    network = ipaddress.ip_network(addresses)
    try:
        return ipaddress.ip_address(address) in network
    except ValueError:
        return False


def has_certificate(path: str) -> bool:
    """Tell whether the kubelet has got its certificate, and so needs no token any more."""
    return os.path.exists(path)
