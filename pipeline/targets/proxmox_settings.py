# SPDX-License-Identifier: Apache-2.0
"""What does a file of `configs/targets` say of a Proxmox VE cluster?"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field

from kubekiln.config import Model
from pipeline.targets.platform import TargetSettings

# https://pve.proxmox.com/pve-docs/api-viewer: pve-storage-id, pve-bridge-id, pve-poolid, pve-node
_STORAGE = r"^[a-zA-Z][a-zA-Z0-9_.-]*[a-zA-Z0-9]$"
_BRIDGE = r"^[a-zA-Z0-9._-]{1,15}$"
_HOST = r"^[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?$"


class Network(Model):
    """What a network card is plugged into."""

    bridge: str = Field("vmbr0", pattern=_BRIDGE)
    """A bridge, or a virtual network of SDN."""
    vlan: int | None = Field(None, ge=1, le=4094)
    """Its packets are tagged by Proxmox; the machine sees none. Not together with the cluster's
    own `network.vlan`."""
    mtu: int | None = Field(None, ge=576, le=65520)
    """If not given, virtio's usual 1500. 1 would mean the bridge's; say its number instead."""
    firewall: bool = False
    """Let Proxmox' firewall look at its packets."""


class Settings(TargetSettings):
    """Hosts of a Proxmox VE cluster."""

    type: Literal["proxmox"]
    """Proxmox VE."""
    endpoint: str | None = Field(None, examples=["https://pve1.example.org:8006"])
    """Of the API. If not given: PROXMOX_VE_ENDPOINT, PROXMOX_URL or PROXMOX_HOST."""
    ca_file: Path | None = Field(None, examples=["~/.config/pve-root-ca.pem"])
    """Who signed its certificate: /etc/pve/pve-root-ca.pem of the cluster, unless it has one that
    this host trusts. There is no way to skip the check."""
    nodes: tuple[str, ...] = Field(min_length=1, examples=[["pve1", "pve2", "pve3"]])
    """Hosts for the machines, in turn by the number in the node's name. Image and seeds go to the
    first; with several hosts their storages must be shared."""
    image_storage: str = Field(pattern=_STORAGE, examples=["local"])
    """Gets the image; a directory-like storage with the content type `import`."""
    iso_storage: str = Field("local", pattern=_STORAGE)
    """Gets the seed CDs; with the content type `iso`. Who may read it, reads the keys in them."""
    disk_storage: str = Field(pattern=_STORAGE, examples=["local-lvm"])
    """Gets the machines' disks; with the content type `images`."""
    networks: tuple[Network, ...] = Field((Network(),), min_length=1)
    """Of the node network, then of the nodes' further cards."""
    firmware: Literal["bios", "uefi"] = "bios"
    """What boots. With `uefi` each machine has a small disk more."""
    cpu: str = Field("host", pattern=r"^[a-zA-Z0-9_.,=;+-]+$", examples=["x86-64-v3"])
    """Emulated type. Machines of the type `host` move only between hosts of one kind."""
    pool: str | None = Field(None, examples=["kubernetes"])
    """A resource pool, which must be there, to which machines are added."""
    onboot: bool = True
    """Start the machines when their host starts."""

    def below(self, root: Path) -> Self:
        """Take the certificate's path as one below the project, if it isn't absolute."""
        ca_file = self.ca_file
        return self.model_copy(update={"ca_file": root / ca_file.expanduser()}) if ca_file else self
