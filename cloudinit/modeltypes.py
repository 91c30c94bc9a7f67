# SPDX-License-Identifier: Apache-2.0
"""Which values may stand in a cluster's configuration, and what is said of a wrong one?"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from kubekiln.config import CIDR, IPNetwork, invalid

# RFC 1123: what Kubernetes takes as a node name, and the kernel as a host name of one label.
_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
DOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

RoleName = Literal["single", "master", "etcd", "worker", "lb"]
DatasourceName = Literal[
    "nocloud", "ec2", "linode", "hetzner", "cloudstack", "openstack", "azure", "vsphere", "gce"
]
AlgorithmName = Literal["p256", "p384", "rsa2048", "rsa3072", "rsa4096"]


def _label(value: object) -> object:
    if isinstance(value, str) and not re.match(_LABEL, value):
        raise invalid(
            f"{value!r} is not a host name",
            hint="RFC 1123: a-z, 0-9 and '-', at most 63, not at either end, no capitals",
        )
    return value


def _only_ipv4(value: object) -> object:
    if isinstance(value, str) and ":" in value:
        raise invalid(f"{value!r} is IPv6", hint="only IPv4 addresses are supported so far")
    return value


def _recipient(value: object) -> object:
    import pyrage

    if not isinstance(value, str):
        return value
    try:
        pyrage.x25519.Recipient.from_str(value)
    except pyrage.RecipientError:
        raise invalid(
            f"{value[:20]!r}… is not a recipient of age"
            if len(value) > 20
            else f"{value!r} is not a recipient of age",
            hint="it begins with age1; `age-keygen -y KEYFILE` prints it",
        ) from None
    return value


def _network_of_ipv4(value: IPNetwork) -> IPv4Network:
    if not isinstance(value, IPv4Network):
        raise invalid(f"{value} is IPv6", hint="only IPv4 networks are supported so far")
    return value


Recipient = Annotated[str, BeforeValidator(_recipient)]
Label = Annotated[str, BeforeValidator(_label), Field(pattern=_LABEL)]
Address = Annotated[IPv4Address, BeforeValidator(_only_ipv4)]
if TYPE_CHECKING:
    Network4 = IPv4Network
else:
    Network4 = Annotated[CIDR, AfterValidator(_network_of_ipv4)]
