# SPDX-License-Identifier: Apache-2.0
"""Which values may stand in a cluster's configuration, and what is said of a wrong one?"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, ip_address, ip_interface
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from cloudinit.families import IPAddress, IPInterface, IPNetwork, families_of, name_families
from kubekiln.config import CIDR, invalid

# RFC 1123: what Kubernetes takes as a node name, and the kernel as a host name of one label.
_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_LABEL_START = r"^[a-z0-9][-a-z0-9]{0,57}$"
DOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

RoleName = Literal["single", "master", "etcd", "worker", "lb"]
BootstrapName = Literal["systemd", "kubeadm"]
BackendName = Literal["vxlan", "host-gw", "udp"]
AlgorithmName = Literal["p256", "p384", "rsa2048", "rsa3072", "rsa4096"]


_SAN_LENGTH = 253


def is_label(value: str) -> bool:
    """Tell whether a text is a host name of one label."""
    return re.fullmatch(_LABEL, value) is not None


def _label(value: object) -> object:
    if isinstance(value, str) and not is_label(value):
        raise invalid(
            f"{value!r} is not a host name",
            hint="RFC 1123: a-z, 0-9 and '-', at most 63, not at either end, no capitals",
        )
    return value


def _address(value: object) -> object:
    if isinstance(value, int | float):
        raise invalid(f"{value} is not an address", hint="write it as 10.80.0.11 or fd00:80::11")
    if not isinstance(value, str):
        return value
    if not is_plain_address(value):
        raise invalid(f"{value!r} is not an address", hint="write it as 10.80.0.11 or fd00:80::11")
    return ip_address(value)


def _interface(value: object) -> object:
    if not isinstance(value, str | int | float):
        return value
    address, _, length = str(value).partition("/")
    try:
        if is_plain_address(address) and length:
            return ip_interface(str(value))
    except ValueError:
        pass
    raise invalid(
        f"{value!r} is not an address with prefix length",
        hint="write it as 10.90.0.11/24 or fd00:90::11/64",
    )


def is_plain_address(value: str) -> bool:
    """Tell whether a text is an address that means the same on every machine."""
    try:
        ip_address(value)
    except ValueError:
        return False
    # A zone (fe80::1%eth0) is a name on one machine only.
    return "%" not in value


def _alternative_name(value: object) -> object:
    """Take what a certificate can name, in the form that kubeadm takes, too."""
    if isinstance(value, str) and not (is_plain_address(value) or is_dns_name(value)):
        raise invalid(
            f"{value!r} is neither a DNS name nor an address",
            hint="name or address alone, no capitals; the port is api.port",
        )
    return value


def _server(value: object) -> object:
    """Take who can be asked: an address, or one name."""
    if isinstance(value, str) and value.startswith("*."):
        raise invalid(
            f"{value!r} is no one server's name", hint="write its own name, or its address"
        )
    return _alternative_name(value)


def is_dns_name(value: str) -> bool:
    """Tell whether a text is a DNS name, or all names below one (`*.`)."""
    labels = value.removeprefix("*.").split(".")
    # No domain of the top is a number: 10.80.0.256 is an address that is wrong.
    return (
        len(value) <= _SAN_LENGTH
        and all(is_label(label) for label in labels)
        and not labels[-1].isdigit()
    )


def _label_start(value: object) -> object:
    if isinstance(value, str) and not re.match(_LABEL_START, value):
        raise invalid(
            f"{value!r} is not how a host name begins",
            hint="RFC 1123: a-z, 0-9 and '-', not first, at most 58 characters, no capitals",
        )
    return value


def _only_ipv4(value: object) -> object:
    if isinstance(value, str) and ":" in value:
        raise invalid(f"{value!r} is IPv6", hint="only IPv4 is supported here so far")
    return value


def listed(value: object) -> object:
    """Take one value, the usual form, as a list of it."""
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


def _one_of_each_family(values: tuple[Any, ...]) -> tuple[Any, ...]:
    families = families_of(values)
    if len(set(families)) < len(families):
        raise invalid(
            f"{len(families)} values, all or some of one family: {name_families(families)}",
            hint="give one, or a list of one IPv4 and one IPv6: the first is the primary one",
        )
    return values


def _plain(values: tuple[Any, ...]) -> str | list[str]:
    return str(values[0]) if len(values) == 1 else [str(value) for value in values]


def _schema(one: str, other: str) -> WithJsonSchema:
    several = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2}
    return WithJsonSchema({"anyOf": [{"type": "string"}, several], "examples": [one, [one, other]]})


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


Recipient = Annotated[str, BeforeValidator(_recipient)]
AlternativeName = Annotated[str, BeforeValidator(_alternative_name)]
Server = Annotated[str, BeforeValidator(_server)]
Label = Annotated[str, BeforeValidator(_label), Field(pattern=_LABEL)]
LabelStart = Annotated[str, BeforeValidator(_label_start), Field(pattern=_LABEL_START)]
if TYPE_CHECKING:
    Address = IPAddress
    Network4 = IPv4Network
    Addresses = tuple[IPAddress, ...]
    Interfaces = tuple[IPInterface, ...]
    Networks = tuple[IPNetwork, ...]
else:
    Network4 = Annotated[CIDR, BeforeValidator(_only_ipv4)]
    Address = Annotated[
        IPAddress, BeforeValidator(_address), WithJsonSchema({"type": "string", "format": "ip"})
    ]
    Addresses = Annotated[
        tuple[Address, ...],
        BeforeValidator(listed),
        AfterValidator(_one_of_each_family),
        PlainSerializer(_plain),
        _schema("10.80.0.11", "fd00:80::11"),
    ]
    Interfaces = Annotated[
        tuple[Annotated[IPInterface, BeforeValidator(_interface)], ...],
        BeforeValidator(listed),
        AfterValidator(_one_of_each_family),
        PlainSerializer(_plain),
        _schema("10.90.0.11/24", "fd00:90::11/64"),
    ]
    Networks = Annotated[
        tuple[CIDR, ...],
        BeforeValidator(listed),
        AfterValidator(_one_of_each_family),
        PlainSerializer(_plain),
        _schema("10.80.0.0/24", "fd00:80::/64"),
    ]
