# SPDX-License-Identifier: Apache-2.0
"""Where do kubekiln's inputs, results and caches live?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kubekiln.errors import ConfigError
from kubekiln.files import is_there


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
    def keys_dir(self) -> Path:
        """What machines get another way than by their platform (cloudinit/protect.py)."""
        return self.build_dir / "keys"

    @property
    def seeds_dir(self) -> Path:
        """Seeds of single machines of a pool (kubekiln/operations/seed.py)."""
        return self.build_dir / "seeds"

    @property
    def machines_dir(self) -> Path:
        return self.build_dir / "machines"

    @property
    def logs_dir(self) -> Path:
        return self.build_dir / "logs"

    @property
    def state_dir(self) -> Path:
        return self.root / "state"

    def profile_path(self, cluster: str) -> Path:
        """Name the config of a cluster that `up` made from its options."""
        return self.state_dir / f"{cluster}.yaml"

    def config_path(self, kind: str, name: str) -> Path:
        """Resolve NAME to `configs/<kind>/<name>.yaml`, or take it as a path if it looks like one.

        A cluster for which nobody wrote one may have a profile. Raises ConfigError naming what
        there is when nothing matches.
        """
        if is_path(name):
            path = Path(name)
            if path.is_file():
                return path
            raise ConfigError(f"no such file: {name}")
        path = self.configs_dir / kind / f"{name}.yaml"
        if path.is_file():
            return path
        if kind == "clusters" and is_there(self.profile_path(name)):
            return self.profile_path(name)
        known = self.config_names(kind)
        raise ConfigError(
            f"no {kind.removesuffix('s')} named {name!r}",
            where=str(path),
            hint=f"there are: {', '.join(known)}; or give a path" if known else f"make {path}",
        )

    def config_names(self, kind: str) -> list[str]:
        """List the names that `config_path` finds, in order."""
        directories = [self.configs_dir / kind, *([self.state_dir] if kind == "clusters" else [])]
        return sorted({path.stem for d in directories for path in d.glob("*.yaml")})


def is_path(name: str) -> bool:
    """Tell a path of a config from the name of one."""
    return "/" in name or name.endswith((".yaml", ".yml"))


def age_identities_file() -> Path:
    """Where the user's age identities are: a file named as for sops, or sops' own default."""
    for name in ("KUBEKILN_AGE_KEY_FILE", "SOPS_AGE_KEY_FILE"):
        if os.environ.get(name):
            return Path(os.environ[name])
    base = os.environ.get("XDG_CONFIG_HOME")
    home = Path(base) if base and Path(base).is_absolute() else Path.home() / ".config"
    return home / "sops" / "age" / "keys.txt"


def passphrase_file() -> Path | None:
    """The file that holds the passphrase of an encrypted state, where there is no terminal."""
    name = os.environ.get("KUBEKILN_STATE_PASSPHRASE_FILE")
    return Path(name) if name else None


def cache_dir() -> Path:
    """The user's cache, shared by all checkouts (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME")
    home = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return home / "kubekiln"


def go_modules_dir() -> Path:
    """Where Go keeps modules, unless `go env -w` moved that."""
    named = os.environ.get("GOMODCACHE")
    return Path(named) if named else Path.home() / "go" / "pkg" / "mod"


def user_kubeconfig() -> Path:
    """The kubeconfig that kubectl writes to: the first of $KUBECONFIG, else ~/.kube/config."""
    return kubeconfig_files()[0]


def kubeconfig_files() -> list[Path]:
    """The kubeconfigs that kubectl reads as one: those of $KUBECONFIG, else ~/.kube/config."""
    named = [Path(n) for n in os.environ.get("KUBECONFIG", "").split(os.pathsep) if n]
    return named or [Path.home() / ".kube" / "config"]
