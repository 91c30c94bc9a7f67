# SPDX-License-Identifier: Apache-2.0
"""What can be said of a KubeVirt cluster in `configs/targets`?"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from kubekiln.config import invalid
from pipeline.targets.platform import TargetSettings


class Settings(TargetSettings):
    """A Kubernetes cluster with KubeVirt and CDI, such as Harvester."""

    type: Literal["kubevirt"]
    """KubeVirt, with CDI."""
    context: str | None = None
    """Of the kubeconfig; its current context if not given."""
    namespace: str | None = None
    """Where images and machines are made; the context's own if not given."""
    networks: tuple[str, ...] = Field(examples=[["lab-net"]], min_length=1)
    """Network attachments (Multus) for the machines' cards, in their order, as `NAME` or
    `NAMESPACE/NAME`. The pod network isn't for nodes: it gives addresses that nobody rendered."""
    binding: Literal["bridge", "sriov"] = "bridge"
    """How cards are bound to their networks."""
    format: Literal["qcow2", "raw"] = "qcow2"
    """What is uploaded. CDI needs scratch space as large as the disk for `qcow2`; `raw` is
    compressed on its way, and written straight to its volume."""
    storage_class: str | None = None
    """Of all volumes; CDI's default if not given."""
    access_mode: Literal["ReadWriteOnce", "ReadWriteMany"] | None = None
    """Of all volumes; what CDI knows of the storage class if not given. Live migration needs
    `ReadWriteMany`."""
    volume_mode: Literal["Block", "Filesystem"] | None = None
    """Of all volumes; what CDI knows of the storage class if not given. With `Filesystem` before
    KubeVirt 1.9 the cluster needs the feature gate `ExpandDisks`: else a machine's disk stays as
    small as the image's."""
    upload_proxy: str | None = Field(
        default=None, pattern=r"^https://", examples=["https://cdi-uploadproxy.example.com"]
    )
    """CDI's upload proxy; if not given, what CDI's own configuration says."""
    upload_proxy_ca: Path | None = None
    """A PEM file with the authority of the proxy's certificate; this host's authorities if not
    given."""
    upload_proxy_name: str | None = None
    """The name in the proxy's certificate, where it is reached by another one (a port-forward)."""
    firmware: Literal["bios", "efi"] = "bios"
    """What boots the machines; the image has both."""
    cpu_model: str | None = Field(default=None, examples=["host-passthrough"])
    """As libvirt names it; KubeVirt's default (`host-model`) if not given."""
    eviction: Literal["None", "LiveMigrate", "LiveMigrateIfPossible", "External"] | None = None
    """What happens to a machine when its host is drained; KubeVirt's own setting if not given."""
    spread: Literal["no", "preferred", "required"] = "preferred"
    """Whether machines of one cluster and role keep off each other's hosts."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the hosts that may run the machines."""
    wait_s: int = Field(default=1800, gt=0)
    """How long CDI may take for a volume, or KubeVirt to remove a machine, in seconds."""

    @field_validator("format", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if value in ("vmdk", "ova", "vhd", "gce", "tar"):
            raise invalid(f"CDI isn't given {value}", hint="use qcow2, or raw")
        return value
