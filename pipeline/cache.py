# SPDX-License-Identifier: Apache-2.0
"""How is the output of a stage kept, so that the same inputs never cost the same work twice?

`<cache>/stages/<name>-<digest>/` holds outputs, published by rename; `<name>-<digest>.lock` is
held while it is made; `work/` holds what is being made, and what a killed bake left.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kubekiln.errors import StorageError
from kubekiln.files import locked, make_dir, storage_errors, sync_dir, sync_file
from kubekiln.paths import cache_dir
from kubekiln.process import Command, run
from kubekiln.progress import say, step, waits

_KEPT_PER_STAGE = 3
# A bake uses the base that it made when its components have compiled: half an hour later.
_MAYBE_IN_USE_S = 3600.0


@dataclass(frozen=True)
class Stage:
    """A step of the bake, as a value: what it is called, and a digest of all its inputs."""

    name: str
    title: str
    digest: str
    outputs: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.name}-{self.digest[:16]}"

    @property
    def directory(self) -> Path:
        """Where its outputs are, once it ran."""
        return stages_dir() / self.key

    @property
    def lock(self) -> Path:
        """Held by whoever runs it."""
        return stages_dir() / f"{self.key}.lock"

    def is_done(self) -> bool:
        """Tell whether all outputs are in the cache."""
        return all((self.directory / name).is_file() for name in self.outputs)

    def output(self, name: str) -> Path:
        """Name one output."""
        return self.directory / name


def stages_dir() -> Path:
    """Where the outputs of all stages are."""
    return cache_dir() / "stages"


def ensure(stage: Stage, work: Callable[[Path], None], *, refresh: bool = False) -> bool:
    """Run a stage unless its outputs are cached (or with `refresh`); tell whether they were.

    `work` gets an empty directory, in which it makes the outputs (and may leave other things).
    """
    make_dir(stages_dir())
    with locked(stage.lock, waiting=waits(f"another kubekiln makes this: {stage.title}")):
        if stage.is_done() and not refresh:
            os.utime(stage.directory)
            say(f"• {stage.title}: cached")
            return True
        with step(stage.title), storage_errors(stages_dir()):
            _run(stage, work)
    return False


def _run(stage: Stage, work: Callable[[Path], None]) -> None:
    with scratch_dir(stage.key) as scratch:
        work(scratch)
        done = make_dir(scratch / ".outputs")
        for name in stage.outputs:
            sync_file(scratch / name)
            (scratch / name).rename(done / name)
        remove_tree(stage.directory)
        done.rename(stage.directory)
        sync_dir(stages_dir())


@contextlib.contextmanager
def scratch_dir(name: str) -> Iterator[Path]:
    """Give a directory to work in, on the file system of the outputs; it is gone afterwards.

    Removes what killed bakes left: directories that nobody holds the lock of.
    """
    root = make_dir(stages_dir() / "work")
    with contextlib.ExitStack() as stack:
        with locked(root / ".lock"):
            for stale in [p for p in root.iterdir() if p.is_dir()]:
                _remove_unless_locked(stale)
            scratch = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=root))
            scratch.chmod(0o755)
            stack.enter_context(locked(scratch / ".lock"))
        stack.callback(remove_tree, scratch)
        # Before it is removed: of its disk is told how much is free.
        with storage_errors(scratch):
            yield scratch


def _remove_unless_locked(scratch: Path) -> None:
    with contextlib.suppress(StorageError), locked(scratch / ".lock", blocking=False):
        remove_tree(scratch, check=False)


def prune() -> None:
    """Remove all but the newest outputs of each stage, except those that were used just now."""
    long_ago = time.time() - _MAYBE_IN_USE_S
    by_name: dict[str, list[Path]] = {}
    for directory in stages_dir().glob("*-*/"):
        by_name.setdefault(directory.name.rpartition("-")[0], []).append(directory)
    for directories in by_name.values():
        newest_first = sorted(directories, key=lambda d: d.stat().st_mtime, reverse=True)
        for directory in newest_first[_KEPT_PER_STAGE:]:
            if directory.stat().st_mtime > long_ago:
                continue
            lock = directory.with_name(f"{directory.name}.lock")
            with contextlib.suppress(StorageError), locked(lock, blocking=False):
                remove_tree(directory)


def remove_tree(path: Path, *, check: bool = True) -> None:
    """Remove a directory, also if root made things in it."""
    if not path.exists():
        return
    command: list[str | Path] = ["rm", "-rf", "--one-file-system", path]
    if run(Command(command), check=False).returncode != 0:
        run(Command(command, as_root=True), check=check)
