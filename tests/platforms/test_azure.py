# SPDX-License-Identifier: Apache-2.0
"""Does kubekiln do on Azure what only Azure asks for?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ServiceRequestError
from azure.storage.blob import BlobClient

from kubekiln.errors import IntegrityError, KubekilnError
from kubekiln.operations.delivery import Delivery
from kubekiln.operations.retrying import Patience
from kubekiln.paths import Project
from pipeline.targets.azure import AzurePlatform
from pipeline.targets.platform import DiskImage, Instance, InstanceSpec, TransientError
from tests.platforms.conftest import make_spec
from tests.platforms.fakes.arm import ArmError, set_power
from tests.platforms.rigs.azure import CONTAINER, AzureRig
from tests.support.disks import make_image, raw_sha256

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(300)]
_MACHINE = "Microsoft.Compute/virtualMachines/lab-lab-1"
REAL_UPLOAD_PAGE = BlobClient.upload_page


@pytest.fixture(scope="module")
def server() -> Iterator[AzureRig]:
    with AzureRig() as rig:
        yield rig


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> DiskImage:
    return make_image(tmp_path_factory.mktemp("images"), "vhd")


@pytest.fixture
def rig(server: AzureRig, image: DiskImage) -> Iterator[AzureRig]:
    server.arm.refuse.clear()
    yield server
    platform = server.connect()
    for instance in platform.list_instances():
        platform.delete(instance)
    found = platform.find_image(image)
    if found:
        platform.delete_image(found)
    assert server.leftovers() == []


class Pages:
    """What goes through `upload_page`, and how often it may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[int] = []
        self.left = 1000
        self.spoil = False
        monkeypatch.setattr(BlobClient, "upload_page", self._upload_page())

    def _upload_page(self) -> Any:
        def upload_page(
            blob: BlobClient, page: bytes, offset: int, length: int, **more: Any
        ) -> Any:
            if len(self.sent) >= self.left:
                raise ServiceRequestError("the connection was cut")
            self.sent.append(offset)
            data = bytes(len(page) - 1) + b"!" if self.spoil else page
            return REAL_UPLOAD_PAGE(blob, data, offset, length, **more)

        return upload_page


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Pages:
    return Pages(monkeypatch)


def test_ranges_of_zeros_are_not_sent(rig: AzureRig, image: DiskImage, pages: Pages) -> None:
    uploaded = rig.connect().upload(image, lambda _n: None)

    # Noise is in the first MiB, in the middle, in the last; the footer is behind that.
    assert sorted(pages.sent) == [0, 32 << 20, 60 << 20, 64 << 20]
    rig.connect().delete_image(uploaded)


def test_an_upload_goes_on_where_it_was_cut_off(
    rig: AzureRig, image: DiskImage, pages: Pages, tmp_path: Path
) -> None:
    platform = rig.connect(streams=1)
    pages.left = 2
    with pytest.raises(TransientError):
        platform.upload(image, lambda _n: None)
    before, pages.left = list(pages.sent), 1000
    done: list[int] = []

    uploaded = platform.upload(image, done.append)

    assert len(before) == 2
    assert set(pages.sent[2:]).isdisjoint(before), "what is there isn't sent again"
    assert sum(done) == image.size
    assert rig.disk_sha256(uploaded, tmp_path) == raw_sha256(image.path, "vhd", tmp_path)


def test_what_an_earlier_attempt_left_is_read_back(
    rig: AzureRig, image: DiskImage, pages: Pages
) -> None:
    platform = rig.connect(streams=1)
    pages.left = 2
    with pytest.raises(TransientError):
        platform.upload(image, lambda _n: None)
    with rig.storage.service() as service:
        blob = service.get_blob_client(CONTAINER, f"{image.remote_name}.vhd")
        REAL_UPLOAD_PAGE(blob, b"\1" * 512, pages.sent[0], 512)
    pages.left = 1000

    with pytest.raises(IntegrityError, match="are not what was sent"):
        platform.upload(image, lambda _n: None)

    assert rig.blobs() == [], "nothing that could be gone on with"


def test_an_image_whose_making_nobody_heard_of_is_neither_sent_nor_made_again(
    rig: AzureRig, image: DiskImage, pages: Pages
) -> None:
    platform = rig.connect()
    made = platform.upload(image, lambda _n: None)
    sent, done = len(pages.sent), list[int]()

    assert platform.upload(image, done.append) == made

    assert (len(pages.sent), sum(done)) == (sent, image.size)


def test_an_image_for_arm_is_refused_where_it_would_boot_nothing(
    rig: AzureRig, image: DiskImage, pages: Pages
) -> None:
    with pytest.raises(KubekilnError, match="takes only into a gallery"):
        rig.connect().upload(replace(image, architecture="arm64"), lambda _n: None)

    assert pages.sent == []


def test_a_blob_begun_for_another_file_is_begun_anew(
    rig: AzureRig, image: DiskImage, pages: Pages, tmp_path: Path
) -> None:
    other = make_image(tmp_path, "vhd", seed=7)
    platform = rig.connect(streams=1)
    pages.left = 2
    with pytest.raises(TransientError):
        platform.upload(replace(other, digest=image.digest), lambda _n: None)
    pages.left = 1000

    uploaded = platform.upload(image, lambda _n: None)

    assert rig.disk_sha256(uploaded, tmp_path) == raw_sha256(image.path, "vhd", tmp_path)


def test_everything_is_read_back_if_that_is_wanted(
    rig: AzureRig, image: DiskImage, pages: Pages
) -> None:
    pages.spoil = True

    with pytest.raises(IntegrityError):
        rig.connect(verify="read").upload(image, lambda _n: None)

    pages.spoil = False
    assert rig.connect(verify="read").upload(image, lambda _n: None)


def test_a_disk_damaged_on_its_way_is_refused_by_the_storage(
    rig: AzureRig, image: DiskImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.storage.blob._shared import policies

    digest = "0" * 22 + "=="
    spoilt = {"calculate_content_md5": lambda _data: b"\0" * 16, "encode_base64": lambda _d: digest}
    named = [name for name in spoilt if hasattr(policies, name)]
    assert named, "the library was rewritten: find where it makes Content-MD5"
    for name in named:
        monkeypatch.setattr(policies, name, spoilt[name])

    with pytest.raises(KubekilnError, match="Md5Mismatch|MD5"):
        rig.connect().upload(image, lambda _n: None)


def test_a_disk_that_azure_would_not_take_is_refused_before_it_is_sent(
    rig: AzureRig, tmp_path: Path
) -> None:
    raw = make_image(tmp_path, "raw")

    with pytest.raises(KubekilnError, match="no fixed VHD of whole MiB"):
        rig.connect().upload(raw, lambda _n: None)


def test_the_uploaded_disk_is_kept_if_that_is_wanted(rig: AzureRig, image: DiskImage) -> None:
    platform = rig.connect(keep_blob=True)

    uploaded = platform.upload(image, lambda _n: None)

    assert rig.blobs() == [f"{image.remote_name}.vhd"]
    platform.delete_image(uploaded)
    assert rig.blobs() == []


def test_an_image_of_another_file_under_the_same_name_is_replaced(
    rig: AzureRig, image: DiskImage, tmp_path: Path
) -> None:
    platform = rig.connect()
    other = replace(make_image(tmp_path, "vhd", seed=7), digest=image.digest)
    platform.upload(other, lambda _n: None)
    assert platform.find_image(image) is None

    uploaded = platform.upload(image, lambda _n: None)

    assert platform.find_image(image) == uploaded
    assert rig.disk_sha256(uploaded, tmp_path) == raw_sha256(image.path, "vhd", tmp_path)


def test_a_gallery_gets_a_version_of_which_machines_are_made(
    rig: AzureRig, image: DiskImage, spec: InstanceSpec, tmp_path: Path
) -> None:
    platform = rig.connect(gallery={"name": "images", "regions": ["northeurope"], "replicas": 2})

    uploaded = platform.upload(image, lambda _n: None)

    assert platform.find_image(image) == uploaded
    assert rig.disk_sha256(uploaded, tmp_path) == raw_sha256(image.path, "vhd", tmp_path)
    version = rig.arm.get(uploaded.id)
    regions = version["properties"]["publishingProfile"]["targetRegions"]
    assert [(r["name"], r["regionalReplicaCount"]) for r in regions] == [
        ("westeurope", 2), ("northeurope", 2),
    ]  # fmt: skip
    made = platform.create(spec, uploaded)
    assert made.state == "running"
    platform.delete(made)
    platform.delete_image(uploaded)
    assert rig.leftovers() == [], "the definition goes with its last version"


def test_an_image_of_another_generation_or_for_other_regions_is_told(
    rig: AzureRig, image: DiskImage, capsys: pytest.CaptureFixture[str]
) -> None:
    uploaded = rig.connect().upload(image, lambda _n: None)
    with pytest.raises(KubekilnError, match="is of generation V2, the target says V1") as raised:
        rig.connect(generation="V1").find_image(image)
    assert raised.value.problems[0].hint == "remove the image, and upload again"
    rig.connect().delete_image(uploaded)

    gallery = {"name": "images", "regions": ["northeurope"]}
    version = rig.connect(gallery=gallery).upload(image, lambda _n: None)
    capsys.readouterr()
    assert rig.connect(gallery=gallery).find_image(image) == version
    assert capsys.readouterr().err == ""
    more = {**gallery, "regions": ["northeurope", "swedencentral"]}
    assert rig.connect(gallery=more).find_image(image) == version
    assert "the target says (swedencentral)" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(KubekilnError, match="is of generation V2") as raised:
        rig.connect(gallery=gallery, generation="V1").find_image(image)
    assert "gallery.definition" in str(raised.value.problems[0].hint)
    rig.connect(gallery=gallery).delete_image(version)


def test_a_machine_has_the_addresses_that_the_cluster_declares(
    rig: AzureRig, image: DiskImage, spec: InstanceSpec
) -> None:
    two = replace(spec, addresses=("10.80.0.11", "fd00:80::11"))
    platform = rig.connect(zones=["1", "2", "3"])

    made = platform.create(two, platform.upload(image, lambda _n: None))

    assert made.addresses == ("10.80.0.11", "fd00:80::11")
    machine = rig.arm.get(made.id)
    assert machine["zones"] == ["2"], "in turn, by the number in the node's name"
    assert machine["properties"]["osProfile"]["computerName"] == "lab-1"
    assert machine["properties"]["hardwareProfile"]["vmSize"] == "Standard_D2s_v5"


def test_all_that_is_made_of_a_machine_bears_its_tags(
    rig: AzureRig, image: DiskImage, spec: InstanceSpec
) -> None:
    platform = rig.connect(tags={"cost-centre": "42"})
    uploaded = platform.upload(image, lambda _n: None)
    before = set(rig.arm.resources)

    platform.create(spec, uploaded)

    made = [rig.arm.resources[key] for key in set(rig.arm.resources) - before]
    assert len(made) == 3
    assert all(r["tags"] == {**spec.tags, "cost-centre": "42"} for r in made)


def test_a_machine_that_azure_has_no_room_for_says_what_helps_and_is_removed(
    rig: AzureRig, image: DiskImage, spec: InstanceSpec
) -> None:
    platform = rig.connect()
    uploaded = platform.upload(image, lambda _n: None)
    before = rig.leftovers()
    rig.arm.refuse["lab-lab-1"] = ArmError(409, "ZonalAllocationFailed", "We do not have capacity")

    with pytest.raises(KubekilnError) as raised:
        platform.create(spec, uploaded)

    assert not isinstance(raised.value, TransientError)
    assert "another size, zone or region" in str(raised.value)
    (found,) = platform.list_instances("lab")
    assert found.state == "failed"
    platform.delete(found)
    assert rig.leftovers() == before


def test_a_card_without_a_machine_is_found_and_removed(
    rig: AzureRig, image: DiskImage, spec: InstanceSpec
) -> None:
    platform = rig.connect()
    uploaded = platform.upload(image, lambda _n: None)
    before = rig.leftovers()
    made = platform.create(spec, uploaded)
    # As if we had been killed between the two requests.
    machine = rig.arm.resources.pop(made.id.lower())
    nic = machine["properties"]["networkProfile"]["networkInterfaces"][0]["id"]
    rig.arm.resources[nic.lower()]["properties"].pop("virtualMachine")
    rig.arm.resources[f"{before_disks(made.id)}lab-lab-1-os"].pop("managedBy")

    (found,) = platform.list_instances()
    platform.delete(found)

    assert (found.node, found.state) == ("lab-1", "failed")
    assert rig.leftovers() == before


def test_a_disk_that_was_detached_stays_until_destroy(
    rig: AzureRig, image: DiskImage, spec: InstanceSpec, tmp_path: Path
) -> None:
    to = Delivery("cloud", rig.connect(), Project(tmp_path), 1)
    wanted, uploaded = replace(spec, etcd_disk_gib=2), to.upload(image)
    before = rig.leftovers()
    (made,) = to.boot([wanted], uploaded)
    machine = rig.arm.get(made.id)["properties"]["storageProfile"]
    machine["dataDisks"].clear()
    of_etcd = f"{before_disks(made.id)}lab-lab-1-etcd"
    rig.arm.resources[of_etcd].pop("managedBy")
    nic = made.id.replace("Compute/virtualMachines", "Network/networkInterfaces") + "-nic"
    machines, disks, nics = (rig.arm.resources.pop(made.id.lower()), rig.arm.resources.pop(
        f"{before_disks(made.id)}lab-lab-1-os"), rig.arm.resources.pop(nic.lower()))  # fmt: skip
    assert machines and disks and nics

    with pytest.raises(KubekilnError, match="of lab-1 only a disk is left.*: lab-lab-1-etcd"):
        to.boot([wanted], uploaded)

    assert of_etcd in rig.arm.resources
    assert to.destroy("lab") == ["lab-1"]
    assert rig.leftovers() == before


def before_disks(machine_id: str) -> str:
    return machine_id.lower().replace("virtualmachines/lab-lab-1", "disks/")


def test_a_machine_of_somebody_else_with_the_same_name_is_left_alone(
    rig: AzureRig, image: DiskImage, spec: InstanceSpec
) -> None:
    platform = rig.connect()
    uploaded = platform.upload(image, lambda _n: None)
    made = platform.create(spec, uploaded)
    tags = rig.arm.get(made.id)["tags"]
    rig.arm.get(made.id)["tags"] = {"owner": "somebody"}

    with pytest.raises(KubekilnError, match="not by kubekiln"):
        platform.create(spec, uploaded)

    rig.arm.get(made.id)["tags"] = tags


def test_a_machine_whose_tags_somebody_took_away_is_not_removed(
    rig: AzureRig, image: DiskImage, tmp_path: Path
) -> None:
    platform = rig.connect()
    made = platform.create(make_spec(tmp_path, "lab-1"), platform.upload(image, lambda _n: None))
    machine = rig.arm.resources[made.id.lower()]
    tags, machine["tags"] = machine["tags"], {"owner": "somebody"}
    (left,) = platform.list_instances()
    assert left.state == "failed", "its parts are there without it"

    with pytest.raises(KubekilnError, match="not by kubekiln"):
        platform.delete(left)

    assert made.id.lower() in rig.arm.resources
    machine["tags"] = tags


def test_a_machine_that_was_stopped_is_started(
    rig: AzureRig, image: DiskImage, spec: InstanceSpec
) -> None:
    platform = rig.connect()
    made = platform.create(spec, platform.upload(image, lambda _n: None))
    set_power(rig.arm.get(made.id), "deallocated")
    (stopped,) = platform.list_instances()
    assert stopped.state == "stopped"

    platform.start(stopped)

    assert [i.state for i in platform.list_instances()] == ["running"]


def test_a_machine_whose_making_was_cut_off_is_waited_for_and_never_made_anew(
    rig: AzureRig, image: DiskImage, spec: InstanceSpec, tmp_path: Path
) -> None:
    uploaded = rig.connect().upload(image, lambda _n: None)
    patience = Patience(first_wait_s=0.001, longest_wait_s=0.01)
    cut = Delivery("cloud", rig.connect("cut"), Project(tmp_path), patience=patience)

    (made,) = cut.boot([spec], uploaded)

    assert made.state == "running"
    machine = rig.arm.get(made.id)
    rig.arm.operations.clear()
    # Powered off by somebody, and a later start found no room: its last change failed.
    set_power(machine, "deallocated")
    machine["properties"]["provisioningState"] = "Failed"
    assert [i.state for i in rig.connect().list_instances()] == ["stopped"]
    Delivery("cloud", rig.connect(), Project(tmp_path)).boot([spec], uploaded)
    assert rig.arm.get(made.id) is machine, "not removed"


def test_disks_have_their_tags_before_a_start_that_may_fail(
    rig: AzureRig, image: DiskImage, spec: InstanceSpec
) -> None:
    platform = rig.connect()
    made = platform.create(spec, platform.upload(image, lambda _n: None))
    machine, disk = rig.arm.get(made.id), rig.arm.get(f"{before_disks(made.id)}lab-lab-1-os")
    disk.pop("tags")
    set_power(machine, "deallocated")
    (stopped,) = platform.list_instances()
    assert stopped.state == "stopped"

    platform.start(stopped)

    assert disk["tags"].items() >= spec.tags.items()


def test_the_making_of_a_machine_that_was_cut_off_and_failed_is_an_error(
    rig: AzureRig, image: DiskImage, spec: InstanceSpec
) -> None:
    platform = rig.connect()
    uploaded = platform.upload(image, lambda _n: None)
    rig.arm.refuse["lab-lab-1"] = ArmError(409, "ZonalAllocationFailed", "We do not have capacity")
    with pytest.raises(TransientError):
        rig.connect("cut").create(spec, uploaded)

    with pytest.raises(KubekilnError, match="Azure could not make lab-lab-1") as raised:
        platform.create(spec, uploaded)

    assert not isinstance(raised.value, TransientError)
    assert [i.state for i in platform.list_instances()] == ["failed"]


def test_what_is_left_of_a_machine_has_no_console(rig: AzureRig) -> None:
    nic = "/subscriptions/s/providers/Microsoft.Network/networkInterfaces/lab-lab-1-nic"

    assert rig.connect().read_console(Instance(nic, "lab", "lab-1", "p1", "failed")) is None


def test_the_console_is_what_boot_diagnostics_kept(
    rig: AzureRig, image: DiskImage, spec: InstanceSpec
) -> None:
    platform = rig.connect()

    made = platform.create(spec, platform.upload(image, lambda _n: None))

    assert platform.read_console(made) == "KUBEKILN phase=userdata t=1.0\n"


@pytest.mark.parametrize(("more", "what"), [
    ({"resource_group": "nowhere"}, "ResourceGroupNotFound"),
    ({"subnet": "net/nowhere"}, "subnet net/nowhere: ResourceNotFound"),
    ({"gallery": {"name": "nowhere"}}, "gallery nowhere: ResourceNotFound"),
    ({"availability_set": "nowhere"}, "availability set nowhere: ResourceNotFound"),
])  # fmt: skip
def test_what_is_missing_there_is_a_problem(
    rig: AzureRig, more: dict[str, object], what: str
) -> None:
    problems = rig.connect(**more).problems()

    assert any(what in problem.what for problem in problems)
    assert all(problem.hint for problem in problems)


def test_without_a_subscription_nothing_is_asked(
    rig: AzureRig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID")
    monkeypatch.setenv("AZURE_CONFIG_DIR", str(tmp_path))

    (problem,) = AzurePlatform(rig.settings()).problems()

    assert problem.what == "no subscription is chosen"
    monkeypatch.undo()
