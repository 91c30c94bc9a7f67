# SPDX-License-Identifier: Apache-2.0
"""What can be said in a `configs/targets` file of type `openstack`?"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from kubekiln.config import CIDR, Model, invalid
from pipeline.targets.platform import TargetSettings

Text = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class Network(Model):
    """A network that a card of each machine is on."""

    name: Text = Field(examples=["kubernetes"])
    """Name or id of a Neutron network."""
    fixed_addresses: bool = True
    """Whether the port gets the addresses that the node was rendered with; otherwise Neutron
    chooses some. A subnet of the network must have them."""
    port_security: bool | None = None
    """Whether Neutron drops what doesn't come from the port's own addresses; the network's default
    if not given. Without it, `security_groups` and `allowed_addresses` mean nothing."""
    allowed_addresses: tuple[CIDR, ...] = Field(default=(), examples=[["10.244.0.0/16"]])
    """Further addresses that machines may send from (allowed address pairs): `api.vip`, and the
    pods' network where flannel's backend is `host-gw`."""
    security_groups: tuple[Text, ...] = ()
    """Names or ids; the project's `default` if empty."""

    @model_validator(mode="after")
    def _has_security_to_speak_of(self) -> Network:
        if self.port_security is False and (self.allowed_addresses or self.security_groups):
            raise invalid(
                f"network {self.name} has no port security to allow anything",
                hint="leave out allowed_addresses and security_groups, or port_security: false",
            )
        return self


class Hardware(Model):
    """The machine that the image wants, as `hw_*` properties."""

    disk_bus: Literal["virtio", "scsi"] = "virtio"
    """`scsi` is virtio-scsi: discards reach the storage also where virtio-blk has none."""
    vif_model: Literal["virtio", "e1000", "e1000e", "vmxnet3"] = "virtio"
    """Model of the network cards; Debian's cloud kernel has no driver for Intel's."""
    rng: bool = True
    """Whether the machine gets a virtio random number generator (the flavor must allow it)."""
    firmware: Literal["bios", "uefi"] | None = None
    """What the machine boots with; the cloud's default if not given."""
    machine_type: Literal["q35", "pc"] | None = None
    """Chipset; the cloud's default if not given."""
    properties: dict[Text, Text] = Field(
        default={}, examples=[{"hw_vif_multiqueue_enabled": "true"}]
    )
    """Further properties of the image; they win over ours."""


class Settings(TargetSettings):
    """An OpenStack project."""

    type: Literal["openstack"]
    """OpenStack: Glance, Nova, Neutron."""
    cloud: Text | None = Field(default=None, examples=["lab"])
    """Entry of clouds.yaml; if not given, what OS_CLOUD or the other OS_* variables say."""
    region: Text | None = None
    """Region; that of the entry if not given."""
    networks: tuple[Network, ...] = Field(min_length=1)
    """One for each card: the node network's first, then those of `nics` in their order."""
    format: Literal["qcow2", "raw"] = "qcow2"
    """Of the image. `raw` is for clouds on Ceph, which then clone instead of converting."""
    transfer: Literal["direct", "import"] = "direct"
    """`import` stages the image and has Glance import it, for clouds that forbid direct uploads."""
    hardware: Hardware = Hardware()
    """The machine that the image wants."""
    flavor: Text | None = Field(default=None, examples=["m1.medium"])
    """Name or id; if not given, the smallest one that has a node's cpus, memory and disk."""
    boot_from: Literal["image", "volume"] = "image"
    """`volume` makes a Cinder volume of the node's `disk_gib`, which goes with the machine."""
    volume_type: Text | None = None
    """Of volumes (the one booted from, and etcd's); the cloud's default if not given."""
    config_drive: bool = True
    """Whether user-data comes on a drive of the machine too, which needs no metadata service."""
    availability_zone: Text | None = None
    """Where machines are made; the cloud's default if not given."""
    anti_affinity: Literal["none", "soft", "hard"] = "none"
    """Whether masters (and machines of etcd) of a cluster are kept on different hosts: `soft` if
    possible, `hard` or not at all. Makes a server group."""
    wait_s: int = Field(default=600, ge=1)
    """How long a machine's making, or its removal, is waited for."""
