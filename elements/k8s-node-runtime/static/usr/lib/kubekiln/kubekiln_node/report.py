# SPDX-License-Identifier: Apache-2.0
"""How far has this node come? Says each phase on the console once, with its time, then ends.

Runs beside the role from activation on; nothing waits for it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kubekiln_node.console import fail, machine_seconds, quote, say
from kubekiln_node.manifest import Manifest, ManifestError, read_manifest
from kubekiln_node.phases import Phase, phases_of
from kubekiln_node.status import STATUS_PATH, read_status, write_status

if TYPE_CHECKING:
    from collections.abc import Callable

MANIFEST_PATH = "/etc/kubekiln/node.json"
QUICKEST_S = 0.2
SLOWEST_S = 4.0
# A look costs CPU that an emulated machine needs for the boot itself: look for 1/9 of the time.
REST_PER_LOOK = 8


class Reporter:
    """Tells console, status file and the phone-home URL, each thing once."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        phone: Callable[[str, float], None],
        tell: Callable[[str], None] = say,
        now: Callable[[], float] = machine_seconds,
        status_path: str = STATUS_PATH,
    ) -> None:
        self._manifest = manifest
        self._phone = phone
        self._tell = tell
        self._status_path = status_path
        self.now = now
        self.units = manifest.units

    def reached(self, name: str) -> None:
        """Say that a phase is reached, now."""
        t = round(self.now(), 1)
        self._tell(f"KUBEKILN phase={name} t={t:.1f} node={self._manifest.node}")
        status = read_status(self._status_path)
        status["phases"] = {**status.get("phases", {}), name: t}
        write_status(status, self._status_path)
        self._phone(name, t)

    def complete(self) -> None:
        """Say that the last phase is behind us."""
        status = read_status(self._status_path) | {"complete": True, "failing": []}
        write_status(status, self._status_path)
        self._tell(f"KUBEKILN complete t={self.now():.1f} node={self._manifest.node}")

    def late(self, name: str, failing: list[tuple[str, str, str]]) -> None:
        """Say that a phase isn't reached in time, and which units are to blame."""
        node, t = self._manifest.node, self.now()
        self._tell(f"KUBEKILN late phase={name} t={t:.1f} node={node}")
        for unit, state, last in failing:
            self._tell(f"KUBEKILN failing unit={unit} state={state} last={quote(last)} node={node}")
        units = [{"unit": unit, "state": state, "last": last} for unit, state, last in failing]
        write_status(read_status(self._status_path) | {"failing": units}, self._status_path)


def main() -> int:
    """Report this machine's phases until the last one."""
    try:
        manifest = read_manifest(MANIFEST_PATH)
    except (OSError, ManifestError) as error:
        return fail(f"kubekiln-report: {error}")
    phone, hang_up = _connect(manifest)
    for name, t in read_status().get("phases", {}).items():
        phone(name, t)
    reporter = Reporter(manifest, phone=phone)
    watch(phases_of(manifest), reporter, timeout_s=float(manifest.report["timeout_s"]))
    reporter.complete()
    hang_up()
    return 0


def watch(
    phases: list[Phase],
    reporter: Reporter,
    *,
    timeout_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    failing: Callable[[], list[tuple[str, str, str]]] | None = None,
) -> None:
    """Wait for the phases one after the other, looking often while that is cheap."""
    late_at = clock() + timeout_s
    for phase in phases:
        while True:
            before = clock()
            if phase.reached():
                break
            after = clock()
            if after >= late_at:
                reporter.late(phase.name, failing() if failing else _failing(reporter))
                late_at = after + timeout_s
            sleep(min(max(QUICKEST_S, REST_PER_LOOK * (after - before)), SLOWEST_S))
        reporter.reached(phase.name)


def _failing(reporter: Reporter) -> list[tuple[str, str, str]]:
    from kubekiln_node.failing import find_failing  # imports subprocess: only when needed

    return find_failing(reporter.units)


def _connect(manifest: Manifest) -> tuple[Callable[[str, float], None], Callable[[], None]]:
    if not manifest.phone_home:
        return lambda _name, _t: None, lambda: None
    from kubekiln_node.phone import Phone  # imports an HTTP client: only when wanted

    line = Phone(manifest.phone_home, cluster=manifest.cluster, node=manifest.node)
    return line.tell, line.hang_up
