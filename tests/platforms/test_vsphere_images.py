# SPDX-License-Identifier: Apache-2.0
"""What does `vsphere` promise of images and settings? (On govmomi's simulator of a vCenter.)"""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubekiln.errors import IntegrityError, KubekilnError
from pipeline.targets import vsphere_import
from pipeline.targets.platform import DiskImage, InstanceSpec, TransientError
from pipeline.targets.vsphere import VSpherePlatform
from tests.platforms.rigs.rig import Images, upload
from tests.platforms.rigs.vsphere import VSphereRig

pytestmark = [
    pytest.mark.platforms, pytest.mark.timeout(300),
    pytest.mark.parametrize("server", ["vsphere"], indirect=True),
]  # fmt: skip


def test_a_half_imported_image_is_there_does_not_count_and_goes_with_the_next_upload(
    vcenter: VSphereRig, images: Images
) -> None:
    with pytest.raises(TransientError):
        upload(vcenter.connect("cut"), images[0])
    half = vcenter.leftovers()
    assert images[0].remote_name in half
    platform = vcenter.connect()
    assert platform.find_image(images[0]) is None

    whole = upload(platform, images[0])

    assert vcenter.leftovers().count(images[0].remote_name) == 1
    steps: list[int] = []
    assert platform.upload(images[0], steps.append) == whole, "asked again it sends nothing"
    assert sum(steps) == images[0].size


@pytest.mark.parametrize("host", ["sha256", "sha1"])
@pytest.mark.parametrize("what", ["on their way", "on our disk"])
def test_bytes_that_were_changed_are_noticed(
    vcenter: VSphereRig, images: Images, host: str, what: str
) -> None:
    platform = vcenter.connect()
    knows_sha1_only = {"HttpNfcLeaseSetManifestChecksumType": "unknown"} if host == "sha1" else {}
    wanted = images[0]
    if what == "on our disk":
        wanted = replace(wanted, sha256="0" * 64)
    vcenter.make_trouble(knows_sha1_only | ({"upload": "other"} if what == "on their way" else {}))

    with pytest.raises(IntegrityError, match="when it was made"):
        upload(platform, wanted)

    assert platform.find_image(wanted) is None
    vcenter.make_trouble(knows_sha1_only)
    assert upload(platform, images[0]) == platform.find_image(images[0])


def test_what_a_lease_failed_of_is_said(vcenter: VSphereRig, images: Images) -> None:
    vcenter.connect()
    unknown = vcenter.settings().model_copy(update={"hardware_version": "of tomorrow"})
    platform = VSpherePlatform(unknown, vcenter.environment)

    with pytest.raises(KubekilnError, match="it refuses that .NotSupported"):
        upload(platform, images[0])

    assert vcenter.leftovers() == []


def test_a_datastore_with_less_room_than_the_file_is_refused(
    vcenter: VSphereRig, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiskImage, "size", property(lambda _image: 1 << 60))

    with pytest.raises(KubekilnError, match="LocalDS_0 has .* GB free"):
        upload(vcenter.connect(), images[0])

    assert vcenter.leftovers() == []


def test_all_that_a_target_names_and_is_not_there_is_said_at_once(vcenter: VSphereRig) -> None:
    platform = vcenter.connect(
        cluster="C9", folder="none", datastore="DS9", networks=("VM Network", "N9")
    )

    problems = platform.problems()

    assert [problem.where for problem in problems] == [
        "cluster", "folder", "template_folder", "datastore", "networks[1]",
    ]  # fmt: skip
    assert problems[0].what.endswith("has no ComputeResource /DC0/host/C9")
    assert problems[0].hint == "`govc ls -l /DC0/host` shows what is there"


def test_a_certificate_that_nobody_vouches_for_is_refused_unless_that_is_wanted(
    vcenter: VSphereRig,
) -> None:
    environment = vcenter.environment
    del environment["GOVC_TLS_CA_CERTS"]

    (problem,) = VSpherePlatform(vcenter.settings(), environment).problems()

    assert "certificate isn't trusted" in problem.what
    environment["VSPHERE_ALLOW_UNVERIFIED_SSL"] = "true"
    assert VSpherePlatform(vcenter.settings(), environment).problems() == []


def test_a_host_is_trusted_by_the_thumbprint_that_its_vcenter_gave(vcenter: VSphereRig) -> None:
    connection = vcenter.http()
    connection.connect()
    thumbprint = vcenter.thumbprint()

    vsphere_import.check_thumbprint(connection.sock, thumbprint, "esx1")
    with pytest.raises(KubekilnError, match="esx1 has another certificate"):
        vsphere_import.check_thumbprint(connection.sock, thumbprint.replace("A", "B"), "esx1")
    connection.close()


def test_no_session_is_left_open_however_an_act_ends(
    vcenter: VSphereRig, images: Images, spec: InstanceSpec
) -> None:
    platform = vcenter.connect()
    platform.create(spec, upload(platform, images[0]))
    with pytest.raises(TransientError):
        upload(vcenter.connect("server-error"), images[1])
    vcenter.connect("wrong-credentials").problems()
    vcenter.connect()

    with vcenter.session() as at:
        sessions = at.content.sessionManager
        assert sessions is not None
        assert len(sessions.sessionList) == 1, "this one"
    upload(platform, images[1])
