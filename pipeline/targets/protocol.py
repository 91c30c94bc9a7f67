# SPDX-License-Identifier: Apache-2.0
"""What must a place that runs machines be able to do?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from kubekiln.errors import Problem
from kubekiln.process import Result
from pipeline.targets.machine import Machine, MachineStatus


class Target(Protocol):
    """A hypervisor (or what stands for one); one file of this folder each."""

    name: str
    joins_machines: bool
    """Whether the machines of one cluster reach each other."""
    reached_by: frozenset[int]
    """The families of addresses, 4 and 6, by which this host can reach a machine's API."""
    carries_vlans: bool
    """Whether the machines' network may be a tagged one (IEEE 802.1Q)."""

    def problems(self) -> list[Problem]:
        """Say why this host can't run machines this way; nothing if it can."""

    def patience_s(self, machines: int) -> float:
        """Say how many seconds so many machines of a cluster may take until all are Ready."""

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


@runtime_checkable
class Enterable(Protocol):
    """What a target can do beside that if its machines have a door; a virtual machine has none."""

    def run_inside(
        self, machine: Machine, argv: Sequence[str], *, stdin_file: Path | None = None
    ) -> Result:
        """Run a program of the machine's as its root; `argv[0]` is a path on the machine.

        Raises KubekilnError if the machine doesn't run, CommandFailed if the program fails.
        """
