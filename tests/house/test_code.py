# SPDX-License-Identifier: Apache-2.0
"""Does the code keep the house's rules? (Each scan first proves that it scanned something.)"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("kubekiln", "pipeline", "cloudinit", "bench")
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40
# Only these may start processes: the door itself, and the set-up that runs before it can be loaded.
MAY_START = {"kubekiln/process.py", "kubekiln/bootstrap.py"}


def sources() -> list[Path]:
    found = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
    assert len(found) > 10, "the scan found no code"
    return found


def files_of_tests() -> list[Path]:
    found = sorted((ROOT / "tests").rglob("*.py"))
    assert len(found) > 100, "the scan found no tests"
    return found


def node_programs() -> list[Path]:
    """Python programs that land in the image have no suffix."""
    found = [p for p in (ROOT / "elements").rglob("*") if p.is_file() and not p.is_symlink()]
    return [p for p in found if p.read_bytes().startswith(b"#!/usr/bin/python3")]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*sources(), *node_programs(), *files_of_tests()], ids=name)
def test_a_file_is_short_licensed_and_says_which_question_it_answers(path: Path) -> None:
    text = path.read_text()
    if not text.strip():
        return
    assert "SPDX-License-Identifier: Apache-2.0" in "".join(text.splitlines()[:2])
    assert text.count("\n") <= MAX_FILE_LINES
    assert ast.get_docstring(ast.parse(text)), "no module docstring"


@pytest.mark.parametrize("path", [*sources(), *node_programs()], ids=name)
def test_functions_are_short(path: Path) -> None:
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("path", sources(), ids=name)
def test_public_things_of_the_packages_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert bare == []


@pytest.mark.parametrize("path", sources(), ids=name)
def test_only_the_process_module_starts_processes(path: Path) -> None:
    if name(path) in MAY_START:
        return
    tree = ast.parse(path.read_text())
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        (node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert "subprocess" not in imported
    assert not re.search(r"\bos\.(system|popen|spawn\w+|exec\w+|fork)\(", path.read_text())


@pytest.mark.parametrize("path", sources(), ids=name)
def test_the_environment_is_read_only_where_it_is_allowed(path: Path) -> None:
    allowed = {
        "kubekiln/process.py",
        "kubekiln/bootstrap.py",
        "kubekiln/host.py",
        "kubekiln/paths.py",
        "kubekiln/progress.py",
        "kubekiln/operations/doctor.py",
        "pipeline/targets/environment.py",
        # Credentials, where Terraform and govc look; other platforms' SDKs look themselves.
        "pipeline/targets/vsphere_access.py",
    }
    if name(path) not in allowed:
        assert not re.search(r"os\.(environ|getenv)", path.read_text())


def test_package_inits_are_empty() -> None:
    inits = [p for p in sources() if p.name == "__init__.py"]
    assert len(inits) > 5
    assert [name(p) for p in inits if p.read_text()] == []


def test_no_helper_drawer() -> None:
    assert [name(p) for p in sources() if p.stem in ("utils", "util", "helpers", "common")] == []


def test_the_top_level_holds_only_what_belongs_there() -> None:
    allowed = {
        ".ci", ".git", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "bench",
        "cloudinit", "configs", "docs", "elements", "kubekiln", "pipeline", "pyproject.toml",
        "requirements.txt", "tests",
    }  # fmt: skip
    made = {".venv", "build", "state", ".mypy_cache", ".pytest_cache", ".ruff_cache",
            ".hypothesis", ".import_linter_cache", "kubekiln.egg-info"}  # fmt: skip
    assert {p.name for p in ROOT.iterdir()} - allowed - made == set()
