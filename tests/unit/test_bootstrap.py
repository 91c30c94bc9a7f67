# SPDX-License-Identifier: Apache-2.0
"""Does setting up say and install what is missing, ask people alone, and do nothing twice?"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kubekiln import bootstrap
from kubekiln.host import Tool

APT = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]


@dataclass
class Host:
    """What a host has, and which commands were run there."""

    root: Path
    calls: list[list[str]] = field(default_factory=list)
    fails: list[str] = field(default_factory=list)
    """Words of commands that fail, each once."""

    def call(self, argv: list[str]) -> int:
        self.calls.append(argv)
        for word in self.fails:
            if word in argv:
                self.fails.remove(word)
                return 1
        if "venv" in argv:
            (self.root / ".venv").mkdir(exist_ok=True)
        return 0


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with everything: root, apt, no terminal."""
    made = Host(tmp_path)
    (tmp_path / "requirements.txt").write_text("a==1 --hash=sha256:00\n")
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / ".venv/kubekiln-setup")
    monkeypatch.setattr(bootstrap, "_call", made.call)
    monkeypatch.setattr(bootstrap, "missing_tools", lambda *_scopes: [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    return made


def lack(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    tools = [Tool(name, name, "", "bake") for name in packages]
    monkeypatch.setattr(bootstrap, "missing_tools", lambda *_scopes: tools)


def test_a_host_with_everything_gets_its_python_packages_alone_and_once(host: Host) -> None:
    assert bootstrap.main() == 0

    pip = host.calls[1]
    assert pip[1:4] == ["-m", "pip", "--disable-pip-version-check"]
    assert "--require-hashes" in pip
    assert not any("apt-get" in call for call in host.calls)
    done = len(host.calls)
    assert bootstrap.main() == 0
    assert len(host.calls) == done


def test_other_pinned_packages_are_installed(host: Host) -> None:
    bootstrap.main()
    done = len(host.calls)

    (host.root / "requirements.txt").write_text("a==2 --hash=sha256:00\n")

    assert bootstrap.main() == 0
    assert len(host.calls) == 2 * done


def test_a_set_up_that_failed_is_done_again(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.fails = ["--require-hashes"]

    assert bootstrap.main() == 1
    assert "install --require-hashes" in capsys.readouterr().err
    assert bootstrap.main() == 0


def test_what_is_missing_is_said_and_installed_from_the_hosts_own_sources(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lack(monkeypatch, "qemu-utils", "mtools")

    assert bootstrap.main() == 0

    assert "mtools qemu-utils" in capsys.readouterr().out
    assert [call for call in host.calls if "apt-get" in call] == [
        [*APT, "install", "-y", "-q", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0",
         "mtools", "qemu-utils"]
    ]  # fmt: skip


def test_old_package_lists_are_refreshed_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    lack(monkeypatch, "mtools")
    host.fails = ["install"]

    assert bootstrap.main() == 0

    verbs = [call[len(APT)] for call in host.calls if "apt-get" in call]
    assert verbs == ["install", "-q", "install"]


@pytest.mark.parametrize(("answer", "installs"), [("", True), ("y", True), ("n", False)])
def test_a_person_is_asked_first(
    host: Host, monkeypatch: pytest.MonkeyPatch, answer: str, installs: bool
) -> None:
    lack(monkeypatch, "mtools")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _prompt: answer)

    assert (bootstrap.main() == 0) == installs
    assert bool(host.calls) == installs


@pytest.mark.parametrize(
    ("have", "scopes", "raised"),
    [
        (128, ["bake", bootstrap.MANY_MACHINES], True),
        (1024, ["bake", bootstrap.MANY_MACHINES], False),
        (128, ["bake"], False),
        (128, [], False),
    ],
)
def test_only_who_boots_many_machines_gets_more_watchers(
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    have: int,
    scopes: list[str],
    raised: bool,
) -> None:
    limit = host.root / "limit"
    limit.write_text(f"{have}\n")
    monkeypatch.setattr(bootstrap, "WATCHERS", limit)
    host.fails = ["sh"]

    assert bootstrap.main(scopes) == 0, "a kernel that refuses is no reason to stop"

    asked = [call for call in host.calls if "sh" in call]
    assert asked == [["sh", "-c", f"echo 1024 >{limit}"]] * raised
    said = capsys.readouterr().out
    assert ("1024 instead of 128" in said) == ("it stays at 128" in said) == raised


@pytest.mark.parametrize(
    ("absent", "told"),
    [("apt-get", "these packages are missing: mtools"), ("sudo", "apt-get install mtools")],
)
def test_where_nothing_can_be_installed_it_says_what_a_person_must_do(
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    absent: str,
    told: str,
) -> None:
    lack(monkeypatch, "mtools")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: None if name == absent else f"/bin/{name}")

    assert bootstrap.main() == 1

    assert told in capsys.readouterr().err
    assert host.calls == []


def test_packages_are_what_sudo_is_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    lack(monkeypatch, "mtools")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    assert bootstrap.main() == 0

    assert [call[0] == "sudo" for call in host.calls] == ["apt-get" in call for call in host.calls]


@pytest.mark.parametrize("at_terminal", [True, False])
def test_sudo_asks_for_a_password_only_where_somebody_can_answer(
    host: Host, monkeypatch: pytest.MonkeyPatch, at_terminal: bool
) -> None:
    lack(monkeypatch, "mtools")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: at_terminal, raising=False)
    monkeypatch.setattr("builtins.input", lambda _question: "y")

    assert bootstrap.main() == 0

    assert ("-n" in host.calls[0]) is not at_terminal


def test_only_what_is_asked_for_is_looked_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(bootstrap, "missing_tools", lambda *scopes: asked.append(scopes) or [])

    assert bootstrap.main(["bake", "qemu"]) == bootstrap.main() == 0

    assert asked == [("bake", "qemu"), bootstrap.SCOPES]


@pytest.mark.parametrize("how", [KeyboardInterrupt, EOFError])
def test_an_interrupt_is_told_without_a_traceback(
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: type[BaseException],
) -> None:
    def ask(_question: str) -> str:
        raise how

    lack(monkeypatch, "mtools")
    monkeypatch.setattr(sys, "argv", ["bootstrap.py"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", ask)

    assert bootstrap.run() == 1

    assert "interrupted" in capsys.readouterr().err
    assert host.calls == []


def test_a_python_without_venv_gets_its_package(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    assert bootstrap.main() == 0

    major, minor = sys.version_info[:2]
    assert host.calls[0][-1] == f"python{major}.{minor}-venv"
