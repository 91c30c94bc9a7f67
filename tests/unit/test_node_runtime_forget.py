# SPDX-License-Identifier: Apache-2.0
"""Is nothing left of a machine's user-data but what it brought, and nothing else removed?"""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.node_runtime import make_node

from kubekiln_node import forget  # isort: skip
from kubekiln_node.activate import activate  # isort: skip

INSTANCE = "var/lib/cloud/instances/lab-lab-1-0123456789ab"
COPIES = (
    "etc/kubekiln/user-data.rest",
    f"{INSTANCE}/cloud-config.txt",
    f"{INSTANCE}/obj.pkl",
    f"{INSTANCE}/scripts/vendor/x",
    f"{INSTANCE}/user-data.txt",
    f"{INSTANCE}/user-data.txt.i",
    f"{INSTANCE}/vendor-data.txt",
    "run/cloud-init/combined-cloud-config.json",
    "run/cloud-init/instance-data-sensitive.json",
    "var/lib/cloud/seed/nocloud/user-data",
    "var/lib/waagent/ovf-env.xml",
)
KEPT = (
    f"{INSTANCE}/boot-finished",
    f"{INSTANCE}/sem/config_ssh",
    "run/cloud-init/instance-data.json",
    "run/cloud-init/status.json",
    "var/lib/cloud/data/instance-id",
)


def plant(root: Path, datasource: str = "DataSourceNoCloud [seed=/dev/sr0]") -> None:
    for name in (*COPIES, *KEPT):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    status = {"v1": {"datasource": datasource, "init": {"errors": []}}}
    (root / "run/cloud-init/status.json").write_text(json.dumps(status))
    (root / "var/lib/cloud/instance").symlink_to(root / INSTANCE)


def insert_cd(root: Path, label: str = "cidata", device: str = "sr0") -> str:
    labels = root / "dev/disk/by-label"
    labels.mkdir(parents=True)
    (root / "dev" / device).touch()
    (labels / label).symlink_to(f"../../{device}")
    return str(root / "dev" / device)


def test_every_copy_is_gone_and_nothing_else(tmp_path: Path) -> None:
    plant(tmp_path)
    told: list[str] = []

    forget.forget_copies(root=str(tmp_path), tell=told.append)

    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == set(KEPT)
    assert told == []


def test_a_machine_that_has_forgotten_has_nothing_to_do(tmp_path: Path) -> None:
    told: list[str] = []

    for _ in range(2):
        forget.forget_copies(root=str(tmp_path), tell=told.append)

    assert told == []


@pytest.mark.parametrize(("number", "said"), [(errno.EROFS, False), (errno.EIO, True)])
def test_a_copy_that_stays_is_told_unless_it_is_mounted_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: bool
) -> None:
    plant(tmp_path)
    told: list[str] = []

    def refuse(_path: str) -> None:
        raise OSError(number, "Input/output error")

    monkeypatch.setattr(forget, "remove", refuse)
    forget.forget_copies(root=str(tmp_path), tell=told.append)

    wanted = f'KUBEKILN userdata=kept reason="/{INSTANCE}/user-data.txt: Input/output error"'
    assert (wanted in told) == said
    assert bool(told) == said


@pytest.mark.parametrize(
    ("datasource", "has_tool", "cleared"),
    [
        ("DataSourceVMware [seed=guestinfo]", True, True),
        ("DataSourceVMware [seed=guestinfo]", False, False),
        ("DataSourceEc2Local", True, False),
    ],
)
def test_guestinfo_is_cleared_where_the_user_data_came_by_it(
    tmp_path: Path, datasource: str, has_tool: bool, cleared: bool
) -> None:
    plant(tmp_path, datasource)
    if has_tool:
        (tmp_path / "usr/bin").mkdir(parents=True)
        (tmp_path / "usr/bin/vmware-rpctool").touch()
    commands: list[list[str]] = []

    def run(words: Sequence[str]) -> int:
        commands.append(list(words))
        return 0

    forget.give_back(root=str(tmp_path), run=run)

    wanted = ["vmware-rpctool", "info-set guestinfo.userdata ---"]
    assert commands == ([wanted] if cleared else [])


@pytest.mark.parametrize(
    ("label", "device", "is_ejected"),
    [("cidata", "sr0", True), ("config-2", "sr1", True), ("cidata", "vdb", False),
     ("backup", "sr0", False)],
)  # fmt: skip
def test_the_seeds_cd_is_ejected_and_no_other_disk(
    tmp_path: Path, label: str, device: str, is_ejected: bool
) -> None:
    path = insert_cd(tmp_path, label, device)
    ejected: list[str] = []

    forget.give_back(root=str(tmp_path), run=lambda _words: 0, eject=ejected.append)

    assert ejected == ([path] if is_ejected else [])


def test_a_drive_that_can_not_eject_is_no_error(tmp_path: Path) -> None:
    forget.eject_disk(insert_cd(tmp_path))
    forget.eject_disk(str(tmp_path / "none"))


@pytest.mark.parametrize("is_right", [True, False])
def test_it_is_forgotten_once_the_gate_is_open_and_not_before(
    tmp_path: Path, is_right: bool
) -> None:
    node = make_node(tmp_path)
    plant(tmp_path)
    if not is_right:
        node.path("/etc/kubernetes/pki/ca.key").write_text("damaged\n")

    activate(
        run=lambda _words: 0, host_name="solo-1", owner_of=lambda _uid, _gid: "root:root",
        root=str(tmp_path), now=lambda: 1.0, tell=lambda _line: None, sync=lambda: None,
    )  # fmt: skip

    assert any((tmp_path / copy).exists() for copy in COPIES) != is_right
    assert node.path("/etc/kubernetes/pki/ca.key").exists()
