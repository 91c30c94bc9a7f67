# SPDX-License-Identifier: Apache-2.0
"""What may a configuration say of how user-data is kept from those who pass it on? (`userdata:`)"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from cloudinit.modeltypes import is_dns_name, is_plain_address
from kubekiln.config import Model, invalid

ProtectName = Literal["none", "age", "url"]
_URL = re.compile(r"https://(\[(?P<ipv6>[0-9a-fA-F:.]+)\]|(?P<name>[-a-z0-9.]+)):(?P<port>\d+)/?")


def _is_host(found: re.Match[str]) -> bool:
    if found["ipv6"]:
        return ":" in found["ipv6"] and is_plain_address(found["ipv6"])
    return is_plain_address(found["name"]) or is_dns_name(found["name"])


def _server(value: str) -> str:
    found = _URL.fullmatch(value)
    if not found or not _is_host(found) or not 0 < int(found["port"]) < 65536:
        raise invalid(
            f"{value!r} is not https://HOST:PORT",
            hint="where the nodes reach `kubekiln serve`, such as https://10.80.0.5:8443",
        )
    return value.rstrip("/")


class UserData(Model):
    """What the platform is given of a node's user-data (docs/secrets.md)."""

    protect: ProtectName = "none"
    """`none`: all of it. `age`: encrypted; the machine gets its key another way (build/keys).
    `url`: an address at which the machine, once, gets the rest from `kubekiln serve`."""
    server: Annotated[str, AfterValidator(_server)] | None = Field(
        default=None, examples=["https://10.80.0.5:8443"]
    )
    """Where the nodes reach `kubekiln serve`, for `protect: url`."""
    server_hours: int = Field(default=24, ge=1, le=8760)
    """Hours, since it was first rendered, for which a node may fetch its user-data."""
