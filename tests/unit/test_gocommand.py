# SPDX-License-Identifier: Apache-2.0
"""Does a command of Go's say why it failed, show how far it is, and end with us?"""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path

import pytest

from kubekiln.errors import CommandFailed
from kubekiln.process import Command, spawn
from pipeline.sources import gocommand
from pipeline.sources.gocommand import run_go
from pipeline.sources.provider import Cancelled, Unreachable
from tests.conftest import ROOT
from tests.support.waiting import until


def watched(tmp_path: Path, script: str, cancel: threading.Event | None = None) -> list[str]:
    notes: list[str] = []
    command = Command(["sh", "-c", script], log=tmp_path / "log")
    run_go(command, cancel=cancel or threading.Event(), note=notes.append)
    return notes


@pytest.mark.processes("setpriv", "sh")
def test_a_build_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="exit code 3") as caught:
        watched(tmp_path, "echo undefined: foo; exit 3")

    assert "undefined: foo" in str(caught.value)
    assert str(tmp_path / "log") in str(caught.value)


@pytest.mark.processes("setpriv", "sh")
def test_a_module_that_no_proxy_gives_lets_another_provider_try(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        watched(tmp_path, "echo 'reading https://proxy/x.zip: 403 Forbidden'; exit 1")

    assert "GOPROXY" in str(caught.value)


@pytest.mark.processes("setpriv", "sh")
def test_a_cancelled_build_leaves_no_process(tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()

    with pytest.raises(Cancelled):
        watched(tmp_path, "echo $$ > pid; exec sleep 600".replace("pid", f"{tmp_path}/pid"), cancel)

    pid_file = tmp_path / "pid"
    if pid_file.is_file() and pid_file.read_text().strip():
        assert not Path(f"/proc/{pid_file.read_text().strip()}").exists()


@pytest.mark.processes("setpriv", "python")
def test_a_build_ends_with_us_however_we_are_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 600"
    program = (
        "import threading; from pathlib import Path; from kubekiln.process import Command\n"
        "from pipeline.sources.watched import run_watched\n"
        f"command = Command(['sh', '-c', {script!r}], log=Path({str(tmp_path / 'log')!r}))\n"
        "run_watched(command, cancel=threading.Event())\n"
    )
    child = spawn(Command([sys.executable, "-c", program], cwd=ROOT))
    with contextlib.ExitStack() as stack:
        stack.callback(child.kill)
        until(pid_file.exists, what="the build", timeout_s=60)

        child.kill()
        child.wait()

    until(lambda: has_ended(pid_file.read_text().strip()), what="the build's end", timeout_s=20)


def has_ended(pid: str) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def test_progress_is_shown_by_the_last_package(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("k8s.io/api/core/v1\nk8s.io/client-go/rest\n")

    assert gocommand._last_package(log) == "2 packages, now k8s.io/client-go/rest"
    log.write_text("go: downloading k8s.io/api v0.37.1\n")
    assert gocommand._last_package(log) == "downloading k8s.io/api v0.37.1"
