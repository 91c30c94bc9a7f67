# SPDX-License-Identifier: Apache-2.0
"""Which of the role's units don't run, and what did each say last?"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MANY_RESTARTS = 3


def find_failing(
    units: Iterable[str], *, output_of: Callable[[Sequence[str]], str] | None = None
) -> list[tuple[str, str, str]]:
    """List (unit, state, last log line) of each unit that is down or restarts over and over."""
    run = output_of or _output_of
    shown = run(["systemctl", "show", "--property=Id,ActiveState,SubState,NRestarts", "--", *units])
    found = []
    for block in shown.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        restarts = int(values.get("NRestarts") or 0)
        unit = values.get("Id")
        if not unit or values.get("ActiveState") == "active" and restarts < MANY_RESTARTS:
            continue
        state = f"{values.get('ActiveState', '?')}/{values.get('SubState', '?')}"
        if restarts:
            state += f",restarts:{restarts}"
        found.append((unit, state, _last_line(unit, run)))
    return found


def _last_line(unit: str, run: Callable[[Sequence[str]], str]) -> str:
    # Only what the unit's own processes said: systemd's "Scheduled restart job" explains nothing.
    logged = run(
        ["journalctl", "--no-pager", "-q", "-o", "cat", "-n", "1", f"_SYSTEMD_UNIT={unit}"]
    )
    return logged.strip()[:300]


def _output_of(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
