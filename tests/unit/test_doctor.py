# SPDX-License-Identifier: Apache-2.0
"""Does doctor say what lacks and how to get it, and does set-up know the packages?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kubekiln.host import TOOLS, Tool, missing_tools
from kubekiln.operations import doctor
from kubekiln.paths import Project
from kubekiln.process import Command, Result
from pipeline.targets import overlay


def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_missing_tool_is_a_failure_that_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = Tool("no-such-tool-here", "its-package", "does a thing", "bake")
    monkeypatch.setattr(doctor, "TOOLS", (tool,))
    monkeypatch.setattr(doctor, "missing_tools", lambda *_: [tool])

    (finding,) = doctor.check_tools(project(tmp_path))

    assert finding.verdict == "fail"
    assert "no-such-tool-here (does a thing)" in finding.detail
    assert finding.hint == "`make setup`, or: apt-get install its-package"


def test_a_full_disk_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "_DISK_FREE_BAKE_GB", 1e9)

    findings = {f.topic: f for f in doctor.check_disk(project(tmp_path))}

    assert findings["disk: build"].verdict == "warn"
    assert findings["disk: build"].hint is not None


@pytest.mark.parametrize(
    ("printed", "verdict"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", "warn"),
        ("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)", "ok"),
    ],
    ids=["bookworm", "trixie"],
)
@pytest.mark.processes("qemu-system-x86_64")
def test_an_old_qemu_is_told_of_the_backport(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, verdict: str
) -> None:
    tool = tmp_path / "qemu-system-x86_64"
    tool.write_text(f"#!/bin/sh\necho '{printed}'\n")
    tool.chmod(0o755)
    monkeypatch.setattr(doctor, "find_tool", lambda _: tool)

    (finding,) = doctor.check_qemu(project(tmp_path))

    assert finding.verdict == verdict
    assert ("backports" in (finding.hint or "")) == (verdict == "warn")


@pytest.mark.parametrize(("watchers", "verdict"), [(128, "warn"), (1024, "ok")])
def test_it_says_how_many_container_machines_can_watch_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watchers: int, verdict: str
) -> None:
    limit = tmp_path / "max_user_instances"
    limit.write_text(f"{watchers}\n")
    monkeypatch.setattr(doctor, "_INOTIFY_LIMIT", str(limit))
    monkeypatch.setattr(doctor, "find_tool", lambda name: f"/usr/bin/{name}")

    *_, finding = doctor.check_nspawn(project(tmp_path))

    assert (finding.verdict, f"{watchers} inotify" in finding.detail) == (verdict, True)
    assert (finding.hint is not None) == (verdict == "warn")


@pytest.mark.parametrize(
    ("listed", "code", "is_there"),
    [("nodev\toverlay\n", 1, True), ("\text4\n", 0, True), ("\text4\n", 1, False)],
    ids=["in use", "a module", "neither"],
)
def test_overlayfs_counts_as_there_if_a_mount_would_load_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, code: int, is_there: bool
) -> None:
    (tmp_path / "filesystems").write_text(listed)
    asked: list[Command] = []
    monkeypatch.setattr(overlay, "_FILE_SYSTEMS", tmp_path / "filesystems")
    monkeypatch.setattr(overlay, "find_tool", lambda name: Path("/sbin") / name)
    monkeypatch.setattr(overlay, "run", lambda c, **_: asked.append(c) or Result(code))

    assert overlay.has_overlayfs() == is_there
    assert [str(c) for c in asked] == ["/sbin/modprobe --dry-run overlay"] * ("ext4" in listed)
    monkeypatch.setattr(doctor, "find_tool", lambda name: f"/usr/bin/{name}")
    first, *_ = doctor.check_nspawn(project(tmp_path))
    assert first.verdict == ("ok" if is_there else "warn")


def test_an_unreachable_source_is_a_warning_not_a_failure() -> None:
    finding = doctor._reached("source", "http://127.0.0.1:1/")

    assert finding.verdict == "warn"
    assert "127.0.0.1" in finding.detail


def test_every_tool_says_what_for_and_its_package_name_is_one() -> None:
    assert len(TOOLS) > 10
    for tool in TOOLS:
        assert tool.purpose
        assert re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", tool.package), tool
    assert {t.scope for t in TOOLS} == {"bake", "qemu", "nspawn", "check"}


def test_missing_tools_are_found_by_scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)

    assert {t.name for t in missing_tools("qemu")} == {"qemu-system-x86_64"}
    assert missing_tools("bake", "qemu")
