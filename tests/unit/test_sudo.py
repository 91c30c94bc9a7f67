# SPDX-License-Identifier: Apache-2.0
"""Does sudo still know us after half an hour of compiling?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubekiln.sudo import ticket_kept
from tests.support.waiting import until


@pytest.mark.processes("sudo")
def test_the_ticket_is_renewed_while_other_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "said"
    sudo = tmp_path / "sudo"
    sudo.write_text(f'#!/bin/sh\necho "$*" >>{said}\n')
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with ticket_kept(every_s=0.01):
        until(lambda: said.exists() and said.read_text().count("\n") >= 2, what="2", timeout_s=30)

    assert set(said.read_text().splitlines()) == {"-n -v"}


def test_root_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    # A process would be one that this test doesn't declare.
    with ticket_kept(every_s=0.0):
        pass
