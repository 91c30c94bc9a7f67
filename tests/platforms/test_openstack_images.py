# SPDX-License-Identifier: Apache-2.0
"""What does `openstack` promise of images and settings? (On a real Keystone and Glance.)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from kubekiln.errors import IntegrityError
from kubekiln.files import sha256_file
from kubekiln.process import Command, run
from pipeline.targets.platform import TransientError
from tests.platforms.rigs.openstack import OpenStackRig
from tests.platforms.rigs.rig import Images, Rig
from tests.support.disks import make_image, raw_sha256

pytestmark = [
    pytest.mark.platforms,
    pytest.mark.timeout(300),
    pytest.mark.parametrize("server", ["openstack"], indirect=True),
]


def ignore(_more: int) -> None: ...


@pytest.fixture
def cloud(rig: Rig) -> OpenStackRig:
    return cast("OpenStackRig", rig)


def test_an_image_says_in_glance_what_it_is_and_which_machine_it_wants(
    cloud: OpenStackRig, images: Images
) -> None:
    remote = cloud.connect(hardware={"disk_bus": "scsi"}).upload(images[0], ignore)

    found = cloud.sdk.image.get_image(remote.id)
    assert (found.status, found.visibility, found.disk_format) == ("active", "private", "qcow2")
    assert (found.hw_disk_bus, found.hw_scsi_model) == ("scsi", "virtio-scsi")
    assert (found.min_disk, found.architecture) == (1, "x86_64")
    ours = {key: value for key, value in found.properties.items() if "kubekiln" in key}
    assert ours == {
        "kubekiln-image": images[0].digest,
        "kubekiln-sha256": images[0].sha256,
        "kubekiln-verified": f"sha512:{found.hash_value}",
    }
    assert found.properties["owner_specified.openstack.sha256"] == images[0].sha256


def test_what_an_upload_left_is_not_found_and_goes_with_the_next_one(
    cloud: OpenStackRig, images: Images
) -> None:
    image, platform, glance = images[0], cloud.connect(), cloud.sdk.image
    common: dict[str, Any] = {
        "name": image.remote_name,
        "disk_format": "raw",
        "container_format": "bare",
    }
    tags: dict[str, Any] = {"kubekiln-image": image.digest, "kubekiln-sha256": image.sha256}
    queued = glance.create_image(allow_duplicates=True, **common, **tags)
    unverified = glance.create_image(allow_duplicates=True, data=b"half", **common, **tags)
    changed = glance.create_image(
        allow_duplicates=True, data=bytes(image.size), **common,
        **{**tags, "kubekiln-verified": "sha512:0"},
    )  # fmt: skip
    by_hand = glance.create_image(allow_duplicates=True, data=b"mine", **common)
    assert platform.find_image(image) is None

    remote = platform.upload(image, ignore)

    left = {one.id for one in glance.images(name=image.remote_name)}
    assert left == {remote.id, by_hand.id}
    assert left.isdisjoint({queued.id, unverified.id, changed.id})
    glance.delete_image(by_hand.id)


def test_an_image_can_be_staged_and_imported(
    cloud: OpenStackRig, images: Images, tmp_path: Path
) -> None:
    image, done = images[0], list[int]()
    platform = cloud.connect(transfer="import")

    remote = platform.upload(image, done.append)

    assert platform.find_image(image) == remote
    assert cloud.disk_sha256(remote, tmp_path) == raw_sha256(image.path, "qcow2", tmp_path)
    assert sum(done) == image.size


def test_a_qcow2_as_kubekiln_writes_it_is_no_strange_one_to_glance(
    cloud: OpenStackRig, images: Images, tmp_path: Path
) -> None:
    # Glance looks into the file, and refuses features that it doesn't know.
    path = tmp_path / "zstd.qcow2"
    options = "compression_type=zstd,cluster_size=256K"
    source = images[0].path
    words: list[str | Path] = ["-f", "qcow2", "-O", "qcow2", "-c", "-o", options, source, path]
    run(Command(["qemu-img", "convert", *words]))
    image = replace(images[0], path=path, sha256=sha256_file(path))
    platform = cloud.connect()

    remote = platform.upload(image, ignore)

    assert platform.find_image(image) == remote
    assert cloud.disk_sha256(remote, tmp_path) == raw_sha256(source, "qcow2", tmp_path)
    platform.delete_image(remote)


def test_a_raw_image_stays_raw(cloud: OpenStackRig, images: Images, tmp_path: Path) -> None:
    image = make_image(tmp_path, "raw")
    platform = cloud.connect(format="raw")

    remote = platform.upload(image, ignore)

    assert cloud.sdk.image.get_image(remote.id).disk_format == "raw"
    assert platform.find_image(image) == remote
    platform.delete_image(remote)


def test_an_image_that_is_there_becomes_what_the_target_says_of_the_machine(
    cloud: OpenStackRig, images: Images
) -> None:
    before = cloud.connect().upload(images[0], ignore)
    hardware = {"disk_bus": "scsi", "firmware": "uefi", "properties": {"os_distro": "debian"}}

    found = cloud.connect(hardware=hardware).find_image(images[0])

    assert found == before
    now = cloud.sdk.image.get_image(before.id)
    assert (now.hw_disk_bus, now.os_distro) == ("scsi", "debian")
    assert cloud.sdk.image.get(f"/images/{before.id}").json()["hw_firmware_type"] == "uefi"
    assert cloud.connect(hardware=hardware).find_image(images[0]) == before


def test_two_formats_of_one_image_are_two(
    cloud: OpenStackRig, images: Images, tmp_path: Path
) -> None:
    raw = replace(make_image(tmp_path, "raw"), name=images[0].name, digest=images[0].digest)
    platform, of_ceph = cloud.connect(), cloud.connect(format="raw")
    begun = cloud.sdk.image.create_image(
        allow_duplicates=True, name=raw.remote_name, disk_format="qcow2", container_format="bare",
        **{"kubekiln-image": raw.digest, "kubekiln-sha256": "0" * 64},
    )  # fmt: skip

    second = of_ceph.upload(raw, ignore)
    assert cloud.sdk.image.find_image(begun.id), "another format's may be on its way"
    first = platform.upload(images[0], ignore)

    assert platform.find_image(images[0]) == first
    assert of_ceph.find_image(raw) == second
    assert cloud.sdk.image.find_image(begun.id) is None, "a leftover of this one's format"
    of_ceph.delete_image(second)
    assert platform.find_image(images[0]) == first


def test_glance_is_not_asked_to_believe_a_wrong_format(cloud: OpenStackRig, images: Images) -> None:
    with pytest.raises(IntegrityError, match="is qcow2, not raw"):
        cloud.connect(format="raw").upload(replace(images[0], format="raw"), ignore)

    assert cloud.leftovers() == []


def test_bytes_that_change_on_their_way_are_noticed_and_not_kept(
    cloud: OpenStackRig, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.targets.openstack_images.Body.digest", lambda *_: "another")

    with pytest.raises(IntegrityError, match="is not what was sent: its sha512 is"):
        cloud.connect().upload(images[0], ignore)

    assert cloud.leftovers() == []


def test_an_upload_whose_glance_goes_away_leaves_nothing_once_it_is_back(
    cloud: OpenStackRig, images: Images
) -> None:
    platform = cloud.connect("door")  # type: ignore[arg-type]
    assert platform.find_image(images[0]) is None

    def close_the_door(_more: int) -> None:
        cloud.door.mode = "cut"

    try:
        with pytest.raises(TransientError):
            platform.upload(images[0], close_the_door)
    finally:
        cloud.door.mode = "open"

    assert platform.upload(images[0], ignore) == platform.find_image(images[0])
    assert len(list(cloud.sdk.image.images())) == 1


def test_all_that_the_settings_name_and_the_cloud_lacks_is_said_at_once(
    cloud: OpenStackRig, images: Images
) -> None:
    platform = cloud.connect(
        flavor="huge",
        networks=[{"name": "no-such"}, {"name": "node", "security_groups": ["neither"]}],
    )

    said = [problem.what for problem in platform.problems()]

    assert said == ["no network 'no-such'", "no security group 'neither'", "no flavor 'huge'"]


def test_a_cloud_that_clouds_yaml_lacks_is_a_problem_with_a_hint(
    cloud: OpenStackRig, images: Images
) -> None:
    (problem,) = cloud.connect("elsewhere").problems()  # type: ignore[arg-type]

    assert "elsewhere" in problem.what
    assert "clouds.yaml" in (problem.hint or "")
