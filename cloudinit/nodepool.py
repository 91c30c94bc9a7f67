# SPDX-License-Identifier: Apache-2.0
"""What may a configuration say of machines that nobody lists one by one? (`pools:`)"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cloudinit.modeltypes import Label, LabelStart, Network4, is_label
from kubekiln.config import Model

LABEL = "kubekiln/pool"
"""The label of the Kubernetes nodes of a pool; its value is the pool's name."""


class Taint(Model):
    """What keeps pods off a node unless they tolerate it."""

    key: str = Field(min_length=1, examples=["dedicated"])
    """Its key."""
    value: str = ""
    """Its value, if it has one."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
    """What happens to pods that don't tolerate it."""


class NodePool(Model):
    """Workers that boot from one and the same user-data, any number of them.

    A machine's name comes from the hypervisor's metadata, its address from DHCP or the platform,
    its certificate from the cluster, which it joins by the pool's bootstrap token.
    """

    role: ClassVar[Literal["pool"]] = "pool"
    serves_api: ClassVar[bool] = False
    runs_pods: ClassVar[bool] = True

    name: Label
    """Name of the pool; its user-data is build/nodes/<cluster>/<name>/user-data."""
    prefix: LabelStart | None = None
    """How its machines' host names begin, and nobody else's; `<name>-` if not given."""
    addresses: Network4
    """The part of `network.node_cidr` in which its machines have their addresses."""
    max_nodes: int = Field(ge=1, le=5000, examples=[50])
    """Most machines at a time; each gets a part of `network.pod_cidr`."""
    token_ttl_hours: int = Field(default=720, ge=1, le=8760)
    """Hours for which a rendered user-data lets machines join. Longer than from rendering to a
    machine's first boot; who has the user-data can join a machine for as long."""
    labels: dict[str, str] = {}
    """More labels of the Kubernetes nodes."""
    taints: tuple[Taint, ...] = ()
    """Taints with which they register."""

    @property
    def name_prefix(self) -> str:
        """How its machines' names begin."""
        return self.prefix or f"{self.name}-"

    def takes(self, name: str) -> bool:
        """Tell whether one of its machines may be called so."""
        return name.startswith(self.name_prefix) and is_label(name)

    @property
    def group(self) -> str:
        """Who its machines are to the API before each has a certificate of its own."""
        return f"system:bootstrappers:kubekiln:{self.name}"
