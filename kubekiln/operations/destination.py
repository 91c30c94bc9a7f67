# SPDX-License-Identifier: Apache-2.0
"""Where can images and machines be brought to? The same verbs for this host and for platforms."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from kubekiln.operations.hostdestination import HostDestination
from kubekiln.operations.shipment import PlatformDestination, delivery_to
from kubekiln.paths import Project
from pipeline.targets.platform import Instance
from pipeline.targets.registry import TARGETS


class Destination(Protocol):
    """What `upload`, `boot`, `status`, `console`, `forget` and `destroy` ask of a target.

    Each raises KubekilnError with all that failed.
    """

    @property
    def name(self) -> str:
        """Of the target."""

    def upload(self, cluster: str) -> str:
        """Bake a cluster's image and bring it there, once; gives what it is called there."""

    def boot(self, cluster: str, nodes: Collection[str] = ()) -> Sequence[Instance]:
        """Make the machines of a cluster (or those named) that aren't there; don't wait for Ready.

        Raises ConfigError for a name that is no node of it.
        """

    def instances(self, cluster: str | None = None) -> Sequence[Instance]:
        """List the machines of a cluster, or of all."""

    def console(self, instance: Instance) -> str | None:
        """Give what a machine wrote to its serial console; None if nobody keeps that."""

    def forget(self, cluster: str, nodes: Collection[str] = ()) -> Sequence[str]:
        """Have the user-data of machines removed that have their role; gives their names."""

    def destroy(self, cluster: str, nodes: Collection[str] = ()) -> Sequence[str]:
        """Remove the machines of a cluster (or those named); gives their names."""


def find_destination(project: Project, target: str) -> Destination:
    """Give a target of this host (qemu, nspawn), or open one of configs/targets."""
    if target in TARGETS:
        return HostDestination(project, target)
    return PlatformDestination(delivery_to(project, target))
