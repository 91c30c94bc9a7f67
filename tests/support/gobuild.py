# SPDX-License-Identifier: Apache-2.0
"""What tests build from Go modules: servers of ours (tests/platforms/servers), others' programs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from kubekiln.files import locked, make_dir, sha256_bytes
from kubekiln.paths import cache_dir
from kubekiln.process import Command, find_tool, run
from pipeline.sources.gocommand import Go
from pipeline.sources.toolchain import install_toolchain
from tests.support.locks import real_lock

MODULES_DIR = Path(__file__).resolve().parents[1] / "platforms" / "servers"
_SOURCES = ("go.mod", "go.sum", "main.go")


def go_server(name: str) -> Path:
    """Give the program of `servers/<name>`, whose go.sum pins all that is in it.

    Kept in the user's cache, by the digest of its sources; built once, which takes minutes.
    """
    sources = MODULES_DIR / name
    digest = sha256_bytes(b"".join((sources / file).read_bytes() for file in _SOURCES))[:16]
    base = make_dir(cache_dir() / "test-servers")
    program = base / f"{name}-{digest}"
    with locked(base / f"{program.name}.lock"):
        if not program.is_file():
            new = program.with_suffix(".new")
            _build(sources, new)
            new.rename(program)
    return program


@dataclass(frozen=True)
class GoProgram:
    """A program of a module, which its hash pins, and whose own go.sum pins the rest."""

    module: str
    version: str
    sum: str
    """As in go.sum: `h1:…`."""
    package: str = "."


def go_program(wanted: GoProgram) -> Path:
    """Build a program as its authors do, with the versions that their module names.

    Kept in the user's cache; built once, which takes minutes.
    """
    base = make_dir(cache_dir() / "test-servers")
    name = wanted.module.removesuffix("/v3").rpartition("/")[2]
    program = base / f"{name}-{sha256_bytes(wanted.sum.encode())[:16]}"
    with locked(base / f"{program.name}.lock"):
        if not program.is_file():
            new = program.with_suffix(".new")
            _build(_download(wanted), new, package=wanted.package)
            new.rename(program)
    return program


def _download(wanted: GoProgram) -> Path:
    go = Go(install_toolchain(real_lock().toolchains.go) / "go", base=make_dir(cache_dir() / "go"))
    module = f"{wanted.module}@{wanted.version}"
    words: list[str | Path] = [go.program, "mod", "download", "-json", module]
    about = json.loads(run(Command(words, cwd=go.base, env=go.environment(), timeout_s=600)).text)
    assert about["Sum"] == wanted.sum, f"{module} is not what it was: {about['Sum']}"
    return Path(about["Dir"])


def _build(sources: Path, out: Path, *, package: str = ".") -> None:
    go = Go(_go_root(sources), base=make_dir(cache_dir() / "go"))
    # One package at a time: other tests run beside it.
    words: list[str | Path] = [
        "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-p", "1", "-o", out, package,
    ]  # fmt: skip
    run(
        Command(
            ["nice", go.program, *words], cwd=sources, env=go.environment(), timeout_s=3600,
            what_for="to build a test server",
        )
    )  # fmt: skip


def _go_root(sources: Path) -> Path:
    """Give the host's Go if it is new enough, else the one that images are built with."""
    wanted = re.search(r"^go (\d+)\.(\d+)", (sources / "go.mod").read_text(), re.MULTILINE)
    assert wanted is not None
    if find_tool("go") is not None:
        asked = run(Command(["go", "env", "GOVERSION", "GOROOT"], env={"GOTOOLCHAIN": "local"}))
        version, root = asked.text.splitlines()
        has = re.match(r"go(\d+)\.(\d+)", version)
        if has and tuple(map(int, has.groups())) >= tuple(map(int, wanted.groups())):
            return Path(root)
    return install_toolchain(real_lock().toolchains.go) / "go"
