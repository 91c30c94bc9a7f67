# SPDX-License-Identifier: Apache-2.0
"""Is a file either whole or not there?"""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubekiln.errors import EXIT_USAGE, CommandFailed, KubekilnError, StorageError
from kubekiln.files import (
    locked,
    make_dir,
    sha256_bytes,
    sha256_file,
    storage_errors,
    write_atomic,
)
from kubekiln.progress import waits
from kubekiln.secret import Secret


def test_a_file_gets_its_mode_and_content(tmp_path: Path) -> None:
    path = tmp_path / "a" / "key"

    write_atomic(path, b"x", mode=0o600)

    assert path.read_bytes() == b"x"
    assert path.stat().st_mode & 0o777 == 0o600
    assert sha256_file(path) == sha256_bytes(b"x")


@pytest.mark.parametrize(("number", "hint"), [(errno.ENOSPC, "free"), (errno.EROFS, "read-only")])
def test_a_bad_disk_leaves_the_old_content_and_no_residue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def fail(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError) as caught:
        write_atomic(path, "new")

    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert hint in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize(
    ("end", "error"),
    [("mke2fs: No space left on device while populating", StorageError),
     ("write /x: no space left on device", StorageError),
     ("error: NoSpaceLeft", StorageError),
     ("cp: Disk quota exceeded", StorageError),
     ("ld: undefined symbol", CommandFailed)],
    ids=["C", "Go", "zig", "quota", "something else"],
)  # fmt: skip
def test_a_disk_that_a_command_found_full_is_full(
    tmp_path: Path, end: str, error: type[KubekilnError]
) -> None:
    place = tmp_path / "gone" / "scratch"

    with pytest.raises(error) as caught, storage_errors(place):
        raise CommandFailed(f"tool failed: exit code 1\n  | {end}", where="log /a/log")

    said = str(caught.value)
    assert end in said and "log /a/log" in said
    if error is StorageError:
        assert caught.value.exit_code == EXIT_USAGE
        assert f"cannot write {place}: " in said and "GB are free" in said
        assert "hint: free some" in said


def test_an_existing_directory_gets_the_asked_mode(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o755)

    assert make_dir(tmp_path / "d", mode=0o700).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("made", "place", "said", "hint"),
    [
        (lambda root: make_dir(root / "file"), "file", "File exists", "move it away"),
        (lambda root: make_dir(root / "file/a/b"), "file", "Not a directory", "move it away"),
        (lambda root: write_atomic(root / "file/a", ""), "file", "File exists", "move it away"),
        (lambda root: make_dir(root / "gone/a"), ".", "No such file", "give another place"),
    ],
    ids=["the directory", "above it", "above a file", "no directory can be made"],
)
def test_a_place_where_no_directory_can_be_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    made: Callable[[Path], object], place: str, said: str, hint: str,
) -> None:  # fmt: skip
    (tmp_path / "file").write_text("mine")
    real = Path.mkdir

    def mkdir(path: Path, *args: Any, **options: Any) -> None:
        if path.name == "gone":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        real(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(StorageError, match=said) as caught:
        made(tmp_path)

    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path / place)
    assert hint in str(problem.hint)
    assert caught.value.exit_code == EXIT_USAGE
    assert (tmp_path / "file").read_text() == "mine"


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock"),
        pytest.raises(StorageError, match="another kubekiln"),
        locked(tmp_path / "lock", blocking=False),
    ):
        pass

    with locked(tmp_path / "lock", blocking=False):
        pass


def test_who_waits_for_a_lock_says_so_once_and_may_give_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looks: list[int] = []

    def check() -> None:
        looks.append(len(looks))
        if len(looks) == 3:
            raise KeyboardInterrupt

    wait = waits("another kubekiln bakes", check)
    with (
        locked(tmp_path / "lock"),
        pytest.raises(KeyboardInterrupt),
        locked(tmp_path / "lock", waiting=wait),
    ):
        pass

    assert len(looks) == 3
    assert capsys.readouterr().err.count("another kubekiln bakes: waiting until that is") == 1
    with locked(tmp_path / "lock", waiting=wait):
        pass
    assert len(looks) == 3


def test_a_secret_is_never_shown_or_pickled() -> None:
    secret = Secret("hunter2")

    assert f"{secret} {secret!r}" == "*** Secret(***)"
    assert secret == Secret(b"hunter2")
    with pytest.raises(TypeError):
        pickle.dumps(secret)
