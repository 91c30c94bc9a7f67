# SPDX-License-Identifier: Apache-2.0
"""Can anything bad, half-written or foreign be found in the store?"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kubekiln import files as frame_files
from kubekiln.errors import IntegrityError, StorageError
from pipeline import store as store_module
from pipeline.store import Store, input_digest
from tests.support.locks import sha256


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, content: bytes, **more: object) -> str:
    with store.workspace() as directory:
        source = directory / "new"
        source.write_bytes(content)
        return store.add(source, **more)  # type: ignore[arg-type]


def contents(store: Store) -> list[Path]:
    return [p for p in (store.root / "sha256").rglob("*") if p.is_file()]


def test_a_content_is_found_by_its_hash_read_only(store: Store) -> None:
    digest = put(store, b"x")

    assert digest == sha256(b"x")
    assert store.path(digest).read_bytes() == b"x"
    assert store.path(digest).stat().st_mode & 0o777 == 0o444


def test_a_program_is_executable(store: Store) -> None:
    digest = put(store, b"x", executable=True)

    assert store.path(digest).stat().st_mode & 0o777 == 0o555


def test_a_bad_hash_never_enters(store: Store) -> None:
    with pytest.raises(IntegrityError, match="pinned is|is"):
        put(store, b"x", sha256=sha256(b"y"))

    assert contents(store) == []


def test_a_damaged_content_is_replaced(store: Store) -> None:
    path = store.path(put(store, b"right"))
    path.chmod(0o644)
    path.write_bytes(b"wrong")

    put(store, b"right")

    assert path.read_bytes() == b"right"


def test_a_key_leads_to_its_files(store: Store) -> None:
    digest = put(store, b"x")
    key = input_digest(a=1)

    assert store.lookup(key) is None
    store.record(key, {"tool": digest}, about={})

    assert store.lookup(key) == {"tool": store.path(digest)}


def test_a_key_is_forgotten_when_a_file_was_changed(store: Store) -> None:
    digest = put(store, b"x")
    store.record("k", {"tool": digest}, about={})
    path = store.path(digest)
    path.chmod(0o644)
    path.write_bytes(b"tampered")

    assert store.lookup("k") is None
    assert not store.has(digest)


def test_a_touched_file_that_is_the_same_still_counts(store: Store) -> None:
    digest = put(store, b"x")
    store.record("k", {"tool": digest}, about={})
    os.utime(store.path(digest), (1, 1))

    assert store.lookup("k") is not None


def test_a_garbled_key_file_is_no_answer(store: Store) -> None:
    (store.root / "keys").mkdir(parents=True)
    (store.root / "keys" / "k.json").write_text('{"files": [')

    assert store.lookup("k") is None


def test_damage_is_found_by_hashing_everything(store: Store) -> None:
    good, bad = put(store, b"good"), put(store, b"bad")
    store.record("k", {"good": good, "bad": bad}, about={})
    store.path(bad).chmod(0o644)
    store.path(bad).write_bytes(b"rot")

    assert store.damaged() == [store.path(bad)]


def test_many_writers_of_one_content_leave_one(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda _: put(store, b"same" * 50_000), range(32)))

    assert digests == {sha256(b"same" * 50_000)}
    assert len(contents(store)) == 1
    assert list((store.root / "tmp").iterdir()) == []


def test_a_workspace_goes_even_with_read_only_directories_in_it(store: Store) -> None:
    with store.workspace() as directory:
        inner = directory / "module"
        inner.mkdir()
        (inner / "file").touch()
        inner.chmod(0o555)

    assert not directory.exists()


def test_a_tree_that_another_process_removes_as_well_is_gone_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "left").mkdir()
    walked = [(str(tmp_path / "left"), ["gone meanwhile"], [])]
    monkeypatch.setattr("os.walk", lambda *_args, **_more: iter(walked))

    store_module._remove_tree(tmp_path / "left")


@pytest.mark.processes("python")
def test_what_a_killed_process_left_is_cleared_away_and_nothing_in_use(store: Store) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from pipeline.store import Store\n"
        "with Store(Path(sys.argv[1])).workspace() as d:\n"
        "    (d / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(store.root)], check=False)
    (left,) = (store.root / "tmp").iterdir()
    assert (left / "half").exists()

    with store.workspace() as one, store.workspace() as other:
        assert sorted((store.root / "tmp").iterdir()) == sorted([one, other])


@pytest.mark.parametrize(
    ("number", "hint"), [(errno.ENOSPC, "free"), (errno.EROFS, "XDG_CACHE_HOME")]
)
def test_a_bad_disk_is_named_and_nothing_enters(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    def fail(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with store.workspace() as directory:
        source = directory / "new"
        source.write_bytes(b"x")
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match="cannot write") as caught:
            store.add(source)

    assert hint in str(caught.value.problems[0].hint)
    assert contents(store) == []


def test_a_read_only_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(frame_files.Path, "mkdir", refuse)

    with pytest.raises(StorageError, match="Read-only"), Store(tmp_path / "s").workspace():
        pass


def test_a_disk_that_fills_up_while_working_is_named_by_its_store(store: Store) -> None:
    source = "/media/mirror/file"

    said = "cannot write .*store/tmp: No space"
    with pytest.raises(StorageError, match=said), store.workspace():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source)

    assert list((store.root / "tmp").iterdir()) == []
