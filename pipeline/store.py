# SPDX-License-Identifier: Apache-2.0
"""Where are fetched and built files kept, so that nothing bad or half-written is ever found there?

Layout below the root: `sha256/<2>/<64 hex>` holds contents (read-only files), `keys/<64 hex>.json`
says which contents an input digest led to, `locks/` has one lock file per key, `tmp/` what is being
written. A file gets its final name by rename after it was verified and synced, so concurrent bakes
of several checkouts can share a store, and a killed one leaves residue in `tmp/` only, which the
next one clears away.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kubekiln.errors import IntegrityError
from kubekiln.files import locked, make_dir, sha256_file, storage_errors, sync_dir, write_atomic
from kubekiln.paths import cache_dir


def input_digest(**inputs: object) -> str:
    """Digest what a result depends on; the key under which the store remembers the result."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    """A content-addressed directory of read-only files."""

    root: Path

    @classmethod
    def default(cls) -> Store:
        """The store in the user's cache directory, shared by all checkouts."""
        return cls(cache_dir() / "store")

    def path(self, sha256: str) -> Path:
        """Name the place of a content, whether it is there or not."""
        return self.root / "sha256" / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Tell whether a content is there."""
        return self.path(sha256).is_file()

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """Give an empty directory on the store's file system; it goes with the block.

        One that a killed process left behind goes when the next is made.
        """
        parent = make_dir(self.root / "tmp")
        with storage_errors(parent), locked(self.root / "locks" / "tmp.lock"):
            for left in parent.iterdir():
                if _is_abandoned(left):
                    _remove_tree(left)
            directory = Path(tempfile.mkdtemp(dir=parent))
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            with storage_errors(parent), _no_other_name():
                yield directory
        finally:
            _remove_tree(directory)
            os.close(handle)

    def partial_path(self, name: str) -> Path:
        """Name a file in which an unfinished download is kept over runs."""
        return make_dir(self.root / "partial") / name

    def add(self, source: Path, *, sha256: str | None = None, executable: bool = False) -> str:
        """Take a file over (it is gone from `source` afterwards); give its sha256.

        Raises IntegrityError, with nothing added, if the content isn't the one expected.
        """
        actual = sha256_file(source)
        if sha256 is not None and actual != sha256:
            raise IntegrityError(
                f"sha256 of {source.name} is {actual}", hint=f"pinned is {sha256}; not kept"
            )
        target = self.path(actual)
        with storage_errors(self.root):
            make_dir(target.parent)
            if self.has(actual) and sha256_file(target) == actual:
                source.unlink()
            else:
                _move_into_place(source, target)
            if executable:
                target.chmod(0o555)
        return actual

    def lookup(self, key: str) -> dict[str, Path] | None:
        """Find the files recorded under a key; None unless all are there and unchanged.

        Unchanged means same size and time as when they were recorded, else their hash is taken.
        """
        try:
            entry = json.loads((self.root / "keys" / f"{key}.json").read_text())
            files = {name: str(sha256) for name, sha256 in entry["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        for sha256 in files.values():
            if not self._is_sound(sha256):
                return None
        return {name: self.path(sha256) for name, sha256 in files.items()}

    def record(self, key: str, files: Mapping[str, str], *, about: Mapping[str, object]) -> None:
        """Remember which contents a key led to, and in plain words what the key stands for."""
        entry = {"about": dict(about), "files": dict(files)}
        text = json.dumps(entry, indent=1, sort_keys=True, default=str) + "\n"
        write_atomic(self.root / "keys" / f"{key}.json", text)
        for sha256 in files.values():
            self._stamp(sha256)

    @contextlib.contextmanager
    def lock(self, key: str, *, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the lock of one key, so that two bakes don't do the same work twice."""
        with locked(self.root / "locks" / f"{key}.lock", waiting=waiting):
            yield

    def damaged(self) -> list[Path]:
        """Hash every content; list those that aren't what their name says."""
        contents = sorted((self.root / "sha256").glob("*/*"))
        named = [p for p in contents if not p.suffix and not p.name.startswith(".")]
        return [p for p in named if sha256_file(p) != p.name]

    def discard(self, sha256: str) -> None:
        """Throw a content away."""
        self.path(sha256).unlink(missing_ok=True)
        self._stamp_path(sha256).unlink(missing_ok=True)

    def _stamp_path(self, sha256: str) -> Path:
        return self.path(sha256).with_suffix(".stamp")

    def _stamp(self, sha256: str) -> None:
        write_atomic(self._stamp_path(sha256), _stamp_of(self.path(sha256)))

    def _is_sound(self, sha256: str) -> bool:
        path = self.path(sha256)
        if not path.is_file():
            return False
        with contextlib.suppress(OSError):
            if self._stamp_path(sha256).read_text() == _stamp_of(path):
                return True
        if sha256_file(path) == sha256:
            return True
        with contextlib.suppress(OSError):
            self.discard(sha256)
        return False


@contextlib.contextmanager
def _no_other_name() -> Iterator[None]:
    """Let a full disk be told by the store's name: a failed copy carries its source's."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(error.errno, error.strerror) from error


def _stamp_of(path: Path) -> str:
    about = path.stat()
    return f"{about.st_size} {about.st_mtime_ns}\n"


def _move_into_place(source: Path, target: Path) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    temporary = Path(name)
    try:
        os.close(handle)
        try:
            source.rename(temporary)
        except OSError:  # another file system
            shutil.copyfile(source, temporary)
            if sha256_file(temporary) != target.name:
                raise IntegrityError(f"{source} changed while it was copied") from None
            source.unlink()
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o444)
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_dir(target.parent)


def _is_abandoned(directory: Path) -> bool:
    """Tell whether the process that made a workspace is gone, and its lock with it."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # its process just ended well
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _remove_tree(directory: Path) -> None:
    """Remove a tree of which parts may be read-only, as Go's module cache is."""
    for path, names, _ in os.walk(directory):
        for name in names:
            inner = Path(path) / name
            # Another process may be removing the same.
            with contextlib.suppress(FileNotFoundError):
                if not inner.is_symlink():
                    inner.chmod(0o755)
    shutil.rmtree(directory, ignore_errors=True)
