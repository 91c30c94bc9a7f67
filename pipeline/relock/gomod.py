# SPDX-License-Identifier: Apache-2.0
"""How does a wanted Go build become pinned: go.mod, go.sum, and who vouches for them?"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from kubekiln import progress
from kubekiln.config import Model
from kubekiln.errors import ConfigError, KubekilnError
from kubekiln.files import make_dir, write_atomic
from kubekiln.process import Command, run
from pipeline.components import WantedBuild, fill_in
from pipeline.lock import CProgram, GoBuild
from pipeline.sources.gocommand import Go
from pipeline.sources.gomod import mod_digest
from pipeline.sources.gomodules import Module, download_module, patch_modules
from pipeline.sources.provider import Unreachable

_STAGING = re.compile(r"^\s*(\S+) => \./staging/", re.MULTILINE)
_LOWEST_GO = "1.24.0"
"""The first Go release that knows `tool` lines, by which go.mod names our programs."""


class Resolved(Model):
    """What resolving the module graph gave."""

    sum: str
    """Hash of the component's own module."""
    pinned_by_us: tuple[str, ...]
    """Modules that the public checksum database doesn't know."""


def resolve_build(
    component: str,
    version: str,
    wanted: WantedBuild,
    *,
    go: Go,
    gomodules_dir: Path,
    previous: GoBuild | None,
    refresh: bool,
) -> GoBuild:
    """Pin a build; writes its go.mod and go.sum if they aren't there or `refresh` is set.

    A build that is pinned and whose files are unchanged is kept without asking the network.
    """
    name = f"{component}/{version}"
    directory = gomodules_dir / component / version
    module_version = wanted.module_version or f"v{version}"
    unchanged = (
        previous is not None
        and (directory / "go.sum").is_file()
        and previous.mod_sha256 == mod_digest(directory)
        and (previous.module, previous.version) == (wanted.module, module_version)
    )
    if previous is not None and unchanged and not refresh:
        resolved = Resolved(sum=previous.sum, pinned_by_us=previous.pinned_by_us)
    else:
        with progress.step(f"Resolving the Go modules of {component} {version}"):
            resolved = _resolve(component, version, wanted, module_version, go, directory)
    build = _pin(name, version, wanted, module_version, resolved, mod_digest(directory))
    return build.model_copy(update={"built": _kept_records(build, previous)})


def _pin(
    name: str,
    version: str,
    wanted: WantedBuild,
    module_version: str,
    resolved: Resolved,
    mod_sha256: str,
) -> GoBuild:
    return GoBuild(
        directory=name,
        sum=resolved.sum,
        vouched="pinned-by-us" if _has(resolved, wanted.module, module_version) else "sumdb",
        pinned_by_us=resolved.pinned_by_us,
        mod_sha256=mod_sha256,
        **settings_of(wanted, version),
    )


def settings_of(wanted: WantedBuild, version: str) -> dict[str, Any]:
    """Give what components.yaml alone decides of a build, as the lock has it."""
    return {
        "module": wanted.module,
        "version": wanted.module_version or f"v{version}",
        "packages": fill_in(wanted.packages, version),
        "c_programs": {
            key: CProgram(source=p.source, cflags=fill_in(p.cflags, version))
            for key, p in wanted.c_programs.items()
        },
        "tags": wanted.tags,
        "ldflags": fill_in(wanted.ldflags, version),
        "cgo": wanted.cgo,
        "c_libraries": wanted.c_libraries,
        "note": wanted.note,
    }


def _has(resolved: Resolved, module: str, version: str) -> bool:
    return f"{module} {version}" in resolved.pinned_by_us


def _kept_records(build: GoBuild, previous: GoBuild | None) -> object:
    """Keep recorded hashes while nothing that goes into the bytes has changed."""
    if previous is None:
        return ()
    what = {"mod_sha256", "packages", "c_programs", "tags", "ldflags", "cgo", "c_libraries"}
    same = build.model_dump(include=what) == previous.model_dump(include=what)
    return previous.built if same else ()


def _resolve(
    component: str, version: str, wanted: WantedBuild, module_version: str, go: Go, directory: Path
) -> Resolved:
    with tempfile.TemporaryDirectory(prefix="kubekiln-relock-") as scratch:
        outside = make_dir(Path(scratch) / "outside")
        module, exempt = _own_module(go, outside, wanted.module, module_version)
        work_dir = Path(scratch) / "work"
        if directory.is_dir():
            shutil.copytree(directory, work_dir)
        make_dir(work_dir)
        if not (work_dir / "go.mod").is_file():
            text = _write_mod(component, version, wanted, module_version, module.directory)
            (work_dir / "go.mod").write_text(text)
        (work_dir / "go.sum").unlink(missing_ok=True)
        if wanted.packages:
            patch_modules(work_dir, go)
            exempt = _tidy(work_dir, go, exempt)
        else:
            lines = f"{wanted.module} {module_version} {module.sum}\n"
            (work_dir / "go.sum").write_text(lines)
        make_dir(directory)
        for name in ("go.mod", "go.sum"):
            write_atomic(directory / name, (work_dir / name).read_bytes())
    return Resolved(sum=module.sum, pinned_by_us=exempt)


def _own_module(go: Go, outside: Path, name: str, version: str) -> tuple[Module, tuple[str, ...]]:
    """Get the component's module; also give it as exempt if the checksum database lacks it."""
    try:
        return download_module(go, outside, name, version), ()
    except Unreachable as error:
        if not unknown_to_sumdb(error.problems[0].what):
            raise
    exempted = {"GONOSUMDB": name}
    return download_module(go, outside, name, version, env=exempted), (f"{name} {version}",)


def _write_mod(
    component: str, version: str, wanted: WantedBuild, module_version: str, source: Path
) -> str:
    """Write go.mod. Its `go` and `godebug` lines are upstream's: they set run-time defaults."""
    upstream = (source / "go.mod").read_text()
    found = re.search(r"^go (\S+)", upstream, re.MULTILINE)
    language = max(found.group(1) if found else _LOWEST_GO, _LOWEST_GO, key=_as_numbers)
    debug = re.search(r"^godebug (default=\S+)", upstream, re.MULTILINE)
    lines = [f"module kubekiln.invalid/{component}", "", f"go {language}", ""]
    if debug:
        lines += [f"godebug {debug.group(1)}", ""]
    if wanted.packages:
        lines += ["tool (", *(f"\t{p}" for p in sorted(wanted.packages.values())), ")", ""]
    required = sorted({wanted.module, *wanted.together})
    lines += ["require (", *(f"\t{m} {module_version}" for m in required), ")"]
    if wanted.staging:
        _, minor, patch = version.split(".", 2)
        staged = _STAGING.findall(upstream)
        if not staged:
            raise ConfigError(f"{wanted.module} {module_version} has no staging modules")
        lines += ["", "replace (", *(f"\t{m} => {m} v0.{minor}.{patch}" for m in staged), ")"]
    return "\n".join(lines) + "\n"


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version))


def _tidy(work_dir: Path, go: Go, known: tuple[str, ...]) -> tuple[str, ...]:
    """Complete go.mod and fill an empty go.sum, every line vouched for by the checksum database;
    only modules that it doesn't know are exempted, and returned as `module version`."""
    exempt = list(known)
    for _ in range(20):
        modules = ",".join(dict.fromkeys(e.split()[0] for e in exempt))
        env = go.environment() | ({"GONOSUMDB": modules} if modules else {})
        # -e: a test dependency that no proxy has is no reason to stop; a build says so if it is.
        result = run(Command([go.program, "mod", "tidy", "-e"], cwd=work_dir, env=env), check=False)
        output = result.stderr.decode(errors="replace")
        unknown = unknown_to_sumdb(output)
        new = [u for u in unknown if u not in exempt]
        if not new:
            if result.returncode != 0:
                raise go.unreachable("cannot resolve the module graph", output)
            return tuple(sorted(exempt))
        exempt += new
    raise KubekilnError("more modules than expected are unknown to the checksum database")


def unknown_to_sumdb(output: str) -> list[str]:
    """List the modules (`module version`) that Go says the checksum database doesn't have."""
    found: dict[str, None] = {}
    for line in output.splitlines():
        match = re.search(r"(\S+)@(v[^:\s/]+)(?:/go\.mod)?: verifying \S+: .*(404|410)", line)
        if match:
            found[f"{match.group(1)} {match.group(2)}"] = None
    return list(found)
