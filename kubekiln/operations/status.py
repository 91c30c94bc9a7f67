# SPDX-License-Identifier: Apache-2.0
"""What do a cluster's machines do, and how far is their boot?"""

from __future__ import annotations

from dataclasses import dataclass

from kubekiln.paths import Project
from pipeline.targets.machine import ConsoleReport, MachineStatus
from pipeline.targets.record import Record, list_records
from pipeline.targets.registry import find_target


@dataclass(frozen=True)
class Line:
    """One machine of the table."""

    record: Record
    status: MachineStatus

    @property
    def boot(self) -> str:
        """Say how far the boot is."""
        return boot_of(self.status.report)

    @property
    def api(self) -> str:
        """Say where the API is reached from this host."""
        port = self.record.machine.api_host_port
        return f"https://127.0.0.1:{port}" if port else "–"


def boot_of(report: ConsoleReport) -> str:
    """Say how far a boot is, by what the node said on its console."""
    if report.refusals:
        return f"gate closed: {report.refusals[0]}"
    if not report.phases:
        return "–"
    last = report.phases[-1]
    words = f"{last.name} after {last.seconds:.1f} s"
    return f"{words}, complete" if report.complete else words


def list_machines(project: Project, cluster: str | None) -> list[Line]:
    """Look at the machines of a cluster, or of all."""
    return [
        Line(record, find_target(record.target).status(record.machine))
        for record in list_records(project.machines_dir, cluster)
    ]
