# SPDX-License-Identifier: Apache-2.0
"""Is the database's disk found or made of the only empty one, and is no other disk ever touched?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.elements import FakeBuild
from tests.support.node_runtime import PROGRAMS_DIR

UUID = "7d9d6b5e-92f3-5c0e-9a3f-3a4f6a0d7c11"
GIB = 1 << 30
MARK = "var/lib/kubekiln/etcd-disk"
# What is on a disk, and below it, is said by files beside it.
BLKID = """
if [ "$1" = --uuid ]; then cat {0}/known 2>/dev/null; exit; fi
[ -e "$2.signature" ] || exit 2
"""
LSBLK = """
case $* in *--nodeps*) cat {0}/disks; exit ;; esac
for last; do :; done
cat "$last.below"
"""


@pytest.fixture
def node(tmp_path: Path) -> FakeBuild:
    """A machine whose programs only note what they are told."""
    made = FakeBuild(tmp_path)
    made.put("dev/disks")
    made.fake("blkid", BLKID.format(made.root / "dev"), quiet=True)
    made.fake("lsblk", LSBLK.format(made.root / "dev"), quiet=True)
    made.fake("mountpoint", "exit 1", quiet=True)
    for name in ("mkfs.ext4", "e2fsck", "mount", "resize2fs"):
        made.fake(name)
    return made


def disk(node: FakeBuild, name: str, *, kind: str = "disk", gib: int = 20, ro: int = 0,
         removable: int = 0, parts: int = 0, signature: bool = False, content: str = "",
         ) -> str:  # fmt: skip
    path = node.put(f"dev/{name}", content)
    with path.open("r+b") as file:
        file.truncate(2 << 20)
    node.put(f"dev/{name}.below", "".join(f"{name}{n or ''}\n" for n in range(parts + 1)))
    if signature:
        node.put(f"dev/{name}.signature")
    with (node.root / "dev/disks").open("a") as listed:
        listed.write(f"{name} {kind} {ro} {removable} {gib * GIB}\n")
    return str(path)


def start(node: FakeBuild, gib: int = 8) -> subprocess.CompletedProcess[str]:
    data = node.root / "var/lib/etcd"
    data.mkdir(parents=True, exist_ok=True)
    places = (node.root / "dev", node.root / MARK)
    return subprocess.run(
        ["sh", PROGRAMS_DIR / "etcd-disk", data, UUID, str(gib), *places],
        env={"PATH": f"{node.commands}:/usr/bin:/bin"}, check=False, capture_output=True, text=True,
    )  # fmt: skip


def done(node: FakeBuild) -> list[str]:
    return [line.partition(" ")[0] for line in node.log()]


@pytest.mark.processes("sh")
def test_the_only_empty_disk_gets_the_file_system_and_is_mounted(node: FakeBuild) -> None:
    disk(node, "vda", parts=3, signature=True)
    empty = disk(node, "vdb", gib=8)

    assert start(node).returncode == 0

    made, checked, mounted, _grown = node.log()
    assert made == f"mkfs.ext4 -q -m 0 -L kubekiln-etcd -U {UUID} {empty}"
    assert checked == f"e2fsck -p {empty}"
    assert mounted.endswith(f"{empty} {node.root}/var/lib/etcd")
    assert {"nodev", "noexec", "nosuid"} <= set(mounted.split()[4].split(","))


@pytest.mark.processes("sh")
def test_the_disk_of_before_is_mounted_as_it_is(node: FakeBuild) -> None:
    disk(node, "vdb", gib=8)
    node.put("dev/known", "/dev/sdc\n")

    assert start(node).returncode == 0

    assert done(node) == ["e2fsck", "mount", "resize2fs"]
    assert "/dev/sdc" in node.log()[1]


@pytest.mark.processes("sh")
def test_another_empty_disk_is_not_taken_for_one_that_was_there_before(node: FakeBuild) -> None:
    empty = disk(node, "vdb", gib=8)
    assert start(node).returncode == 0

    # At a later boot a new empty one is there before it.
    (node.commands / "log").unlink()
    refused = start(node)

    assert refused.returncode == 1
    assert f"the database's disk ({UUID}) is not attached" in refused.stderr
    assert node.log() == []

    node.put("dev/known", f"{empty}\n")
    assert start(node).returncode == 0
    assert done(node) == ["e2fsck", "mount", "resize2fs"]


@pytest.mark.processes("sh")
def test_where_it_is_mounted_nothing_is_done(node: FakeBuild) -> None:
    disk(node, "vdb", gib=8)
    node.fake("mountpoint", quiet=True)

    assert start(node).returncode == 0

    assert node.log() == []


@pytest.mark.processes("sh")
@pytest.mark.parametrize(
    "what",
    [
        pytest.param({"signature": True}, id="a file system, or anything blkid knows"),
        pytest.param({"parts": 1}, id="partitions"),
        pytest.param({"content": "something"}, id="bytes that nobody knows"),
        pytest.param({"ro": 1}, id="read-only"),
        pytest.param({"removable": 1}, id="a stick"),
        pytest.param({"kind": "rom"}, id="a CD"),
    ],
)
def test_a_disk_that_may_be_somebodys_is_never_taken(
    node: FakeBuild, what: dict[str, object]
) -> None:
    disk(node, "vdb", gib=8, **what)  # type: ignore[arg-type]

    refused = start(node)

    assert refused.returncode == 1
    assert "no disk for the database" in refused.stderr
    assert UUID in refused.stderr
    assert node.log() == []


@pytest.mark.processes("sh")
def test_of_several_empty_disks_that_of_the_right_size_is_taken(node: FakeBuild) -> None:
    disk(node, "nvme1n1", gib=75)
    right = disk(node, "nvme2n1", gib=8)

    assert start(node).returncode == 0

    assert node.log()[0].endswith(right)


@pytest.mark.processes("sh")
def test_of_several_that_could_be_it_none_is_taken(node: FakeBuild) -> None:
    first, second = disk(node, "vdb", gib=8), disk(node, "vdc", gib=8)

    refused = start(node)

    assert refused.returncode == 1
    assert first in refused.stderr
    assert second in refused.stderr
    assert node.log() == []


@pytest.mark.processes("sh")
@pytest.mark.parametrize(("status", "mounts"), [(1, True), (4, False)])
def test_a_damaged_file_system_is_repaired_or_not_mounted(
    node: FakeBuild, status: int, mounts: bool
) -> None:
    node.put("dev/known", "/dev/sdc\n")
    node.fake("e2fsck", f"exit {status}")

    ended = start(node)

    assert (ended.returncode == 0) == mounts
    assert ("mount" in done(node)) == mounts
    assert ("damaged" in ended.stderr) != mounts
