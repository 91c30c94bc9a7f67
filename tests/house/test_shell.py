# SPDX-License-Identifier: Apache-2.0
"""Are the shell scripts outside the elements clean, too? (Those are held by test_elements.py.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from kubekiln.process import Command, run

ROOT = Path(__file__).resolve().parents[2]


def scripts() -> list[Path]:
    found = [ROOT / ".ci" / "run", *sorted((ROOT / "pipeline").rglob("*.sh"))]
    assert len(found) > 3
    return found


@pytest.mark.processes("shellcheck")
@pytest.mark.parametrize("path", scripts(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_shellcheck_has_nothing_to_say(path: Path) -> None:
    assert run(Command(["shellcheck", path]), check=False).text == ""


@pytest.mark.processes("shfmt")
@pytest.mark.parametrize("path", scripts(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_shfmt_would_change_nothing(path: Path) -> None:
    assert run(Command(["shfmt", "-i", "4", "-ci", "-d", path]), check=False).text == ""
