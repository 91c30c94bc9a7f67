# SPDX-License-Identifier: Apache-2.0
"""Does systemd take an image's own units and drop-ins without a word, and a node's beside them?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.conftest import ROOT
from tests.support.units import verify

ELEMENTS = sorted(ROOT.glob("elements/*/static"))
_DIRECTORIES = ("usr/lib/systemd/system", "etc/systemd/system")
FILES = {
    path.relative_to(static): path
    for static in ELEMENTS
    for directory in _DIRECTORIES
    for path in sorted((static / directory).rglob("*"))
    if path.is_file() or path.is_symlink()
}
UNITS = sorted({p.name for p, source in FILES.items() if p.suffix != ".conf" and source.is_file()})
# Units of Debian's packages, of which we change something.
CHANGED = sorted({p.parent.name.removesuffix(".d") for p in FILES if p.suffix == ".conf"})
_STUBS = (
    "basic.target", "local-fs.target", "multi-user.target", "network-online.target",
    "network.target", "shutdown.target", "sysinit.target",
)  # fmt: skip
# A host of the tests may have a systemd that doesn't know it yet; the image's does.
_SINCE_254 = "Unknown key 'RestartMode' in section [Service], ignoring."
GOLDEN = ROOT / "tests/golden"
_WRITTEN = "root/etc/systemd/system"
# Of each role of each example one; of a variant only the units that differ.
NODES = sorted(
    str(path.parents[5].relative_to(GOLDEN))
    for path in GOLDEN.glob(f"*/*/{_WRITTEN}/kubekiln.target.d/10-role.conf")
)


def plant(root: Path, more: Mapping[Path, Path] = MappingProxyType({})) -> None:
    """Lay units where a machine has them, with a stub of all that they name."""
    shipped = root / _DIRECTORIES[0]
    shipped.mkdir(parents=True)
    programs = {"usr/bin/stub"}
    for place, source in {**FILES, **more}.items():
        target = root / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
            continue
        target.write_bytes(source.read_bytes())
        text = source.read_text()
        programs |= set(re.findall(r"^Exec\w+=[-+]?/(\S+)", text, re.MULTILINE))
    for name in (*_STUBS, *CHANGED):
        service = "[Service]\nExecStart=/usr/bin/stub\n" if name.endswith(".service") else ""
        text = f"[Unit]\nDescription=stub\nDefaultDependencies=no\n{service}"
        (shipped / name).write_text(text)
    for program in programs:
        (root / program).parent.mkdir(parents=True, exist_ok=True)
        (root / program).write_text("#!/bin/true\n")
        (root / program).chmod(0o755)


def said_of(root: Path, names: list[str]) -> list[str]:
    """Give what systemd says, but for a key that it may be too old for."""
    return [line for line in verify(root, names).splitlines() if not line.endswith(_SINCE_254)]


@pytest.mark.processes("systemd-analyze")
def test_systemd_has_nothing_to_say_of_the_images_units(tmp_path: Path) -> None:
    plant(tmp_path)

    assert {"containerd.service", "kubekiln-activate.service", "kubekiln-cni.path"} <= set(UNITS)
    assert {"cloud-init-main.service", "systemd-remount-fs.service"} <= set(CHANGED)
    assert said_of(tmp_path, [*UNITS, *CHANGED]) == []


@pytest.mark.processes("systemd-analyze")
@pytest.mark.parametrize("node", NODES)
def test_systemd_has_nothing_to_say_of_a_nodes_units(tmp_path: Path, node: str) -> None:
    root = GOLDEN / node / "root"
    files = [path for path in (GOLDEN / node / _WRITTEN).rglob("*") if path.is_file()]
    plant(tmp_path, {path.relative_to(root): path for path in files})

    units = {path.name for path in files if path.suffix == ".service"}
    assert len(NODES) >= 15
    assert said_of(tmp_path, sorted({*UNITS, *units})) == []


@pytest.mark.processes("systemd-analyze")
@pytest.mark.parametrize(
    "place",
    [p for p, s in FILES.items() if p.suffix in (".service", ".conf") and not s.is_symlink()],
    ids=str,
)
def test_systemd_would_have_something_to_say_of_a_wrong_one(tmp_path: Path, place: Path) -> None:
    plant(tmp_path)
    with (tmp_path / place).open("a") as unit:
        unit.write("\n[Service]\nRestrat=always\n")

    name = place.parent.name.removesuffix(".d") if place.suffix == ".conf" else place.name
    assert any("Restrat" in line for line in said_of(tmp_path, [name]))
