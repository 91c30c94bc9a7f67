# SPDX-License-Identifier: Apache-2.0
"""Can this image be baked on this host? Everything that speaks against it is said at once."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from kubekiln.errors import ConfigError, KubekilnError, Problem
from kubekiln.host import missing_tools
from kubekiln.paths import Project, cache_dir
from kubekiln.process import Command, find_tool, run
from pipeline.forecast import forecast_bake
from pipeline.lock import Lock
from pipeline.model import Image
from pipeline.plan import Plan, make_plan

_GIB = 1 << 30
# Layers, disk and work space of one bake, measured 4.5 GB, and what is kept of earlier ones.
_CACHE_GIB = 10
_BUILD_GIB = 1
_MACHINES = {"amd64": ("x86_64",), "arm64": ("aarch64", "arm64")}


def preflight(image: Image, *, project: Project, lock: Lock, refresh: bool = False) -> Plan:
    """Check everything and plan the bake; writes nothing.

    Of the host nothing is asked if all is in the caches; with `refresh` it never is.
    Raises ConfigError (exit code 2) with all problems.
    """
    problems: list[Problem] = []
    plan: Plan | None = None
    try:
        plan = make_plan(image, project)
    except KubekilnError as error:
        problems.extend(error.problems)
    try:
        lock.check_wanted(image.components, image.architecture)
    except KubekilnError as error:
        problems.extend(error.problems)
    problems += _architecture(image)
    if problems or refresh or not _is_cached(image, project, lock):
        problems += [*_tools(), *_privileges(), *_space(project)]
    if problems or plan is None:
        raise ConfigError.of(problems)
    return plan


def _is_cached(image: Image, project: Project, lock: Lock) -> bool:
    return all(step.is_cached for step in forecast_bake(image, project=project, lock=lock))


def _architecture(image: Image) -> list[Problem]:
    if platform.machine() in _MACHINES[image.architecture]:
        return []
    return [
        Problem(
            f"{image.name} is for {image.architecture}, this host is a {platform.machine()}",
            hint="bake it on a host of that architecture",
        )
    ]


def _tools() -> list[Problem]:
    lacking = missing_tools("bake")
    packages = " ".join(sorted({tool.package for tool in lacking}))
    hint = f"`make setup` installs it; by hand: apt-get install {packages}"
    return [Problem(f"{t.name} is missing: it {t.purpose}", hint=hint) for t in lacking]


def _privileges() -> list[Problem]:
    if os.geteuid() == 0 or find_tool("sudo") is None:
        return []  # without sudo: said by _tools
    if run(Command(["sudo", "-n", "true"]), check=False).returncode == 0:
        return []
    return [
        Problem(
            "the bake needs root and sudo asks for a password",
            hint="run `sudo -v` before, or run it as root",
        )
    ]


def _space(project: Project) -> list[Problem]:
    wanted = {cache_dir(): _CACHE_GIB, project.build_dir: _BUILD_GIB}
    problems = []
    for path, need in wanted.items():
        there = _existing(path)
        if not os.access(there, os.W_OK):
            problems.append(
                Problem(
                    f"cannot write {path}",
                    hint="make it writable, or point XDG_CACHE_HOME at another place",
                )
            )
        elif (free := shutil.disk_usage(there).free) < need * _GIB:
            problems.append(
                Problem(
                    f"{free / _GIB:.1f} GiB free for {path}, a bake needs {need} GiB",
                    hint="free some disk space, or point XDG_CACHE_HOME at a larger disk",
                )
            )
    return problems


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())
