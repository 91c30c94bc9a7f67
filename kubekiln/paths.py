# SPDX-License-Identifier: Apache-2.0
"""Where do kubekiln's inputs, results and caches live?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kubekiln.errors import ConfigError


@dataclass(frozen=True)
class Project:
    """A checkout (or any directory that has `configs/components.lock.yaml`)."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """Find the project at or above `start`; raises ConfigError where there is none."""
        here = (start or Path.cwd()).resolve()
        for directory in (here, *here.parents):
            if (directory / "configs" / "components.yaml").is_file():
                return cls(directory)
        raise ConfigError(
            f"no kubekiln project at or above {here}",
            hint="run it inside a checkout: the directory that holds configs/components.yaml",
        )

    @property
    def configs_dir(self) -> Path:
        return self.root / "configs"

    @property
    def elements_dir(self) -> Path:
        return self.root / "elements"

    @property
    def build_dir(self) -> Path:
        return self.root / "build"

    @property
    def images_dir(self) -> Path:
        return self.build_dir / "images"

    @property
    def nodes_dir(self) -> Path:
        return self.build_dir / "nodes"

    @property
    def machines_dir(self) -> Path:
        return self.build_dir / "machines"

    @property
    def logs_dir(self) -> Path:
        return self.build_dir / "logs"

    @property
    def state_dir(self) -> Path:
        return self.root / "state"

    def config_path(self, kind: str, name: str) -> Path:
        """Resolve NAME to `configs/<kind>/<name>.yaml`, or take it as a path if it looks like one.

        Raises ConfigError naming what there is when nothing matches.
        """
        if "/" in name or name.endswith((".yaml", ".yml")):
            path = Path(name)
            if path.is_file():
                return path
            raise ConfigError(f"no such file: {name}")
        path = self.configs_dir / kind / f"{name}.yaml"
        if path.is_file():
            return path
        known = sorted(p.stem for p in (self.configs_dir / kind).glob("*.yaml"))
        raise ConfigError(
            f"no {kind.removesuffix('s')} named {name!r}",
            where=str(path),
            hint=f"there are: {', '.join(known)}" if known else f"make {path}",
        )


def cache_dir() -> Path:
    """The user's cache, shared by all checkouts (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME")
    home = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return home / "kubekiln"
