# SPDX-License-Identifier: Apache-2.0
"""How are files written so that nobody ever sees half of one?"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kubekiln.errors import KubekilnError, StorageError

_CHUNK = 1 << 20
_LOOK_AGAIN_S = 0.2
# As tempfile ends its names: others' hidden files, of an editor say, end otherwise.
_RANDOM = "[a-z0-9_]" * 8

_STORAGE_HINTS = {
    errno.ENOSPC: "free some disk space, or point XDG_CACHE_HOME at a larger disk",
    errno.EDQUOT: "free some of your quota, or point XDG_CACHE_HOME at another disk",
    errno.EROFS: "the file system is read-only: point XDG_CACHE_HOME at a writable place",
    errno.EACCES: "check the owner and mode of the directory",
    errno.EPERM: "check the owner and mode of the directory",
}

# Only where a directory is made: anywhere else these are mistakes of ours.
_IN_THE_WAY = "a file is where a directory has to be: move it away, or give another place"
_PLACE_HINTS: Mapping[type[OSError], str] = {
    FileExistsError: _IN_THE_WAY,
    FileNotFoundError: "nothing can be made there: give another place",
    NotADirectoryError: _IN_THE_WAY,
}


# Go and zig say it in their own ways.
_FULL_DISK_SIGNS = {
    "no space left on device": errno.ENOSPC,
    "nospaceleft": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
}


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into a StorageError that names `path`.

    A full one also if a command failed of it: then the end of its output says so.
    """
    try:
        yield
    except StorageError:
        raise
    except KubekilnError as error:
        said = str(error).lower()
        number = next((n for sign, n in _FULL_DISK_SIGNS.items() if sign in said), None)
        if number is None:
            raise
        raise _full_disk(path, number, error) from error
    except OSError as error:
        if error.errno not in _STORAGE_HINTS:
            raise
        raise StorageError(
            f"cannot write {error.filename or path}: {os.strerror(error.errno)}",
            where=str(path),
            hint=_STORAGE_HINTS[error.errno],
        ) from error


def _full_disk(path: Path, number: int, error: KubekilnError) -> StorageError:
    free = f"{shutil.disk_usage(existing(path)).free / 1e9:.1f} GB are free"
    failed = error.problems[0]
    return StorageError(
        f"cannot write {path}: {os.strerror(number)} ({free}); {failed.what}",
        where=", ".join([str(path), *([failed.where] if failed.where else [])]),
        hint=_STORAGE_HINTS[number],
    )


def existing(path: Path) -> Path:
    """Find the path itself, or the nearest directory above it that is there."""
    return next(p for p in (path, *path.parents) if p.exists())


def is_there(path: Path) -> bool:
    """Tell whether a file or directory is there; raises StorageError if we may not know.

    `Path.exists` raises or says no, by Python's version; `Path.glob` leaves out.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as error:
        raise _unreadable(path) from error
    return True


def read_private(path: Path) -> bytes:
    """Read a file that may be another user's: then raises StorageError."""
    try:
        return path.read_bytes()
    except PermissionError as error:
        raise _unreadable(path) from error


def list_dir(path: Path) -> list[Path]:
    """List a directory that may be another user's: then raises StorageError."""
    try:
        return sorted(path.iterdir())
    except PermissionError as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> StorageError:
    return StorageError(
        f"cannot read {path}: {os.strerror(errno.EACCES)}",
        hint="it belongs to another user, such as root: run kubekiln as the one who rendered",
    )


def make_dir(path: Path, *, mode: int = 0o755) -> Path:
    """Make a directory and its parents; `mode` applies to the last one, also if it exists."""
    with storage_errors(path):
        _make(path)
        if path.stat().st_mode & 0o7777 != mode:
            path.chmod(mode)
    return path


def make_parent(path: Path, *, mode: int = 0o777) -> None:
    """Make the directory that a file is to lie in, and its parents; one that is there stays so."""
    with storage_errors(path):
        _make(path.parent, mode=mode)


def _make(path: Path, *, mode: int = 0o777) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
    except tuple(_PLACE_HINTS) as error:
        there = existing(path.absolute())
        raise StorageError(
            f"cannot make {path}: {error.strerror}",
            where=str(there),
            hint=_PLACE_HINTS[type(error)],
        ) from error


def make_private_dirs(path: Path) -> Path:
    """Make a directory and those above it, for their owner alone; those that are there stay."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        make_dir(one, mode=0o700)
    return path


def write_atomic(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Write a whole file: temporary file in the same directory, fsync, rename.

    A reader sees the old content or the new one; a failure leaves the old one and no residue.
    """
    content = data.encode() if isinstance(data, str) else data
    with storage_errors(path):
        make_parent(path)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as out:
                os.fchmod(out.fileno(), mode)
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            Path(temporary).rename(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_dir(path.parent)


def remove_temporaries(path: Path) -> None:
    """Remove what `write_atomic` left of this file when it was killed; only its one writer may."""
    for left in path.parent.glob(f".{path.name}.{_RANDOM}"):
        if left.is_file():
            left.unlink()


def sync_file(path: Path) -> None:
    """Make what was written to a file durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_dir(path: Path) -> None:
    """Make a rename in `path` durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """Hash a file, as lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    """Hash bytes, as lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def _lock(handle: int, kind: int, *, blocking: bool) -> bool:
    try:
        fcntl.flock(handle, kind if blocking else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def locked(
    path: Path,
    *,
    blocking: bool = True,
    shared: bool = False,
    waiting: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Hold an advisory lock (flock(2)) on `path` while the block runs; it goes with the process.

    With `blocking=False` raises StorageError at once if somebody else holds it. `waiting` is called
    at once and then again and again while somebody does, and may raise to give up.
    """
    with storage_errors(path):
        make_parent(path)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        while not _lock(handle, kind, blocking=blocking and waiting is None):
            if waiting is None:
                raise StorageError(
                    f"another kubekiln holds {path}", hint="wait for it to end, then try again"
                )
            waiting()
            time.sleep(_LOOK_AGAIN_S)
        yield
    finally:
        os.close(handle)
