# SPDX-License-Identifier: Apache-2.0
"""Is a state that an older kubekiln wrote as a directory taken over as it is?"""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudinit.state import StateError
from cloudinit.statefile import decode
from tests.support.clusters import render, snapshot


def write_legacy(directory: Path, *, marker: str = "kubekiln-state 1\n") -> None:
    """Replace the state by what format 1 had instead."""
    path = directory / "state"
    document = decode(path.read_bytes(), path=path, cluster="lab")
    files = {f"authorities/{n}.pem": p for n, p in document.authorities.items()} | {
        f"leaves/{n}.{leaf.digest}.pem": leaf.pair for n, leaf in document.leaves.items()
    }
    for name, pair in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(pair.key.reveal() + pair.certificate)
    (directory / "keys").mkdir()
    names = {"service-account": "service-account.pem", "encryption": "encryption.key"}
    for name, key in document.keys.items():
        (directory / "keys" / names[name]).write_bytes(key.reveal())
    (directory / "version").write_text(marker)
    path.unlink()


def test_it_is_taken_over_and_gives_the_same_bytes(tmp_path: Path) -> None:
    render(tmp_path)
    before = snapshot(tmp_path)
    write_legacy(tmp_path / "state" / "lab")
    assert len(list((tmp_path / "state" / "lab" / "leaves").rglob("*.pem"))) > 8

    made = render(tmp_path)

    assert not made.created_state
    assert snapshot(tmp_path) == before
    assert {p.name for p in (tmp_path / "state" / "lab").iterdir()} == {"state", "admin.kubeconfig"}


def test_one_whose_first_rendering_was_interrupted_is_gone_on_with(tmp_path: Path) -> None:
    render(tmp_path)
    directory = tmp_path / "state" / "lab"
    write_legacy(directory)
    kept = (directory / "authorities" / "kubernetes.pem").read_bytes()
    for name in ("version", "authorities/etcd.pem"):
        (directory / name).unlink()
    for path in (tmp_path / "build" / "nodes" / "lab").rglob("*"):
        if path.is_file():
            path.unlink()
    (tmp_path / "build" / "nodes" / "lab" / "lab-1").rmdir()

    made = render(tmp_path)

    document = decode((directory / "state").read_bytes(), path=directory, cluster="lab")
    pair = document.authorities["kubernetes"]
    assert made.created_state and pair.key.reveal() + pair.certificate == kept


def test_one_of_another_format_is_refused(tmp_path: Path) -> None:
    render(tmp_path)
    write_legacy(tmp_path / "state" / "lab", marker="kubekiln-state 0\n")

    with pytest.raises(StateError, match="state format 'kubekiln-state 0'"):
        render(tmp_path)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_damaged_one_is_refused_without_printing_it(tmp_path: Path, content: bytes) -> None:
    render(tmp_path)
    write_legacy(tmp_path / "state" / "lab")
    (tmp_path / "state" / "lab" / "authorities" / "etcd.pem").write_bytes(content)

    with pytest.raises(StateError, match=r"etcd\.pem does not hold a key and its certificate"):
        render(tmp_path)
