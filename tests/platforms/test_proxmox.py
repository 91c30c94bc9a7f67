# SPDX-License-Identifier: Apache-2.0
"""Does kubekiln do on Proxmox what only Proxmox asks for?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from kubekiln.errors import KubekilnError
from pipeline.targets.platform import DiskImage, InstanceSpec, TransientError
from tests.platforms.conftest import make_spec
from tests.platforms.fakes.pve import Storage
from tests.platforms.fakes.pve_server import TOKEN
from tests.platforms.rigs.proxmox import ProxmoxRig
from tests.support.disks import make_image

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> DiskImage:
    return make_image(tmp_path_factory.mktemp("images"), "qcow2")


@pytest.fixture
def rig() -> Iterator[ProxmoxRig]:
    with ProxmoxRig() as rig:
        yield rig


def test_a_machine_is_a_copy_of_the_image_with_its_card_on_its_network(
    rig: ProxmoxRig, image: DiskImage, spec: InstanceSpec
) -> None:
    networks = [{"bridge": "vmbr1", "vlan": 80, "mtu": 9000, "firewall": True}]
    platform = rig.connect(networks=networks, pool="kubernetes")
    uploaded = platform.upload(image, lambda _n: None)

    made = platform.create(spec, uploaded)

    machine = rig.pve.machines[int(made.id)]
    config = machine.config
    disk = config["scsi0"].partition(",")[0]
    assert rig.pve.storages["local-lvm"].disks[disk] == uploaded.id
    assert f"size={1 << 30}" in config["scsi0"], "grown to disk_gib"
    assert config["net0"] == "virtio=52:54:00:AA:BB:01,bridge=vmbr1,tag=80,mtu=9000,firewall=1"
    assert (config["cores"], config["memory"], config["agent"]) == ("1", "256", "enabled=0")
    assert config["tags"].split(";") == [
        "kubekiln", "kubekiln-cluster-lab", "kubekiln-node-lab-1",
        "kubekiln-payload-0123456789abcdef",
    ]  # fmt: skip
    assert json.loads(config["description"]).items() >= spec.tags.items()
    assert machine.pool == "kubernetes"
    assert made.state == "running"


@pytest.mark.parametrize("seed", range(6))
def test_a_machine_boots_from_its_disk_in_whatever_order_proxmox_looks_at_parameters(
    rig: ProxmoxRig, image: DiskImage, spec: InstanceSpec, seed: int
) -> None:
    platform = rig.connect()
    rig.pve.order.seed(seed)

    made = platform.create(spec, platform.upload(image, lambda _n: None))

    config = rig.pve.machines[int(made.id)].config
    assert config["boot"].removeprefix("order=").split(";")[0] == "scsi0"
    platform.forget_user_data(*platform.list_instances())
    assert config["boot"].startswith("order=scsi0")


def test_with_uefi_a_machine_has_a_disk_for_its_variables_and_leaves_none(
    rig: ProxmoxRig, image: DiskImage, spec: InstanceSpec
) -> None:
    platform = rig.connect(firmware="uefi")
    uploaded = platform.upload(image, lambda _n: None)
    before = rig.leftovers()

    made = platform.create(spec, uploaded)

    assert rig.pve.machines[int(made.id)].config["bios"] == "ovmf"
    assert len(rig.pve.storages["local-lvm"].disks) == 2
    platform.delete(made)
    assert rig.leftovers() == before


def test_machines_go_to_the_hosts_in_turn(
    rig: ProxmoxRig, image: DiskImage, tmp_path: Path
) -> None:
    shared = {"nodes": ["pve1", "pve2"], "image_storage": "shared", "iso_storage": "shared"}
    platform = rig.connect(**shared, disk_storage="shared")
    uploaded = platform.upload(image, lambda _n: None)

    for name in ("lab-1", "lab-2", "lab-3"):
        platform.create(make_spec(tmp_path, name), uploaded)

    hosts = {i.node: i.extra["host"] for i in platform.list_instances()}
    assert hosts == {"lab-1": "pve2", "lab-2": "pve1", "lab-3": "pve2"}


def test_many_at_a_time_get_a_number_each(
    rig: ProxmoxRig, image: DiskImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform, other = rig.connect(), rig.connect()
    uploaded = platform.upload(image, lambda _n: None)
    specs = [make_spec(tmp_path, f"lab-{number}") for number in range(1, 9)]

    with ThreadPoolExecutor(8) as pool:
        # Two processes that make machines: neither knows which number the other is about to take.
        made = list(pool.map(
            lambda n: (platform, other)[n % 2].create(specs[n], uploaded), range(8)))  # fmt: skip

    assert len({one.id for one in made}) == 8


def test_a_number_that_somebody_took_meanwhile_is_not_insisted_on(
    rig: ProxmoxRig, image: DiskImage, spec: InstanceSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = rig.connect()
    uploaded = platform.upload(image, lambda _n: None)
    first = platform.create(spec, uploaded)
    answers = iter([int(first.id), int(first.id), int(first.id) + 1])
    monkeypatch.setattr(rig.pve, "next_id", lambda: next(answers))

    second = platform.create(replace(spec, node="lab-2"), uploaded)

    assert int(second.id) == int(first.id) + 1


def test_a_machine_whose_answer_was_lost_is_found_and_counts_as_failed(
    rig: ProxmoxRig, image: DiskImage, spec: InstanceSpec
) -> None:
    platform = rig.connect()
    uploaded = platform.upload(image, lambda _n: None)
    before = rig.leftovers()

    with pytest.raises(TransientError):
        rig.connect("cut").create(spec, uploaded)

    (found,) = platform.list_instances("lab")
    assert (found.node, found.state) == ("lab-1", "failed")
    assert found.extra["seeds"]
    again = platform.create(spec, uploaded)
    assert again.state == "running"
    platform.delete(again)
    assert rig.leftovers() == before


def test_a_seed_without_a_machine_is_found_and_removed(
    rig: ProxmoxRig, image: DiskImage, spec: InstanceSpec
) -> None:
    platform = rig.connect()
    rig.pve.storages["local"].files["local:iso/kubekiln-seed_lab_lab-1_0123.iso"] = b"keys"
    rig.pve.storages["local"].files["local:iso/debian.iso"] = b"not ours"

    (found,) = platform.list_instances("lab")
    platform.delete(found)

    assert found.state == "failed"
    assert rig.leftovers() == ["local:iso/debian.iso"]


def test_a_machine_that_got_the_number_of_a_removed_one_is_left_alone(
    rig: ProxmoxRig, image: DiskImage, spec: InstanceSpec
) -> None:
    platform = rig.connect()
    uploaded = platform.upload(image, lambda _n: None)
    old = platform.create(spec, uploaded)
    platform.delete(old)
    new = platform.create(replace(spec, node="lab-2"), uploaded)
    assert new.id == old.id

    platform.delete(old)

    assert [(i.node, i.state) for i in platform.list_instances()] == [("lab-2", "running")]


def test_a_task_that_fails_says_why_and_what_helps(rig: ProxmoxRig, image: DiskImage) -> None:
    rig.pve.storages["liar"] = Storage({"import"}, room=1 << 20, tells_room=False)

    with pytest.raises(KubekilnError) as raised:
        rig.connect(image_storage="liar").upload(image, lambda _n: None)

    (problem,) = raised.value.problems
    assert "No space left on device" in problem.what
    assert problem.where is not None
    assert problem.where.startswith("UPID:pve1:")
    assert problem.hint == "free space on the storage, or name another one in the target's file"


def test_a_damaged_upload_is_refused_by_proxmox_and_not_found(
    rig: ProxmoxRig, image: DiskImage
) -> None:
    platform = rig.connect()

    with pytest.raises(KubekilnError, match="checksum mismatch"):
        platform.upload(replace(image, sha256="0" * 64), lambda _n: None)

    assert rig.leftovers() == []


def test_a_disk_smaller_than_the_image_is_refused_with_a_hint(
    rig: ProxmoxRig, image: DiskImage, spec: InstanceSpec
) -> None:
    platform = rig.connect()
    uploaded = platform.upload(image, lambda _n: None)

    with pytest.raises(KubekilnError) as raised:
        platform.create(replace(spec, disk_gib=0), uploaded)

    assert "disk_gib" in str(raised.value)


@pytest.mark.parametrize(("more", "what"), [
    ({"nodes": ["pve3"]}, "host pve3 is not there"),
    ({"image_storage": "local-lvm"}, "storage local-lvm does not take the content 'import'"),
    ({"iso_storage": "nowhere"}, "there is no storage nowhere"),
    ({"networks": [{"bridge": "vmbr9"}]}, "host pve1 has no bridge vmbr9"),
    ({"nodes": ["pve1", "pve2"]}, "storage local isn't shared between the hosts"),
])  # fmt: skip
def test_what_is_missing_there_is_a_problem(
    rig: ProxmoxRig, more: dict[str, object], what: str
) -> None:
    problems = rig.connect(**more).problems()

    assert what in [problem.what for problem in problems]
    assert all(problem.hint for problem in problems)


def test_an_old_proxmox_is_a_problem(rig: ProxmoxRig) -> None:
    rig.pve.version = "8.3.5"

    assert [problem.what for problem in rig.connect().problems()] == ["it is Proxmox VE 8.3.5"]


def test_a_certificate_that_nobody_vouches_for_is_refused(rig: ProxmoxRig) -> None:
    (problem,) = rig.connect(ca_file=None).problems()

    assert "certificate isn't trusted" in problem.what
    assert "ca_file" in str(problem.hint)


def test_without_credentials_nothing_is_asked(
    rig: ProxmoxRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = rig.connect()
    monkeypatch.delenv("PROXMOX_VE_API_TOKEN")

    (problem,) = platform.problems()

    assert "no credentials" in problem.what
    assert TOKEN.partition("=")[2] not in "".join(problem.lines())


def test_a_large_image_is_not_held_in_memory(rig: ProxmoxRig, tmp_path: Path) -> None:
    image = make_image(tmp_path, "qcow2", size_mib=64)
    padded = tmp_path / "large.qcow2"
    padded.write_bytes(image.path.read_bytes() + b"\0" * (16 << 20))
    from kubekiln.files import sha256_file

    large = replace(image, path=padded, sha256=sha256_file(padded))
    steps: list[int] = []

    uploaded = rig.connect().upload(large, steps.append)

    assert sum(steps) == large.size
    assert max(steps) < 1 << 20, "read in small steps while it is sent"
    assert rig.connect().find_image(large) == uploaded
