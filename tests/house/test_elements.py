# SPDX-License-Identifier: Apache-2.0
"""Do the elements keep the rules of diskimage-builder and of this house?"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kubekiln.process import Command, run

ROOT = Path(__file__).resolve().parents[2]
ELEMENTS = ROOT / "elements"
# Directories whose files diskimage-builder runs.
HOOKS = ("root.d", "extra-data.d", "pre-install.d", "install.d", "post-install.d", "post-root.d",
         "block-device.d", "pre-finalise.d", "finalise.d", "cleanup.d")  # fmt: skip
MAX_SCRIPT_LINES = 75


def elements() -> list[Path]:
    found = sorted(p for p in ELEMENTS.iterdir() if p.is_dir())
    assert len(found) > 8, "the scan found no elements"
    return found


def hooks() -> list[Path]:
    found = [p for e in elements() for hook in HOOKS for p in sorted((e / hook).glob("*"))]
    assert len(found) > 10, "the scan found no scripts"
    return found


def shell_scripts() -> list[Path]:
    trees = ELEMENTS, ROOT / "tests/e2e/elements"
    files = [p for t in trees for p in t.rglob("*") if p.is_file() and not p.is_symlink()]
    found = [p for p in files if re.match(rb"#!/bin/(ba)?sh", p.read_bytes())]
    return [*found, *sorted((ROOT / "pipeline").rglob("*.sh"))]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Suffix → what reads it; a `.cfg` elsewhere is GRUB's.
READERS: dict[str, Callable[[str], object]] = {
    "*.yaml": yaml.safe_load,
    "cloud.cfg.d/*.cfg": yaml.safe_load,
    "*.toml": tomllib.loads,
    "*.json": json.loads,
}


def structured_files() -> list[tuple[Path, Callable[[str], object]]]:
    files = sorted(p for e in elements() for p in e.rglob("*") if p.is_file())
    found = [(p, read) for p in files for match, read in READERS.items() if p.match(match)]
    names = {path.name for path, _ in found}
    assert {"config.toml", "crictl.yaml", "50-kubekiln.cfg", "package-installs.yaml"} <= names
    return found


@pytest.mark.parametrize(
    ("path", "read"), structured_files(), ids=[name(path) for path, _ in structured_files()]
)
def test_a_structured_file_parses(path: Path, read: Callable[[str], object]) -> None:
    assert isinstance(read(path.read_text()), dict)


@pytest.mark.parametrize("path", hooks(), ids=name)
def test_dib_would_run_the_script(path: Path) -> None:
    """dib-run-parts passes over others without a word."""
    assert re.fullmatch(r"[0-9A-Za-z_-]+", path.name)
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("path", hooks(), ids=name)
def test_the_script_is_named_after_its_element(path: Path) -> None:
    """All elements are merged into one tree, where equal names clash."""
    element = path.parent.parent.name

    assert re.fullmatch(rf"[1-8][0-9]-{element}(-[a-z]+)?", path.name)


@pytest.mark.parametrize("path", hooks(), ids=name)
def test_the_script_is_short_strict_and_quiet(path: Path) -> None:
    text = path.read_text()

    assert text.startswith("#!/bin/bash\n# ")
    assert 'if [ "${DIB_DEBUG_TRACE:-0}" -gt 0 ]; then\n    set -x\nfi\nset -eu\n' in text
    assert "set -o pipefail" in text
    assert text.count("\n") <= MAX_SCRIPT_LINES


@pytest.mark.parametrize("path", hooks(), ids=name)
def test_no_script_uses_apt_or_the_network(path: Path) -> None:
    code = "\n".join(ln for ln in path.read_text().splitlines() if not ln.startswith("#"))

    used = r"(^|[;|&(]|sudo)\s*(apt|apt-get|aptitude|curl|wget|git)\s"
    assert not re.search(used, code, re.MULTILINE)


def test_no_two_elements_have_a_file_at_the_same_place() -> None:
    seen: dict[str, str] = {}
    for element in elements():
        for path in sorted(element.rglob("*")):
            place = path.relative_to(element).as_posix()
            if path.is_file() and "/" in place:
                assert place not in seen, f"{element.name} and {seen[place]} both have {place}"
                seen[place] = element.name


@pytest.mark.parametrize("element", elements(), ids=name)
def test_what_an_element_depends_on_is_there_sorted_and_documented(element: Path) -> None:
    file = element / "element-deps"
    depends = file.read_text().split() if file.is_file() else []
    readme = (element / "README.rst").read_text()

    assert depends == sorted(depends)
    assert [d for d in depends if not (ELEMENTS / d).is_dir()] == []
    said = readme.partition("Depends on\n")[2]
    assert [d for d in depends if d not in said] == []


@pytest.mark.parametrize("element", elements(), ids=name)
def test_every_variable_is_documented_and_every_documented_one_used(element: Path) -> None:
    prefix = "DIB_" + element.name.upper().replace("-", "_") + "_"
    variable = re.compile(rf"\b{prefix}[A-Z0-9_]+")
    files = [p for p in element.rglob("*") if p.is_file() and p.name != "README.rst"]
    used = {v for p in files for v in variable.findall(p.read_text(errors="ignore"))}
    readme = (element / "README.rst").read_text()
    documented = set(re.findall(rf"^({prefix}[A-Z0-9_]+)$", readme, re.MULTILINE))
    if element.name == "k8s-images":
        used.add("DIB_K8S_IMAGES")
        documented.add("DIB_K8S_IMAGES")

    assert documented == used
    assert readme.count(":Required:") == readme.count(":Example:") == readme.count(":Description:")


@pytest.mark.processes("shellcheck", "shfmt")
def test_shellcheck_and_shfmt_are_silent() -> None:
    scripts = shell_scripts()
    assert len(scripts) > 15

    for tool in (["shellcheck", "--external-sources"], ["shfmt", "-i", "4", "-ci", "-d"]):
        result = run(Command([*tool, *scripts]), check=False)
        assert result.text == ""
        assert result.returncode == 0


@pytest.mark.processes("dib-lint", "git")
def test_dib_lint_is_silent(tmp_path: Path) -> None:
    """It wants the layout of dib's own repository."""
    shutil.copytree(
        ELEMENTS, tmp_path / "diskimage_builder/elements", symlinks=True,
        ignore=shutil.ignore_patterns("__pycache__"),
    )  # fmt: skip
    (tmp_path / "diskimage_builder/lib").mkdir()
    (tmp_path / "diskimage_builder/lib/nothing").touch()
    run(Command(["git", "init", "-q", tmp_path]))
    # It runs flake8 over Python programs; the columns are ruff's business.
    (tmp_path / ".flake8").write_text("[flake8]\nmax-line-length = 100\n")
    bin_dir = Path(sys.executable).parent
    path = f"{bin_dir}:/usr/bin:/bin"

    result = run(Command([bin_dir / "dib-lint"], cwd=tmp_path, env={"PATH": path}), check=False)

    assert [ln for ln in result.text.splitlines() if ln.startswith("ERROR")] == []
    assert result.returncode == 0, result.text[-2000:]
