# SPDX-License-Identifier: Apache-2.0
"""How are files written for other tools, again and again, without touching what isn't ours?

What holds a cluster's data is written anew each time, readable for its owner only and kept out of
git. Examples are written once: whoever changed one keeps it. `.kubekiln-export.json` remembers what
we wrote, so that a node's keys go when the node does; `.kubekiln-export.begun` what an export was
about to write that didn't come to its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kubekiln.errors import ConfigError
from kubekiln.files import make_parent, make_private_dirs, storage_errors, write_atomic
from kubekiln.progress import say

TEMPLATES_DIR = Path(__file__).resolve().parents[1] / "templates" / "export"
_RECORD, _BEGUN = ".kubekiln-export.json", ".kubekiln-export.begun"


@dataclass
class Output:
    """A directory of which we know what of it is ours."""

    directory: Path
    before: frozenset[str] = frozenset()
    """What earlier exports wrote."""
    written: set[str] = field(default_factory=set)

    def check(self, *names: str) -> None:
        """Raise ConfigError if one of these files is there and not of an export of ours."""
        for path in (self.directory / name for name in names if not self._is_ours(name)):
            if path.exists():
                raise ConfigError(
                    f"{path} is there, and no export of kubekiln wrote it",
                    hint="give another --output, or move it away",
                )

    def write(self, name: str, content: str | bytes, *, has_keys: bool = False) -> str:
        """Write a file anew, for its owner only; gives its path, relative to the directory.

        One that has keys is kept out of git.
        """
        path = self._claim(name)
        if has_keys:
            top, *below = Path(name).parts
            self._ignore([f"/{top}/" if below else f"/{top}"])
        write_atomic(path, content, mode=0o600)
        return name

    def link(self, source: Path) -> str:
        """Have a large file there by a further name of it, or as a copy on another disk."""
        path = self._claim(source.name)
        if path.exists() and path.samefile(source):
            return source.name
        half = path.with_name(f".{source.name}.half")
        with contextlib.ExitStack() as undo, storage_errors(path):
            half.unlink(missing_ok=True)
            undo.callback(half.unlink, missing_ok=True)
            try:
                os.link(source, half)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(source, half)
            half.replace(path)
        return source.name

    def examples(self, *names: str) -> None:
        """Write the example files of these template directories that aren't there yet."""
        for name in names:
            base = TEMPLATES_DIR / name
            for source in sorted(path for path in base.rglob("*") if path.is_file()):
                # With its dot, git would heed it here, and packages leave hidden files out.
                if source.name == "gitignore":
                    self._ignore(source.read_text().splitlines())
                else:
                    self._example(source, source.relative_to(base))

    def finish(self) -> None:
        """Remove what an earlier export wrote and this one didn't; remember what is there now."""
        for name in sorted(self.before - self.written):
            (self.directory / name).unlink(missing_ok=True)
        written = json.dumps(sorted(self.written), indent=1) + "\n"
        write_atomic(self.directory / _RECORD, written)
        (self.directory / _BEGUN).unlink(missing_ok=True)

    def _is_ours(self, name: str) -> bool:
        return name in self.before or name in self.written

    def _claim(self, name: str) -> Path:
        """Take down that a file is ours before it is there, and make its directories."""
        self.check(name)
        path = self.directory / name
        self._make_parents(path)
        if not self._is_ours(name):
            with storage_errors(path), (self.directory / _BEGUN).open("a") as begun:
                begun.write(f"{name}\n")
        self.written.add(name)
        return path

    def _ignore(self, lines: Sequence[str]) -> None:
        """Have git leave out what these lines say; those of somebody's own stay."""
        path = self.directory / ".gitignore"
        there = path.read_text().splitlines() if path.is_file() else []
        lacking = [line for line in lines if line not in there]
        if all(line.startswith("#") for line in lacking):
            return
        self._make_parents(path)
        write_atomic(path, "\n".join([*there, *lacking]) + "\n")

    def _example(self, source: Path, name: Path) -> None:
        path = self.directory / name
        content = source.read_bytes()
        if path.is_file():
            if path.read_bytes() != content:
                say(f"{path} is there already, and was left as it is")
            return
        self._make_parents(path)
        write_atomic(path, content)

    def _make_parents(self, path: Path) -> None:
        """Make directories that are ours alone; those that are there stay as they are."""
        if path.parent.is_dir():
            return
        make_parent(self.directory)
        make_private_dirs(path.parent)


def open_output(directory: Path) -> Output:
    """Take a directory for an export; raises ConfigError where there is a file in its place."""
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory} is not a directory", hint="give another --output")
    directory = directory.resolve()
    record, begun = directory / _RECORD, directory / _BEGUN
    before = set(json.loads(record.read_text())) if record.is_file() else set()
    before |= set(begun.read_text().splitlines()) if begun.is_file() else set()
    return Output(directory, frozenset(before))
