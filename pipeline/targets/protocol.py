# SPDX-License-Identifier: Apache-2.0
"""What must a place that runs machines be able to do?"""

from __future__ import annotations

from typing import Protocol

from kubekiln.errors import Problem
from pipeline.targets.machine import Machine, MachineStatus


class Target(Protocol):
    """A hypervisor (or what stands for one); one file of this folder each."""

    name: str
    joins_machines: bool
    """Whether the machines of one cluster reach each other."""

    def problems(self) -> list[Problem]:
        """Say why this host can't run machines this way; nothing if it can."""

    def boot(self, machine: Machine) -> None:
        """Power a machine on; returns once it runs, and at once if it already does.

        Keeps the machine's disk if there is one. Raises KubekilnError; what a failed or interrupted
        boot left is removed by `destroy`.
        """

    def status(self, machine: Machine) -> MachineStatus:
        """Tell what the machine does and how far its boot is."""

    def stop(self, machine: Machine, *, graceful: bool = True) -> None:
        """Power a machine off and return when it is really gone; keeps its disk."""

    def destroy(self, machine: Machine) -> None:
        """Remove a machine, its disk and every trace on the host; fine if there is none."""
