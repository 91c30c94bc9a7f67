# SPDX-License-Identifier: Apache-2.0
"""When is a cluster up? (Its consoles say how far the boot is; its API has the last word.)"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubekiln.errors import CommandFailed, KubekilnError
from kubekiln.process import Command, run
from kubekiln.progress import clock, say
from pipeline.targets.console import last_lines
from pipeline.targets.machine import Machine, MachineStatus
from pipeline.targets.protocol import Target

_POLL_S = 0.2
# Asking costs the host the start of a kubectl; while the consoles say that it's too early, rarely.
_ASK_EARLY_S = 15.0
_ASK_S = 1.0
_SHOWN_LINES = 15


@dataclass
class Boot:
    """A boot that is being watched."""

    target: Target
    machines: Sequence[Machine]
    ready_nodes: Callable[[], frozenset[str]]
    """Asks the API which nodes are Ready; empty while it doesn't answer."""
    nodes: frozenset[str]
    """The machines that are to become nodes: those of some roles run no pods."""
    shown: set[tuple[str, str]] = field(default_factory=set)
    asked: float = 0.0
    ready: frozenset[str] = frozenset()

    def wait(self, *, timeout_s: float, note: Callable[[str], None]) -> None:
        """Return when every node is Ready and has reported its boot as complete.

        Raises KubekilnError as soon as a node refuses its role or a machine ends, and when
        time is over.
        """
        started = time.monotonic()
        while True:
            statuses = {m.name: self.target.status(m) for m in self.machines}
            self._show(statuses)
            for machine in self.machines:
                self._check(machine, statuses[machine.name])
            if self._is_up(statuses):
                return
            if time.monotonic() - started > timeout_s:
                raise self._too_late(statuses, timeout_s)
            note(describe(statuses))
            time.sleep(_POLL_S)

    def _show(self, statuses: dict[str, MachineStatus]) -> None:
        for name, status in statuses.items():
            phases = status.report.phases
            lines = [f"{phase.name:<12} {clock(phase.seconds):>10}" for phase in phases]
            for line in (*lines, *status.report.failing):
                if (name, line) not in self.shown:
                    self.shown.add((name, line))
                    say(f"  {name}: {line}")

    def _check(self, machine: Machine, status: MachineStatus) -> None:
        if status.report.refusals:
            reasons = "; ".join(status.report.refusals)
            raise failure(machine, f"{machine.name} refuses its role: {reasons}")
        if status.state != "running":
            raise failure(machine, f"the machine of {machine.name} has ended")

    def _is_up(self, statuses: dict[str, MachineStatus]) -> bool:
        reports = [status.report for status in statuses.values()]
        early = not all(statuses[name].report.has("ready") for name in self.nodes)
        now = time.monotonic()
        if not self.asked:
            self.asked = now
        if now - self.asked >= (_ASK_EARLY_S if early else _ASK_S) or not (early or self.ready):
            self.asked, self.ready = now, self.ready_nodes()
        return self.ready >= self.nodes and all(report.complete for report in reports)

    def _too_late(self, statuses: dict[str, MachineStatus], timeout_s: float) -> KubekilnError:
        late = [m for m in self.machines if m.name in self.nodes - self.ready]
        machine = (late or [m for m in self.machines if not statuses[m.name].report.complete])[0]
        report = statuses[machine.name].report
        state = "not Ready" if late else "Ready, but its boot is not complete,"
        what = f"{machine.name} is {state} after {clock(timeout_s)} ({describe(statuses)})"
        return failure(machine, "; ".join([what, *report.failing]))


def describe(statuses: dict[str, MachineStatus]) -> str:
    """Say in a few words how far each node is."""
    words = []
    for name, status in statuses.items():
        phases = status.report.phases
        words.append(f"{name}: {phases[-1].name if phases else 'starting'}")
    return ", ".join(words)


def failure(machine: Machine, what: str) -> KubekilnError:
    """Make the error of a boot that failed, with the console's last lines."""
    tail = "".join(f"\n  | {line}" for line in last_lines(machine.console_log, _SHOWN_LINES))
    return KubekilnError(f"{what}{tail}", where=f"console {machine.console_log}")


def ask_ready_nodes(kubectl: Path, kubeconfig: Path) -> frozenset[str]:
    """Ask the API which nodes are Ready; empty if it doesn't answer (yet)."""
    command = Command(
        [kubectl, f"--kubeconfig={kubeconfig}", "--request-timeout=5s", "get", "nodes",
         "--output=json"],
        timeout_s=30,
    )  # fmt: skip
    try:
        result = run(command, check=False)
    except CommandFailed:  # not in time: the host or the API is busy
        return frozenset()
    if result.returncode != 0:
        return frozenset()
    return ready_names(json.loads(result.stdout))


def ready_names(nodes: dict[str, Any]) -> frozenset[str]:
    """Take the names of the Ready ones out of a NodeList."""
    return frozenset(
        node["metadata"]["name"]
        for node in nodes.get("items", [])
        for condition in node.get("status", {}).get("conditions", [])
        if condition["type"] == "Ready" and condition["status"] == "True"
    )
