# SPDX-License-Identifier: Apache-2.0
"""Which elements, and which packages, does an image consist of?

Reads only what our cut into layers needs: `element-deps` and `package-installs.yaml`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from kubekiln.errors import ConfigError, Problem


@dataclass(frozen=True)
class Element:
    """One element: a directory."""

    name: str
    path: Path
    depends: tuple[str, ...]

    def packages(self, architecture: str) -> set[str]:
        """List the packages it asks for on an architecture."""
        file = self.path / "package-installs.yaml"
        wanted = (yaml.safe_load(file.read_text()) or {}) if file.is_file() else {}
        return {
            name
            for name, about in wanted.items()
            if not about or about.get("arch", architecture) == architecture
        }

    def digest(self) -> str:
        """Digest names, modes and contents of all its files."""
        digest = hashlib.sha256()
        for path in sorted(self.path.rglob("*")):
            about = path.lstat()
            if "__pycache__" in path.parts or path == self.path / "README.rst":
                continue  # neither lands in an image
            digest.update(f"{path.relative_to(self.path)}\0{about.st_mode & 0o170111:o}\0".encode())
            if stat.S_ISLNK(about.st_mode):
                digest.update(os.fsencode(path.readlink()))
            elif stat.S_ISREG(about.st_mode):
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def upstream_elements_dir() -> Path:
    """Find the elements that come with diskimage-builder, without importing it (0.3 s)."""
    spec = importlib.util.find_spec("diskimage_builder")
    if spec is None or spec.origin is None:
        raise ConfigError("diskimage-builder is not installed", hint="run `make setup`")
    return Path(spec.origin).parent / "elements"


def resolve(
    names: Iterable[str],
    elements_dir: Path,
    *,
    where: Callable[[str], str | None] = lambda _: None,
) -> tuple[Element, ...]:
    """Find elements and all that they depend on, sorted by name.

    `where` says of a name at which place it is given. Raises ConfigError naming each that is not
    there.
    """
    places = (elements_dir, upstream_elements_dir())
    found: dict[str, Element] = {}
    problems: list[Problem] = []
    waiting: list[tuple[str, Element | None]] = [(name, None) for name in names]
    while waiting:
        name, asked_by = waiting.pop()
        if name in found:
            continue
        path = next((p / name for p in places if (p / name).is_dir()), None)
        if path is None:
            known = ", ".join(sorted(p.name for p in elements_dir.glob("k8s-*")))
            by = f"element {asked_by.name!r}" if asked_by else "the image's `elements`"
            what = f"no element {name!r}, asked for by {by}"
            place = str(asked_by.path / "element-deps") if asked_by else where(name)
            problems.append(Problem(what, place, f"ours are: {known}"))
            continue
        deps = path / "element-deps"
        depends = tuple(deps.read_text().split()) if deps.is_file() else ()
        found[name] = Element(name, path, depends)
        waiting += [(dep, found[name]) for dep in depends]
    if problems:
        raise ConfigError.of(problems)
    return tuple(found[name] for name in sorted(found))
