# SPDX-License-Identifier: Apache-2.0
"""Test servers that are written in Go, each a module below tests/platforms/servers."""

from __future__ import annotations

import re
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


def _build(sources: Path, out: Path) -> None:
    go = Go(_go_root(sources), base=make_dir(cache_dir() / "go"))
    # One package at a time: other tests run beside it.
    words: list[str | Path] = ["build", "-mod=readonly", "-trimpath", "-p", "1", "-o", out, "."]
    run(
        Command(
            ["nice", go.program, *words], cwd=sources, env=go.environment(), timeout_s=1800,
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
