# SPDX-License-Identifier: Apache-2.0
"""Does the one door to processes tell what failed, and end what it started?"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from kubekiln.errors import CommandFailed, ToolMissing
from kubekiln.process import Command, RecordingRunner, Result, run


@pytest.mark.processes("sh")
def test_a_failure_names_command_exit_and_last_lines() -> None:
    with pytest.raises(CommandFailed) as caught:
        run(Command(["sh", "-c", "echo one; echo two >&2; exit 3"]))

    text = str(caught.value)
    assert "sh failed: exit code 3" in text
    assert "$ sh -c 'echo one; echo two >&2; exit 3'" in text
    assert "| two" in text


@pytest.mark.processes("sh")
def test_a_signal_is_called_by_its_name() -> None:
    with pytest.raises(CommandFailed, match="killed by SIGKILL"):
        run(Command(["sh", "-c", "kill -9 $$"]))


@pytest.mark.processes("sh")
def test_a_log_takes_the_output_and_is_named_in_the_failure(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a.log"

    with pytest.raises(CommandFailed) as caught:
        run(Command(["sh", "-c", "echo into the log; exit 1"], log=log))

    assert log.read_text() == "into the log\n"
    assert str(log) in str(caught.value)
    assert "| into the log" in str(caught.value)


@pytest.mark.processes("env")
def test_the_environment_is_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "leak")

    seen = run(Command(["env"], env={"MINE": "1"})).text

    assert "AWS_SECRET_ACCESS_KEY" not in seen
    assert "MINE=1" in seen
    assert "LC_ALL=C.UTF-8" in seen


def test_a_missing_tool_says_what_for() -> None:
    with pytest.raises(ToolMissing, match="needed to read disks") as caught:
        run(Command(["no-such-tool-here"], what_for="to read disks"))

    assert caught.value.exit_code == 2


@pytest.mark.processes("sleep")
def test_a_time_out_ends_the_process() -> None:
    with pytest.raises(CommandFailed, match="not finished after 0.1 s"):
        run(Command(["sleep", "600"], timeout_s=0.1))


@pytest.mark.processes("sudo", "cat")
@pytest.mark.parametrize("words", [["sudo", "-n", "true"], ["cat", "/proc/self/stat"]])
def test_sudo_keeps_the_terminal_by_which_it_finds_its_ticket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    sudo = tmp_path / "sudo"
    sudo.write_text("#!/bin/sh\nexec cat /proc/self/stat\n")
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    pid, _, _, _, group, session = run(Command(words)).text.split()[:6]

    assert group == pid
    assert session == (str(os.getsid(0)) if words[0] == "sudo" else pid)


def test_a_proxy_reaches_what_sudo_starts_and_its_password_no_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    command = Command(["apt-get"], as_root=True, env={"A": "1"})
    monkeypatch.delenv("https_proxy", raising=False)
    assert command.real_argv() == ["sudo", "-n", "env", "A=1", "apt-get"]

    monkeypatch.setenv("https_proxy", "http://user:word@proxy.example")

    words = ["sudo", "-n", "--preserve-env=https_proxy", "env", "A=1", "apt-get"]
    assert command.real_argv() == words


@pytest.mark.processes("sh")
def test_an_interrupt_ends_the_whole_process_group(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {marker}.new; mv {marker}.new {marker}; wait"

    def interrupt() -> None:
        while not marker.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(Command(["sh", "-c", script]))

    deadline = time.monotonic() + 10
    while runs(int(marker.read_text())) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runs(int(marker.read_text()))


def runs(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().split()[2] != "Z"


def test_a_recorder_runs_nothing_and_answers_by_tool() -> None:
    runner = RecordingRunner({"sfdisk": Result(0, b"{}")})

    assert runner.run(Command(["/sbin/sfdisk", "-J", "x"])).text == "{}"
    assert [str(c) for c in runner.commands] == ["/sbin/sfdisk -J x"]


@pytest.mark.processes("cat")
def test_a_file_is_read_by_the_process_itself(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"large")

    assert run(Command(["cat"], stdin_file=tmp_path / "archive")).stdout == b"large"
