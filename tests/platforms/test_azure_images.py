# SPDX-License-Identifier: Apache-2.0
"""What does `azure` promise of images and settings? (On Azurite, and a fake of compute.)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ServiceRequestError
from azure.storage.blob import BlobClient

from kubekiln.errors import IntegrityError, KubekilnError
from pipeline.targets.azure import AzurePlatform
from pipeline.targets.platform import DiskImage, InstanceSpec, TransientError
from tests.platforms.rigs.azure import CONTAINER, AzureRig
from tests.support.disks import make_image, raw_sha256

pytestmark = [pytest.mark.platforms, pytest.mark.timeout(300)]
REAL_UPLOAD_PAGE = BlobClient.upload_page


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


def test_ranges_of_zeros_are_not_sent(azure: AzureRig, vhd_image: DiskImage, pages: Pages) -> None:
    uploaded = azure.connect().upload(vhd_image, lambda _n: None)

    # Noise is in the first MiB, in the middle, in the last; the footer is behind that.
    assert sorted(pages.sent) == [0, 32 << 20, 60 << 20, 64 << 20]
    azure.connect().delete_image(uploaded)


def test_an_upload_goes_on_where_it_was_cut_off(
    azure: AzureRig, vhd_image: DiskImage, pages: Pages, tmp_path: Path
) -> None:
    platform = azure.connect(streams=1)
    pages.left = 2
    with pytest.raises(TransientError):
        platform.upload(vhd_image, lambda _n: None)
    before, pages.left = list(pages.sent), 1000
    done: list[int] = []

    uploaded = platform.upload(vhd_image, done.append)

    assert len(before) == 2
    assert set(pages.sent[2:]).isdisjoint(before), "what is there isn't sent again"
    assert sum(done) == vhd_image.size
    assert azure.disk_sha256(uploaded, tmp_path) == raw_sha256(vhd_image.path, "vhd", tmp_path)


def test_what_an_earlier_attempt_left_is_read_back(
    azure: AzureRig, vhd_image: DiskImage, pages: Pages
) -> None:
    platform = azure.connect(streams=1)
    pages.left = 2
    with pytest.raises(TransientError):
        platform.upload(vhd_image, lambda _n: None)
    with azure.storage.service() as service:
        blob = service.get_blob_client(CONTAINER, f"{vhd_image.remote_name}.vhd")
        REAL_UPLOAD_PAGE(blob, b"\1" * 512, pages.sent[0], 512)
    pages.left = 1000

    with pytest.raises(IntegrityError, match="are not what was sent"):
        platform.upload(vhd_image, lambda _n: None)

    assert azure.blobs() == [], "nothing that could be gone on with"


def test_an_image_whose_making_nobody_heard_of_is_neither_sent_nor_made_again(
    azure: AzureRig, vhd_image: DiskImage, pages: Pages
) -> None:
    platform = azure.connect()
    made = platform.upload(vhd_image, lambda _n: None)
    sent, done = len(pages.sent), list[int]()

    assert platform.upload(vhd_image, done.append) == made

    assert (len(pages.sent), sum(done)) == (sent, vhd_image.size)


def test_an_image_for_arm_is_refused_where_it_would_boot_nothing(
    azure: AzureRig, vhd_image: DiskImage, pages: Pages
) -> None:
    with pytest.raises(KubekilnError, match="takes only into a gallery"):
        azure.connect().upload(replace(vhd_image, architecture="arm64"), lambda _n: None)

    assert pages.sent == []


def test_a_blob_begun_for_another_file_is_begun_anew(
    azure: AzureRig, vhd_image: DiskImage, pages: Pages, tmp_path: Path
) -> None:
    other = make_image(tmp_path, "vhd", seed=7)
    platform = azure.connect(streams=1)
    pages.left = 2
    with pytest.raises(TransientError):
        platform.upload(replace(other, digest=vhd_image.digest), lambda _n: None)
    pages.left = 1000

    uploaded = platform.upload(vhd_image, lambda _n: None)

    assert azure.disk_sha256(uploaded, tmp_path) == raw_sha256(vhd_image.path, "vhd", tmp_path)


def test_everything_is_read_back_if_that_is_wanted(
    azure: AzureRig, vhd_image: DiskImage, pages: Pages
) -> None:
    pages.spoil = True

    with pytest.raises(IntegrityError):
        azure.connect(verify="read").upload(vhd_image, lambda _n: None)

    pages.spoil = False
    assert azure.connect(verify="read").upload(vhd_image, lambda _n: None)


def test_a_disk_damaged_on_its_way_is_refused_by_the_storage(
    azure: AzureRig, vhd_image: DiskImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.storage.blob._shared import policies

    digest = "0" * 22 + "=="
    spoilt = {"calculate_content_md5": lambda _data: b"\0" * 16, "encode_base64": lambda _d: digest}
    named = [name for name in spoilt if hasattr(policies, name)]
    assert named, "the library was rewritten: find where it makes Content-MD5"
    for name in named:
        monkeypatch.setattr(policies, name, spoilt[name])

    with pytest.raises(KubekilnError, match="Md5Mismatch|MD5"):
        azure.connect().upload(vhd_image, lambda _n: None)


def test_a_disk_that_azure_would_not_take_is_refused_before_it_is_sent(
    azure: AzureRig, tmp_path: Path
) -> None:
    raw = make_image(tmp_path, "raw")

    with pytest.raises(KubekilnError, match="no fixed VHD of whole MiB"):
        azure.connect().upload(raw, lambda _n: None)


def test_the_uploaded_disk_is_kept_if_that_is_wanted(azure: AzureRig, vhd_image: DiskImage) -> None:
    platform = azure.connect(keep_blob=True)

    uploaded = platform.upload(vhd_image, lambda _n: None)

    assert azure.blobs() == [f"{vhd_image.remote_name}.vhd"]
    platform.delete_image(uploaded)
    assert azure.blobs() == []


def test_an_image_of_another_file_under_the_same_name_is_replaced(
    azure: AzureRig, vhd_image: DiskImage, tmp_path: Path
) -> None:
    platform = azure.connect()
    other = replace(make_image(tmp_path, "vhd", seed=7), digest=vhd_image.digest)
    platform.upload(other, lambda _n: None)
    assert platform.find_image(vhd_image) is None

    uploaded = platform.upload(vhd_image, lambda _n: None)

    assert platform.find_image(vhd_image) == uploaded
    assert azure.disk_sha256(uploaded, tmp_path) == raw_sha256(vhd_image.path, "vhd", tmp_path)


def test_a_gallery_gets_a_version_of_which_machines_are_made(
    azure: AzureRig, vhd_image: DiskImage, spec: InstanceSpec, tmp_path: Path
) -> None:
    platform = azure.connect(gallery={"name": "images", "regions": ["northeurope"], "replicas": 2})

    uploaded = platform.upload(vhd_image, lambda _n: None)

    assert platform.find_image(vhd_image) == uploaded
    assert azure.disk_sha256(uploaded, tmp_path) == raw_sha256(vhd_image.path, "vhd", tmp_path)
    version = azure.arm.get(uploaded.id)
    regions = version["properties"]["publishingProfile"]["targetRegions"]
    assert [(r["name"], r["regionalReplicaCount"]) for r in regions] == [
        ("westeurope", 2), ("northeurope", 2),
    ]  # fmt: skip
    made = platform.create(spec, uploaded)
    assert made.state == "running"
    platform.delete(made)
    platform.delete_image(uploaded)
    assert azure.leftovers() == [], "the definition goes with its last version"


def test_an_image_of_another_generation_or_for_other_regions_is_told(
    azure: AzureRig, vhd_image: DiskImage, capsys: pytest.CaptureFixture[str]
) -> None:
    uploaded = azure.connect().upload(vhd_image, lambda _n: None)
    with pytest.raises(KubekilnError, match="is of generation V2, the target says V1") as raised:
        azure.connect(generation="V1").find_image(vhd_image)
    assert raised.value.problems[0].hint == "remove the image, and upload again"
    azure.connect().delete_image(uploaded)

    gallery = {"name": "images", "regions": ["northeurope"]}
    version = azure.connect(gallery=gallery).upload(vhd_image, lambda _n: None)
    capsys.readouterr()
    assert azure.connect(gallery=gallery).find_image(vhd_image) == version
    assert capsys.readouterr().err == ""
    more = {**gallery, "regions": ["northeurope", "swedencentral"]}
    assert azure.connect(gallery=more).find_image(vhd_image) == version
    assert "the target says (swedencentral)" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(KubekilnError, match="is of generation V2") as raised:
        azure.connect(gallery=gallery, generation="V1").find_image(vhd_image)
    assert "gallery.definition" in str(raised.value.problems[0].hint)
    azure.connect(gallery=gallery).delete_image(version)


@pytest.mark.parametrize(("more", "what"), [
    ({"resource_group": "nowhere"}, "ResourceGroupNotFound"),
    ({"subnet": "net/nowhere"}, "subnet net/nowhere: ResourceNotFound"),
    ({"gallery": {"name": "nowhere"}}, "gallery nowhere: ResourceNotFound"),
    ({"availability_set": "nowhere"}, "availability set nowhere: ResourceNotFound"),
])  # fmt: skip
def test_what_is_missing_there_is_a_problem(
    azure: AzureRig, more: dict[str, object], what: str
) -> None:
    problems = azure.connect(**more).problems()

    assert any(what in problem.what for problem in problems)
    assert all(problem.hint for problem in problems)


def test_without_a_subscription_nothing_is_asked(
    azure: AzureRig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID")
    monkeypatch.setenv("AZURE_CONFIG_DIR", str(tmp_path))

    (problem,) = AzurePlatform(azure.settings()).problems()

    assert problem.what == "no subscription is chosen"
    monkeypatch.undo()
