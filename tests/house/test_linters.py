# SPDX-License-Identifier: Apache-2.0
"""Are the import rules and the command's start-up kept?"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kubekiln.process import Command, run

ROOT = Path(__file__).resolve().parents[2]
# Each costs the start of every command 50 ms or more; commands import them when they run.
HEAVY = {"pydantic", "cryptography", "requests", "yaml", "jinja2", "pycdlib", "qemu", "cyclonedx"}


@pytest.mark.processes("lint-imports")
def test_the_import_rules_hold() -> None:
    tool = Path(sys.executable).parent / "lint-imports"

    assert "0 broken" in run(Command([tool, "--no-cache"], cwd=ROOT)).text


@pytest.mark.processes("python")
def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from kubekiln.cli.main import app; print(*sys.modules)"

    loaded = set(run(Command([sys.executable, "-c", code], cwd=ROOT)).text.split())

    assert "typer" in loaded
    assert loaded & HEAVY == set()
