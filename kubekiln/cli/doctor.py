# SPDX-License-Identifier: Apache-2.0
"""`kubekiln doctor`: what this host can do."""

from __future__ import annotations

import typer

from kubekiln.cli.table import print_table
from kubekiln.cli.verb import Verb


def doctor() -> None:
    """Say what this host can do (tools, KVM that works, nspawn, disk, mirrors, Go)."""
    from rich.table import Table

    from kubekiln.operations.doctor import examine
    from kubekiln.paths import Project
    from kubekiln.progress import step

    with step("Examining this host"):
        findings = examine(Project.find())
    colour = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        verdict = f"[{colour[finding.verdict]}]{finding.verdict}[/]"
        table.add_row(verdict, finding.topic, finding.detail)
        if finding.hint:
            table.add_row("", "", f"[dim]{finding.hint}[/]")
    print_table(table)
    if any(finding.verdict == "fail" for finding in findings):
        raise typer.Exit(1)


commands = (Verb("doctor", doctor, panel="Set up"),)
