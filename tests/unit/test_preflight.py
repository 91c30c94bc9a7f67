# SPDX-License-Identifier: Apache-2.0
"""Is everything that speaks against a bake said at once, before anything is written?"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kubekiln import host
from kubekiln.errors import EXIT_USAGE, ConfigError
from kubekiln.paths import Project
from pipeline.forecast import Step, forecast_bake
from pipeline.lock import load_lock, lock_path
from pipeline.model import Image, load_image
from pipeline.stages import preflight as stage
from pipeline.stages.preflight import preflight

ROOT = Path(__file__).resolve().parents[2]
PROJECT = Project(ROOT)


@pytest.fixture(autouse=True)
def good_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(stage, "missing_tools", lambda *_: [])
    monkeypatch.setattr(stage.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(stage.os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(100 << 30))


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def image(changes: Mapping[str, Any] | None = None) -> Image:
    loaded = load_image("debian-13", PROJECT).model_dump()
    return Image.model_validate({**loaded, **(changes or {})})


def problems(of: Image) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        preflight(of, project=PROJECT, lock=load_lock(lock_path(PROJECT.configs_dir)))
    assert caught.value.exit_code == EXIT_USAGE
    return [problem.what for problem in caught.value.problems]


def test_a_good_host_and_image_get_a_plan(tmp_path: Path) -> None:
    plan = preflight(image(), project=PROJECT, lock=load_lock(lock_path(PROJECT.configs_dir)))

    assert plan.image.name == "debian-13"
    assert list(tmp_path.iterdir()) == []


def test_every_problem_is_said_at_once_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stage, "missing_tools", lambda *_: [host.TOOLS[2]])
    monkeypatch.setattr(stage.platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(1 << 29))
    bad = image({"elements": ["k8s-typo"], "components": {**image().components, "etcd": "0.0.1"}})

    found = problems(bad)

    for part in ("'k8s-typo'", "etcd 0.0.1", "riscv64", "mmdebstrap is missing", "0.5 GB are free"):
        assert [what for what in found if part in what], part
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_in_an_images_config_is_said_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = (ROOT / "configs/images/debian-13.yaml").read_text()
    text = text.replace("  - k8s-base\n", "  - k8s-typo\n").replace("3.6.14", "3.6.99")
    path.write_text(text)
    lines = {line.strip(): number for number, line in enumerate(text.splitlines(), 1)}
    typo, etcd = lines["- k8s-typo"], lines['etcd: "3.6.99"']

    with pytest.raises(ConfigError) as caught:
        preflight(
            load_image(str(path), PROJECT),
            project=PROJECT,
            lock=load_lock(lock_path(PROJECT.configs_dir)),
        )

    found = [(problem.what.partition(",")[0], problem.where) for problem in caught.value.problems]
    assert found == [
        ("no element 'k8s-typo'", f"{path}:{typo} (elements[1])"),
        ("the lock has no etcd 3.6.99", f"{path}:{etcd} (components.etcd)"),
    ]


def test_a_read_only_cache_is_found_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.os, "access", lambda *_: False)

    assert [what for what in problems(image()) if what.startswith("cannot write ")]


def test_a_sudo_that_asks_for_a_password_is_found_before_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stage.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(stage, "find_tool", lambda _: Path("/usr/bin/sudo"))
    monkeypatch.setattr(stage, "run", lambda *_, **__: _Result(1))

    assert problems(image()) == ["the bake needs root and sudo asks for a password"]


@pytest.mark.parametrize(
    ("cached", "refresh", "asks"),
    [([True, True], False, False), ([True, False], False, True), ([True, True], True, True)],
    ids=["all is cached", "something is to do", "packages are installed anew"],
)
def test_the_host_is_asked_only_for_what_is_to_be_done(
    monkeypatch: pytest.MonkeyPatch, cached: list[bool], refresh: bool, asks: bool
) -> None:
    steps = tuple(Step("a stage", is_cached) for is_cached in cached)
    monkeypatch.setattr(stage, "forecast_bake", lambda *_, **__: steps)
    monkeypatch.setattr(stage, "missing_tools", lambda *_: [host.TOOLS[2]])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(1 << 29))
    monkeypatch.setattr(stage.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(stage, "find_tool", lambda _: Path("/usr/bin/sudo"))
    monkeypatch.setattr(stage, "run", lambda *_, **__: _Result(1))
    lock = load_lock(lock_path(PROJECT.configs_dir))

    if asks:
        with pytest.raises(ConfigError) as caught:
            preflight(image(), project=PROJECT, lock=lock, refresh=refresh)
        said = [problem.what for problem in caught.value.problems]
        # Of room as often as there are disks: cache and project may be on one.
        for part in ("mmdebstrap is missing", "0.5 GB are free", "sudo asks for a password"):
            assert [what for what in said if part in what], part
    else:
        preflight(image(), project=PROJECT, lock=lock, refresh=refresh)


class _Result:
    def __init__(self, returncode: int) -> None:
        self.returncode = returncode


def test_the_tools_that_the_code_starts_are_those_that_are_checked() -> None:
    assert shutil.which("sh")
    known = {Path(tool.name).name for tool in host.TOOLS if tool.scope == "bake"}
    started = {"sfdisk", "mke2fs", "debugfs", "mkfs.vfat", "mcopy", "qemu-img", "unshare"}

    assert started <= known


GB = 10**9


@pytest.mark.parametrize(
    ("compiles", "compilers", "modules", "needed"),
    [(False, True, True, 11.8), (True, True, True, 19.8), (True, False, True, 21.3),
     (True, False, False, 25.8)],
    ids=["nothing is compiled", "compiled", "without compilers", "without anything"],
)  # fmt: skip
def test_what_is_compiled_needs_its_room_too(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    compiles: bool,
    compilers: bool,
    modules: bool,
    needed: float,
) -> None:
    steps = (Step("components", is_cached=False, compiles=compiles),)
    monkeypatch.setattr(stage, "forecast_bake", lambda *_, **__: steps)
    monkeypatch.setattr(stage, "is_installed", lambda _: compilers)
    monkeypatch.setenv("GOMODCACHE", str(tmp_path if modules else tmp_path / "none"))
    project = Project(tmp_path)
    lock = load_lock(lock_path(PROJECT.configs_dir))
    monkeypatch.setattr(stage, "make_plan", lambda *_: object())

    def asked(free: float) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(int(free * GB)))
        preflight(image(), project=project, lock=lock)

    asked(needed + 0.1)
    with pytest.raises(ConfigError, match=f"GB are free for .*, a bake needs {needed} GB"):
        asked(needed - 0.1)


def test_the_first_bake_of_the_default_image_is_known_to_compile() -> None:
    lock = load_lock(lock_path(PROJECT.configs_dir))

    steps = forecast_bake(image(), project=PROJECT, lock=lock)

    assert [step.title for step in steps if step.compiles] == ["Components"]
