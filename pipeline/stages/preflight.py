# SPDX-License-Identifier: Apache-2.0
"""Can this image be baked on this host? Everything that speaks against it is said at once."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from kubekiln.errors import ConfigError, KubekilnError, Problem
from kubekiln.files import existing
from kubekiln.host import missing_tools
from kubekiln.paths import Project, cache_dir, go_modules_dir
from kubekiln.process import Command, find_tool, run
from pipeline.forecast import Step, forecast_bake
from pipeline.lock import Lock
from pipeline.model import Image
from pipeline.plan import Plan, make_plan
from pipeline.room import (
    BAKE_BYTES,
    COMPILE_BYTES,
    COMPILERS_BYTES,
    MODULES_BYTES,
    PUBLISH_BYTES,
    lack_of_room,
)
from pipeline.sources.toolchain import is_installed
from pipeline.stages.components import check_components

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
        check_components(image, lock)
    except KubekilnError as error:
        problems.extend(error.problems)
    problems += _architecture(image)
    steps = () if problems else forecast_bake(image, project=project, lock=lock)
    if problems or refresh or not all(step.is_cached for step in steps):
        problems += [*_tools(), *_privileges(), *_space(_room_needed(project, lock, steps))]
    if problems or plan is None:
        raise ConfigError.of(problems)
    return plan


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


def _room_needed(project: Project, lock: Lock, steps: Sequence[Step]) -> list[tuple[Path, int]]:
    wanted = [(cache_dir(), BAKE_BYTES), (project.build_dir, PUBLISH_BYTES)]
    if any(step.compiles for step in steps):
        wanted.append((cache_dir(), COMPILE_BYTES))
        if not all(is_installed(compiler) for _, compiler in lock.toolchains):
            wanted.append((cache_dir(), COMPILERS_BYTES))
        if not go_modules_dir().is_dir():
            wanted.append((go_modules_dir(), MODULES_BYTES))
    return wanted


def _space(wanted: Sequence[tuple[Path, int]]) -> list[Problem]:
    """Find places that can't be written, and disks with less room than all that goes to them."""
    problems = []
    by_disk: dict[int, tuple[Path, int]] = {}
    for path in dict.fromkeys(path for path, _ in wanted):
        if not os.access(existing(path), os.W_OK):
            hint = "make it writable, or point XDG_CACHE_HOME at another place"
            problems.append(Problem(f"cannot write {path}", hint=hint))
    for path, need in wanted:
        disk = existing(path).stat().st_dev
        first, so_far = by_disk.get(disk, (path, 0))
        by_disk[disk] = (first, so_far + need)
    lacks = [lack_of_room(path, need, what_for="a bake") for path, need in by_disk.values()]
    return [*problems, *(lack for lack in lacks if lack)]
