# SPDX-License-Identifier: Apache-2.0
"""Does a machine write the rest of its user-data whole, as it should be, and only that?"""

from __future__ import annotations

import gzip
import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.node_runtime import Node, make_node

from kubekiln_node import protected  # isort: skip
from kubekiln_node.activate import activate  # isort: skip
from kubekiln_node.clock import Clock  # isort: skip
from kubekiln_node.status import STATUS_PATH  # isort: skip
from kubekiln_node.waiting import Waiting  # isort: skip

FILES = [
    {"path": "/etc/x/key", "mode": "0600", "owner": "root:root", "content": "secret\n"},
    {"path": "/var/lib/kubelet/config.yaml", "mode": "0640", "owner": "etcd:etcd",
     "content": "é: 1\n"},
]  # fmt: skip


def packed(files: list[dict[str, str]] | None = None) -> bytes:
    return gzip.compress(json.dumps({"files": files or FILES}).encode())


class Machine:
    """A fake root with a note on it."""

    def __init__(self, root: Path, rest: bytes, **changes: Any) -> None:
        self.root, self.rest = root, rest
        self.owners: list[str] = []
        note = {"schema": 1, "cluster": "lab", "owner": "lab-1", "protect": "age",
                "sha256": sha256(rest).hexdigest(), **changes}  # fmt: skip
        (root / "etc/kubekiln").mkdir(parents=True, exist_ok=True)
        (root / "etc/kubekiln/protected.json").write_text(json.dumps(note))
        (root / "etc/kubekiln/user-data.age").write_text("sealed")

    def obtain(self, **more: Any) -> list[str]:
        doors = {"unseal": lambda _path: self.rest, "sync": lambda: None, **more}
        return protected.obtain(
            clock=Clock(),
            tell=lambda _line: None,
            waiting=Waiting("lab-1"),
            root=str(self.root),
            own=lambda _fd, owner: self.owners.append(owner),
            **doors,
        )


def test_every_file_is_written_with_its_mode_and_owner(tmp_path: Path) -> None:
    machine = Machine(tmp_path, packed())

    assert machine.obtain() == []

    key, config = (tmp_path / file["path"].lstrip("/") for file in FILES)
    assert key.read_text() == "secret\n" and key.stat().st_mode & 0o777 == 0o600
    assert config.read_text() == "é: 1\n" and config.stat().st_mode & 0o777 == 0o640
    assert machine.owners == ["root:root", "etcd:etcd"]


def test_what_it_came_in_is_gone_and_nothing_else_is_left(tmp_path: Path) -> None:
    Machine(tmp_path, packed()).obtain()

    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {file["path"].lstrip("/") for file in FILES}


class CutOff(Exception):
    """The machine was reset."""


@pytest.mark.parametrize("protect", ["age", "url"])
@pytest.mark.parametrize("lives", [1, 2, 3])
def test_a_machine_that_is_reset_needs_not_receive_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protect: str, lives: int
) -> None:
    """Reset after the rest, its files, or the note's removal was on the disk."""
    machine, synced, received = Machine(tmp_path, packed(), protect=protect), [], []

    def sync() -> None:
        synced.append(1)
        if len(synced) == lives:
            raise CutOff

    def give(*_words: object, **_more: object) -> bytes:
        received.append(1)
        return machine.rest

    monkeypatch.setattr(protected, "fetch", give)
    with pytest.raises(CutOff):
        machine.obtain(unseal=give, sync=sync)
    if (tmp_path / "etc/kubekiln/protected.json").exists():
        assert machine.obtain(unseal=give) == []

    assert len(received) == 1
    for file in FILES:
        assert (tmp_path / file["path"].lstrip("/")).read_text() == file["content"]
    assert not (tmp_path / "etc/kubekiln/protected.json").exists()


def test_what_an_earlier_boot_received_of_another_rendering_is_not_taken(tmp_path: Path) -> None:
    machine = Machine(tmp_path, packed())
    (tmp_path / "etc/kubekiln/user-data.rest").write_bytes(b"cut off")

    assert machine.obtain() == []


@pytest.mark.parametrize(
    ("changes", "rest", "said"),
    [
        ({"sha256": "0" * 64}, packed(), "is not what was rendered for lab-1: sha256"),
        ({"schema": 2}, packed(), "is of another kubekiln, or damaged: its schema is not 1"),
        ({"protect": "rot13"}, packed(), "it says protect 'rot13'"),
        ({"more": 1}, packed(), "is of another kubekiln, or damaged"),
        ({}, b"no gzip", "makes no sense"),
        ({}, gzip.compress(b"{}", mtime=0), "makes no sense"),
        ({}, packed()[:-9], "makes no sense"),
        ({}, packed([{**FILES[0], "path": "/usr/bin/x"}]), "/usr/bin/x is not for user-data"),
        ({}, packed([{**FILES[0], "path": "/etc/../usr/x"}]), "is not for user-data to write"),
    ],
)
def test_what_is_not_right_is_not_written_and_stays_to_be_looked_at(
    tmp_path: Path, changes: dict[str, Any], rest: bytes, said: str
) -> None:
    machine = Machine(tmp_path, rest, **changes)

    (problem,) = machine.obtain()

    assert said in problem
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"etc/kubekiln/protected.json", "etc/kubekiln/user-data.age"}


def fake_age(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an `age` that opens a file for one key alone."""
    program = directory / "age"
    program.write_text(
        "#!/bin/sh\n"
        'read -r key\n[ "$*" = "--decrypt --identity - $4" ] || exit 9\n'
        '[ "$key" = right ] || { echo "age: error: no identity matched" >&2; exit 1; }\n'
        'cat "$4"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


@pytest.mark.processes("age")
@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("right", None),
        ("wrong", "credential kubekiln.age-key does not open /etc/kubekiln/user-data.age: age: "),
        (None, "this machine has no key to it: no credential kubekiln.age-key, no disk labelled"),
    ],
)
def test_the_key_comes_as_a_credential_and_goes_by_no_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, said: str | None
) -> None:
    fake_age(tmp_path, monkeypatch)
    monkeypatch.setattr(protected, "KEY_DISK", str(tmp_path / "KUBEKILN"))
    sealed = tmp_path / "sealed"
    sealed.write_bytes(b"rest")
    if key is not None:
        (tmp_path / "kubekiln.age-key").write_text(f"{key}\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    if said is None:
        assert protected.unseal_file(str(sealed)) == b"rest"
    else:
        with pytest.raises(protected.ProtectedError, match="key") as refused:
            protected.unseal_file(str(sealed))
        assert said in str(refused.value)
        assert "wrong" not in str(refused.value)


def test_the_key_comes_on_a_disk_which_is_let_go_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, calls = tmp_path / "mounted", []
    monkeypatch.setattr(protected, "MOUNT_POINT", str(place))

    def run(words: list[str], **_: object) -> Any:
        calls.append(words)
        if words[0] == "mount":
            (place / "kubekiln.age-key").write_text("right\n")
        return type("Done", (), {"returncode": 0})

    found = protected.read_disk("/dev/disk/by-label/KUBEKILN", run)

    assert found == [("the disk KUBEKILN", b"right\n")]
    assert calls[0][:3] == ["mount", "-o", "ro,nosuid,nodev,noexec"]
    assert calls[-1] == ["umount", str(place)]


def test_a_disk_that_can_not_be_mounted_holds_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protected, "MOUNT_POINT", str(tmp_path / "mounted"))

    failed = type("Done", (), {"returncode": 32})
    assert protected.read_disk("/dev/x", lambda *_, **__: failed) == []


def test_a_disk_of_that_label_without_a_key_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vda2").touch()
    (tmp_path / "KUBEKILN").symlink_to("vda2")
    monkeypatch.setattr(protected, "KEY_DISK", str(tmp_path / "KUBEKILN"))
    monkeypatch.setattr(protected, "read_disk", lambda _device: [])
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    with pytest.raises(protected.ProtectedError) as refused:
        protected.unseal_file("/etc/x")

    assert "to be read on the disk labelled KUBEKILN, vda2" in str(refused.value)


def as_protected(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a healthy node's files, and give them back as the rest."""
    paths = [*(file["path"] for file in node.manifest["files"]), "/etc/kubekiln/node.json"]
    files = []
    for path in paths:
        place = node.path(path)
        mode = f"{place.stat().st_mode & 0o777:04o}"
        files.append({"path": path, "mode": mode, "owner": "root:root",
                      "content": place.read_text()})  # fmt: skip
        place.unlink()
    rest = packed(files)
    Machine(node.root, rest)
    monkeypatch.setattr(protected, "unseal_file", lambda _path: rest)
    monkeypatch.setattr(protected, "give_to", lambda _fd, _owner: None)


def run_activation(node: Node) -> tuple[int, list[str]]:
    console: list[str] = []
    status = activate(
        run=lambda _words: 0, host_name="solo-1", owner_of=lambda _uid, _gid: "root:root",
        root=str(node.root), now=lambda: 1.0, tell=console.append, sync=lambda: None,
    )  # fmt: skip
    return status, console


def test_the_gate_opens_on_the_rest_as_on_any_user_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node(tmp_path)
    as_protected(node, monkeypatch)

    assert run_activation(node)[0] == 0
    # The next boot has nothing to open, and the same files.
    assert not (tmp_path / "etc/kubekiln/protected.json").exists()
    assert run_activation(node)[0] == 0


def test_the_gate_stays_closed_and_says_why_the_rest_can_not_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node(tmp_path)
    as_protected(node, monkeypatch)

    def refuse(_path: str) -> bytes:
        raise protected.ProtectedError("this machine has no key")

    monkeypatch.setattr(protected, "unseal_file", refuse)
    status, console = run_activation(node)

    assert status == 1
    (line,) = console
    assert line.startswith('KUBEKILN gate=closed reason="this machine has no key"')
    assert json.loads(node.path(STATUS_PATH).read_text())["gate"] == "closed"


def test_while_it_waits_its_status_says_for_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node(tmp_path)
    as_protected(node, monkeypatch)

    def wait_and_fail(*, waiting: Waiting, **_: object) -> list[str]:
        waiting._tell('KUBEKILN waiting reason="no server" t=1.0 node=solo-1')
        status = json.loads(node.path(STATUS_PATH).read_text())
        assert status["reasons"] == ["no server"]
        return ["gave up"]

    monkeypatch.setattr(protected, "obtain", wait_and_fail)

    assert "KUBEKILN waiting reason" in run_activation(node)[1][0]
