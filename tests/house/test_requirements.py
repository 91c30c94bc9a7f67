# SPDX-License-Identifier: Apache-2.0
"""Is every Python package that pyproject.toml asks for pinned by hash, in a version it admits?"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
# Which file pins what: libvirt's binding is compiled against the library of the host that has it.
PINNED_IN = {
    "requirements.txt": [*PROJECT["dependencies"], *EXTRAS["dev"]],
    "tests/platforms/servers/libvirt.txt": EXTRAS["libvirt"],
}
WANTED = [(file, wanted) for file, group in PINNED_IN.items() for wanted in group]


def read_pins(file: str) -> dict[str, list[tuple[Version, list[str]]]]:
    """Read package → its versions (more than one if Python's decides) and their hashes."""
    found: dict[str, list[tuple[Version, list[str]]]] = {}
    for entry in (ROOT / file).read_text().replace("\\\n", " ").splitlines():
        words = entry.split()
        requirement = Requirement(entry.partition(" --hash")[0])
        (pin,) = requirement.specifier
        assert pin.operator == "==", entry
        hashes = [w for w in words if w.startswith("--hash=sha256:")]
        found.setdefault(canonicalize_name(requirement.name), []).append(
            (Version(pin.version), hashes)
        )
    return found


def test_every_extra_is_pinned_somewhere() -> None:
    assert set(EXTRAS) == {"dev", "libvirt"}
    assert len(WANTED) > 30


@pytest.mark.parametrize("file", PINNED_IN)
def test_every_pin_has_a_hash_and_no_index(file: str) -> None:
    pins = read_pins(file)

    assert [name for name, found in pins.items() if not all(hashes for _, hashes in found)] == []
    assert "://" not in (ROOT / file).read_text()


@pytest.mark.parametrize(("file", "wanted"), WANTED, ids=[wanted for _, wanted in WANTED])
def test_what_is_asked_for_is_pinned_in_a_version_that_is_admitted(file: str, wanted: str) -> None:
    requirement = Requirement(wanted)

    pinned = [
        version for version, _ in read_pins(file).get(canonicalize_name(requirement.name), [])
    ]

    assert pinned, f"{file} lacks it: docs/architecture.md#python-packages says how to renew it"
    assert [v for v in pinned if not requirement.specifier.contains(v)] == []
