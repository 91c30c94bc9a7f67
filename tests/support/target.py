# SPDX-License-Identifier: Apache-2.0
"""A target of this host that does nothing but remember."""

from __future__ import annotations

from dataclasses import dataclass, field

from kubekiln.errors import Problem
from pipeline.targets.machine import ConsoleReport, Machine, MachineStatus, Phase, State
from pipeline.targets.record import read_record

READY = ConsoleReport((Phase("api", 3.0), Phase("ready", 8.0)), complete=True)


@dataclass
class FakeTarget:
    """Each machine is in the same state."""

    name: str = "fake"
    joins_machines: bool = True
    reached_by: frozenset[int] = frozenset({4, 6})
    carries_vlans: bool = False
    state: State = "absent"
    report: ConsoleReport = READY
    done: list[str] = field(default_factory=list)

    def problems(self) -> list[Problem]:
        return []

    def patience_s(self, machines: int) -> float:
        return 900.0

    def boot(self, machine: Machine) -> None:
        self.done.append(f"boot {machine.name}")
        self.state = "running"

    def status(self, machine: Machine) -> MachineStatus:
        return MachineStatus(self.state, report=self.report)

    def stop(self, machine: Machine, *, graceful: bool = True) -> None:
        self.done.append(f"stop {machine.name}")

    def destroy(self, machine: Machine) -> None:
        self.done.append(f"destroy {machine.name}")
        if read_record(machine.run_dir):
            (machine.run_dir / "machine.json").unlink()
