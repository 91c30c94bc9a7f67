# SPDX-License-Identifier: Apache-2.0
"""What may a file of `configs/targets` say of a libvirt daemon?"""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Annotated, Literal

from pydantic import Field, model_validator

from kubekiln.config import CIDR, Model, invalid
from pipeline.targets.platform import TargetSettings

# Its DHCP server hands out the fifteenth address and those after it, used or not.
_LONGEST_PREFIX = 27
Port = Annotated[int, Field(ge=1, le=65535)]


class Forward(Model):
    """A port of the hypervisor's loopback that leads to one of a machine."""

    node: str
    """Name of the node."""
    host_port: Port = Field(examples=[6443])
    """TCP port on 127.0.0.1 of the host that the daemon runs on; `api.host_port` of the cluster, if
    the admin's kubeconfig is to be used there."""
    port: Port = 6443
    """TCP port of the machine; that of the API."""


class Network(Model):
    """What a network card is plugged into: one of `network`, `bridge` and `user`."""

    network: str | None = Field(default=None, examples=["default"])
    """A network of libvirt's, by its name."""
    bridge: str | None = Field(default=None, examples=["br0"])
    """A bridge of the host."""
    user: CIDR | None = Field(default=None, examples=["10.80.0.0/24"])
    """QEMU's user network, with these addresses: needs no privileges, and joins no machines. Its
    first address is the gateway, its third one the name server."""
    forwards: tuple[Forward, ...] = ()
    """Ways in, with `user`."""

    @model_validator(mode="after")
    def _is_one_thing(self) -> Network:
        given = [name for name in ("network", "bridge", "user") if getattr(self, name)]
        if len(given) != 1:
            raise invalid(
                f"a network is one thing, this is {' and '.join(given) or 'nothing'}",
                hint="give one of `network`, `bridge` and `user`",
            )
        if self.forwards and not self.user:
            raise invalid(f"{given[0]} {getattr(self, given[0])} has no forwards", at=["forwards"],
                          hint="only QEMU's user network has; here the machine's own address is "
                          "reached, if the host routes it")  # fmt: skip
        if self.user and not isinstance(self.user, IPv4Network):
            raise invalid(f"{self.user} is not IPv4", at=["user"],
                          hint="QEMU forwards no port to IPv6")  # fmt: skip
        if self.user and self.user.prefixlen > _LONGEST_PREFIX:
            raise invalid(f"{self.user} is too small", at=["user"],
                          hint=f"/{_LONGEST_PREFIX} or wider: QEMU keeps some of it")  # fmt: skip
        return self


class Settings(TargetSettings):
    """QEMU machines of a libvirt daemon, on this host or elsewhere."""

    type: Literal["libvirt"]
    """A libvirt daemon."""
    uri: str | None = Field(
        default=None, examples=["qemu:///system", "qemu+ssh://root@host/system", "qemu:///session"]
    )
    """Where the daemon is; if not given, where libvirt's own tools look: `LIBVIRT_DEFAULT_URI`,
    then `uri_default` of its libvirt.conf."""
    pool: str = "default"
    """Storage pool, of files (dir, fs, netfs), for images, disks, seeds and consoles."""
    key_pool: str | None = None
    """Storage pool, of files, for CDs with keys to encrypted user-data (`userdata.protect: age`);
    `pool` if not given. Whoever reads the pool of the seeds reads the keys then, so name one that
    is backed up, exported or read by fewer."""
    networks: tuple[Network, ...] = Field(min_length=1)
    """What the machines' cards are plugged into; the first one is for the node network, the others
    for the nodes' `nics`, in their order."""
    firmware: Literal["bios", "efi"] = "bios"
    """What boots the machine's disk; for `efi` the host must have OVMF."""
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    """Whether instructions are executed (`kvm`) or emulated (`tcg`); `auto` takes KVM where the
    daemon offers it and, on this host, a tiny guest really ran."""
    cache: Literal["default", "none", "writethrough", "writeback", "directsync", "unsafe"] = (
        "default"
    )
    """How the host caches a machine's disk (libvirt's `cache` of a disk's driver). `unsafe` is
    fast, and loses what etcd was promised when the host loses its power: for tests."""
    autostart: bool = False
    """Whether the daemon starts the machines when it starts, as after a reboot of the host."""

    @property
    def pool_of_keys(self) -> str:
        """Name the pool for keys."""
        return self.key_pool or self.pool

    @model_validator(mode="after")
    def _forwards_to_the_node_network(self) -> Settings:
        for index, network in enumerate(self.networks):
            if index and network.forwards:
                raise invalid("only the first network can have forwards",
                              at=["networks", index, "forwards"],
                              hint="it is the node network, where the API is")  # fmt: skip
        return self
