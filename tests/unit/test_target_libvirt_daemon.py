# SPDX-License-Identifier: Apache-2.0
"""What is read of a daemon's words, and sent to it? (What it does: tests/platforms.)"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.targets import libvirt_checks, libvirt_connection
from pipeline.targets.libvirt import LibvirtPlatform
from pipeline.targets.libvirt_domain import offers_kvm, pool_type
from pipeline.targets.libvirt_settings import Settings
from pipeline.targets.libvirt_volumes import _extents


def settings(**more: Any) -> Settings:
    return Settings(type="libvirt", networks=({"network": "default"},), **more)


def test_what_a_daemon_offers_is_read_from_its_own_words() -> None:
    arch = "<capabilities><guest><arch name='{}'><domain type='{}'/></arch></guest></capabilities>"

    assert offers_kvm(arch.format("x86_64", "kvm"))
    assert not offers_kvm(arch.format("x86_64", "qemu"))
    assert not offers_kvm(arch.format("i686", "kvm"))
    assert pool_type("<pool type='logical'/>") == "logical"


class Daemon:
    def __init__(self, uri: str, kind: str = "kvm") -> None:
        self.uri, self.kind = uri, kind

    def getURI(self) -> str:
        return self.uri

    def getVersion(self) -> int:
        return 10_000_002

    def getCapabilities(self) -> str:
        arch = f"<arch name='x86_64'><domain type='{self.kind}'/></arch>"
        return f"<capabilities><guest>{arch}</guest></capabilities>"


@pytest.mark.parametrize(
    ("wanted", "daemon", "fails_here", "has_kvm"),
    [
        pytest.param("auto", Daemon("qemu:///system"), False, True, id="here, and it works"),
        pytest.param("auto", Daemon("qemu:///system"), True, False, id="here, a guest failed"),
        pytest.param("auto", Daemon("qemu+ssh://h/system"), True, True, id="elsewhere"),
        pytest.param("auto", Daemon("qemu+ssh://h/system", "qemu"), False, False, id="not offered"),
        pytest.param("tcg", Daemon("qemu:///system"), False, False, id="not wanted"),
        pytest.param("kvm", Daemon("qemu:///system"), True, True, id="wanted"),
    ],
)
def test_kvm_is_taken_where_it_is_offered_and_does_not_fail(
    wanted: str, daemon: Daemon, fails_here: bool, has_kvm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt_checks, "kvm_fails", lambda: fails_here)

    assert libvirt_checks.host_of(daemon, settings(accelerator=wanted)).has_kvm == has_kvm


def test_without_the_binding_the_problem_is_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    uncached = libvirt_connection.libvirt_module.__wrapped__
    monkeypatch.setattr(libvirt_connection, "libvirt_module", uncached)

    (problem,) = LibvirtPlatform(settings()).problems()

    assert "libvirt-python is missing" in problem.what
    assert problem.hint
    assert "kubekiln[libvirt]" in problem.hint


@pytest.mark.parametrize("start", [0, 5 << 20])
def test_a_file_is_data_and_holes_from_where_one_begins(start: int, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(16 << 20)
        file.seek(4 << 20)
        file.write(b"x" * (4 << 20))

    with path.open("rb") as file:
        found = list(_extents(file, start))

    assert sum(length for _, length, _ in found) == (16 << 20) - start
    data = [(at, length) for at, length, is_hole in found if not is_hole]
    assert data == [(max(start, 4 << 20), (8 << 20) - max(start, 4 << 20))]
