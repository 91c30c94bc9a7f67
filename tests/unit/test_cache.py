# SPDX-License-Identifier: Apache-2.0
"""Are a stage's outputs there whole or not at all, and are they kept?"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kubekiln.errors import StorageError
from kubekiln.files import locked
from pipeline import cache
from pipeline.cache import Stage

STAGE = Stage("disk", "Disk image", "0" * 64, ("a", "b"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "kubekiln/stages"


def working(own_cache: Path) -> list[Path]:
    return [path for path in (own_cache / "work").iterdir() if path.is_dir()]


def write_both(scratch: Path) -> None:
    (scratch / "a").write_text("1")
    (scratch / "b").write_text("2")
    (scratch / "residue").write_text("3")


@pytest.mark.processes("rm")
def test_a_stage_runs_once(own_cache: Path) -> None:
    runs: list[Path] = []

    def work(scratch: Path) -> None:
        runs.append(scratch)
        write_both(scratch)

    first, second = cache.ensure(STAGE, work), cache.ensure(STAGE, work)

    assert (first, second, len(runs)) == (False, True, 1)
    assert STAGE.output("a").read_text() == "1"
    assert sorted(p.name for p in STAGE.directory.iterdir()) == ["a", "b"]
    assert working(own_cache) == []


@pytest.mark.processes("rm")
def test_a_failed_stage_leaves_nothing_and_runs_again(own_cache: Path) -> None:
    def fail(scratch: Path) -> None:
        (scratch / "a").write_text("half")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        cache.ensure(STAGE, fail)

    assert not STAGE.directory.exists()
    assert working(own_cache) == []
    assert cache.ensure(STAGE, write_both) is False


@pytest.mark.processes("rm")
def test_what_a_killed_bake_left_is_removed_by_the_next(own_cache: Path) -> None:
    stale = own_cache / f"work/{STAGE.key}.killed/memory"
    stale.mkdir(parents=True)
    running = own_cache / "work/rootfs-1.running"
    running.mkdir()

    with locked(running / ".lock"):
        cache.ensure(STAGE, write_both)

    assert working(own_cache) == [running]


@pytest.mark.processes("rm")
def test_outputs_that_are_not_all_there_are_made_again() -> None:
    cache.ensure(STAGE, write_both)
    STAGE.output("b").unlink()

    assert cache.ensure(STAGE, write_both) is False
    assert STAGE.is_done()


@pytest.mark.processes("rm")
def test_only_the_newest_outputs_of_each_stage_are_kept() -> None:
    stages = [Stage("disk", "Disk image", f"{n}" * 64, ("a", "b")) for n in range(5)]
    for age, stage in enumerate(stages):
        cache.ensure(stage, write_both)
        os.utime(stage.directory, (1000 + age, 1000 + age))

    cache.prune()

    assert [stage.is_done() for stage in stages] == [False, False, True, True, True]


@pytest.mark.processes("rm")
def test_what_another_bake_may_be_about_to_use_is_kept() -> None:
    stages = [Stage("base", "Base", f"{n}" * 64, ("a", "b")) for n in range(5)]
    for stage in stages:
        cache.ensure(stage, write_both)

    cache.prune()

    assert all(stage.is_done() for stage in stages)


@pytest.mark.processes("rm")
def test_a_full_disk_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(scratch: Path) -> None:
        raise OSError(28, "No space left on device", str(scratch / "a"))

    with pytest.raises(StorageError, match="XDG_CACHE_HOME"):
        cache.ensure(STAGE, fill)


@pytest.mark.processes("rm")
def test_two_bakes_at_once_do_the_work_once() -> None:
    runs: list[Path] = []
    both_started = threading.Barrier(2)

    def work(scratch: Path) -> None:
        runs.append(scratch)
        write_both(scratch)

    def one() -> bool:
        both_started.wait()
        return cache.ensure(STAGE, work)

    with ThreadPoolExecutor(2) as pool:
        cached = [pool.submit(one), pool.submit(one)]
        answers = sorted(future.result() for future in cached)

    assert answers == [False, True]
    assert len(runs) == 1


@pytest.mark.processes("rm")
def test_outputs_are_made_anew_on_request() -> None:
    cache.ensure(STAGE, write_both)

    assert cache.ensure(STAGE, write_both, refresh=True) is False
