# SPDX-License-Identifier: Apache-2.0
"""What did a node say on its console? (The `KUBEKILN …` lines that its report unit writes.)"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.targets.machine import ConsoleReport, Phase

# Terminal control sequences (ECMA-48 CSI): systemd colours its own lines on the same console.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\r")
_LINE = re.compile(r"KUBEKILN (?P<kind>phase|gate|failing|complete)\b(?P<rest>.*)")
_FIELD = re.compile(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|(\S+))')


def read_console(log: Path) -> ConsoleReport:
    """Read what the latest boot reported so far; empty if nothing was written yet."""
    try:
        text = log.read_text(errors="replace")
    except FileNotFoundError:
        return ConsoleReport()
    return parse_console(text)


def parse_console(text: str) -> ConsoleReport:
    """Take the report out of a console's text.

    A phase that is reported again, or earlier than the one before it, is a new boot: what came
    before is forgotten.
    """
    report = ConsoleReport()
    for line in _CONTROL.sub("", text).splitlines():
        match = _LINE.search(line)
        if match:
            report = _with(report, match["kind"], match["rest"])
    return report


def last_lines(log: Path, count: int) -> list[str]:
    """Give the last lines of a console as a person would read them."""
    try:
        text = log.read_text(errors="replace")
    except FileNotFoundError:
        return []
    lines = [line.rstrip() for line in _CONTROL.sub("", text).splitlines()]
    return [line for line in lines if line][-count:]


def _with(report: ConsoleReport, kind: str, rest: str) -> ConsoleReport:
    fields = {key: quoted or bare for key, quoted, bare in _FIELD.findall(f"{kind}{rest}")}
    if kind == "phase":
        return _with_phase(report, fields)
    if kind == "gate":
        closed = fields.get("gate") == "closed"
        reason = fields.get("reason", "no reason given")
        refusals = (*report.refusals, reason) if closed else ()
        return ConsoleReport(report.phases, refusals, report.failing, report.complete)
    if kind == "failing":
        words = f"{fields.get('unit', '?')} is {fields.get('state', '?')}"
        if fields.get("last"):
            words += f": {fields['last']}"
        failing = (*report.failing, words)
        return ConsoleReport(report.phases, report.refusals, failing, report.complete)
    return ConsoleReport(report.phases, report.refusals, report.failing, complete=True)


def _with_phase(report: ConsoleReport, fields: dict[str, str]) -> ConsoleReport:
    try:
        phase = Phase(fields["phase"], float(fields["t"]))
    except (KeyError, ValueError):
        # A line that another writer of the console broke into: the next one will be whole.
        return report
    again = report.has(phase.name)
    back_in_time = bool(report.phases) and phase.seconds < report.phases[-1].seconds
    if again or back_in_time or report.complete:
        return ConsoleReport((phase,))
    return ConsoleReport((*report.phases, phase), report.refusals, report.failing)
