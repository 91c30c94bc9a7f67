# SPDX-License-Identifier: Apache-2.0
"""How does the source of a Go module come here, verified, and patched where it must be?"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kubekiln.errors import IntegrityError
from kubekiln.files import make_dir
from kubekiln.process import Command, run
from pipeline.sources.gocommand import Go


@dataclass(frozen=True)
class Module:
    """A module in the module cache."""

    directory: Path
    sum: str


def download_module(
    go: Go, work_dir: Path, module: str, version: str, *, env: Mapping[str, str] | None = None
) -> Module:
    """Download a module, checked by go.sum or the checksum database. Raises Unreachable."""
    argv: list[str | Path] = [go.program, "mod", "download", "-json", f"{module}@{version}"]
    environment = go.environment() | dict(env or {})
    result = run(Command(argv, cwd=work_dir, env=environment), check=False)
    try:
        answer = json.loads(result.stdout)
    except ValueError:
        answer = {"Error": result.stderr.decode(errors="replace").strip()}
    if "Error" in answer:
        raise go.unreachable(f"cannot get the Go module {module} {version}", answer["Error"])
    return Module(Path(answer["Dir"]), answer["Sum"])


def module_source(
    go: Go, work_dir: Path, module: str, version: str, *, expected: str | None = None
) -> Path:
    """Download a module; give its directory. Raises IntegrityError if it isn't the expected one."""
    # The pinned hash is a better witness than the database, which may not know the module.
    env = {"GONOSUMDB": module} if expected else {}
    found = download_module(go, work_dir, module, version, env=env)
    if expected is not None and found.sum != expected:
        raise IntegrityError(
            f"{module} {version} has the hash {found.sum}", hint=f"pinned is {expected}"
        )
    return found.directory


def patch_modules(work_dir: Path, go: Go) -> None:
    """Make `patched/<module path>` of each `patch/<module path>`: the module with our files in it.

    Go refuses an overlay on its module cache, so the module is copied.
    """
    patch = work_dir / "patch"
    if not patch.is_dir():
        return
    mod = json.loads(
        run(
            Command([go.program, "mod", "edit", "-json"], cwd=work_dir, env=go.environment())
        ).stdout
    )
    for replace in mod.get("Replace") or []:
        module, target = replace["Old"]["Path"], work_dir / replace["New"]["Path"]
        if not replace["New"]["Path"].startswith("./patched/"):
            continue
        version = next(r["Version"] for r in mod["Require"] if r["Path"] == module)
        # Outside of the main module, where the replacement would hide the module.
        outside = make_dir(work_dir.parent / "outside")
        source = module_source(go, outside, module, version, expected=_pinned_sum(patch, module))
        shutil.copytree(source, target, copy_function=shutil.copyfile)
        for path, _, _ in os.walk(target):
            Path(path).chmod(0o755)
        shutil.copytree(patch / module, target, dirs_exist_ok=True)


def _pinned_sum(patch: Path, module: str) -> str:
    """Read `patch/<module path>.sum`: go.sum drops the hash of a module that is replaced."""
    return (patch / f"{module}.sum").read_text().strip()
