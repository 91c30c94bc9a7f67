# SPDX-License-Identifier: Apache-2.0
"""Does root's work end with whoever asked for it, and take its mounts along?"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from kubekiln.errors import CommandFailed
from kubekiln.files import locked
from kubekiln.process import Command, run, spawn
from pipeline.sandbox import Sandbox

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.root, pytest.mark.processes("sandbox.sh", "python"),
              pytest.mark.timeout(60)]  # fmt: skip

HOLDER = """
import sys
from pathlib import Path
from kubekiln.files import locked
from kubekiln.process import run
from pipeline.sandbox import Sandbox

tmp = Path(sys.argv[1])
with locked(tmp / "lock"):
    script = f"exec 3>{tmp}/fifo; touch {tmp}/memory/file; echo started >&3; sleep 1000"
    command = Sandbox(tmp / "lock", tmp / "memory", 1).command(
        ["sh", "-c", script], env={}, log=tmp / "log", what_for="")
    run(command)
"""


def sandboxed(tmp_path: Path, script: str) -> Command:
    (tmp_path / "memory").mkdir(exist_ok=True)
    sandbox = Sandbox(tmp_path / "lock", tmp_path / "memory", 1)
    return sandbox.command(["sh", "-c", script], env={}, log=tmp_path / "log", what_for="")


def mounts(tmp_path: Path) -> list[str]:
    """What this test mounted where everybody sees it."""
    places = [ln.split()[4] for ln in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [p for p in places if p.startswith(str(tmp_path))]


def test_mounts_and_files_of_the_sandbox_are_seen_by_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    script = f"touch {tmp_path}/memory/file; mount -t tmpfs none {tmp_path}/inside"

    with locked(tmp_path / "lock"):
        run(sandboxed(tmp_path, script))

    assert mounts(tmp_path) == []
    assert list((tmp_path / "memory").iterdir()) == []


def test_modes_do_not_depend_on_the_callers_umask(tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        with locked(tmp_path / "lock"):
            run(sandboxed(tmp_path, f"touch {tmp_path}/made; mkdir {tmp_path}/dir"))
    finally:
        os.umask(mask)

    assert [(tmp_path / n).stat().st_mode & 0o777 for n in ("made", "dir")] == [0o644, 0o755]


def test_the_exit_code_is_that_of_the_command(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"), pytest.raises(CommandFailed, match="exit code 7"):
        run(sandboxed(tmp_path, "exit 7"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_whoever_kills_kubekiln_kills_the_sandbox(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "memory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    holder = spawn(Command([sys.executable, "-c", HOLDER, tmp_path], cwd=ROOT))
    with (tmp_path / "fifo").open() as reader:
        assert reader.readline() == "started\n"

        holder.send_signal(how)
        holder.wait()

        # The last writer is gone: nothing of the sandbox runs any more.
        assert reader.read() == ""
    with locked(tmp_path / "lock"):
        assert mounts(tmp_path) == []
        assert list((tmp_path / "memory").iterdir()) == []
