# SPDX-License-Identifier: Apache-2.0
"""How are files written for other tools, again and again, without touching what isn't ours?

What holds a cluster's data is written anew each time, readable for its owner only. Examples are
written once: whoever changed one keeps it. `.kubekiln-export.json` remembers what we wrote, so that
a node's keys go when the node does.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from kubekiln.errors import ConfigError
from kubekiln.files import make_dir, storage_errors, write_atomic
from kubekiln.progress import say

TEMPLATES_DIR = Path(__file__).resolve().parents[1] / "templates" / "export"
_RECORD = ".kubekiln-export.json"


@dataclass
class Output:
    """A directory of which we know what of it is ours."""

    directory: Path
    written: set[str] = field(default_factory=set)

    def secret(self, name: str, content: str | bytes) -> str:
        """Write a file anew that may hold keys; gives its path, relative to the directory."""
        path = self.directory / name
        self._make_parents(path)
        write_atomic(path, content, mode=0o600)
        self.written.add(name)
        return name

    def link(self, source: Path) -> str:
        """Have a large file there by a further name of it, or as a copy on another disk."""
        path = self.directory / source.name
        self._make_parents(path)
        with storage_errors(path):
            path.unlink(missing_ok=True)
            try:
                os.link(source, path)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(source, path)
        self.written.add(source.name)
        return source.name

    def examples(self, *names: str) -> None:
        """Write the example files of these template directories that aren't there yet."""
        for name in names:
            base = TEMPLATES_DIR / name
            for source in sorted(path for path in base.rglob("*") if path.is_file()):
                # With its dot, git would heed it here, and packages leave hidden files out.
                hidden = "." if source.name == "gitignore" else ""
                self._example(source, source.relative_to(base).with_name(hidden + source.name))

    def finish(self) -> None:
        """Remove what an earlier export wrote and this one didn't; remember what is there now."""
        record = self.directory / _RECORD
        before = set(json.loads(record.read_text())) if record.is_file() else set()
        for name in sorted(before - self.written):
            (self.directory / name).unlink(missing_ok=True)
        write_atomic(record, json.dumps(sorted(self.written), indent=1) + "\n")

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
        with storage_errors(path.parent):
            self.directory.parent.mkdir(parents=True, exist_ok=True)
        missing = [p for p in (path.parent, *path.parent.parents) if not p.exists()]
        for one in reversed(missing):
            make_dir(one, mode=0o700)


def open_output(directory: Path) -> Output:
    """Take a directory for an export; raises ConfigError where there is a file in its place."""
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory} is not a directory", hint="give another --output")
    return Output(directory.resolve())
