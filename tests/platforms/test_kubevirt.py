# SPDX-License-Identifier: Apache-2.0
"""What is KubeVirt's own, on a real Kubernetes API server: are its objects what they must be?"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubekiln.errors import IntegrityError, KubekilnError
from pipeline.targets.kubevirt_objects import volume_name
from pipeline.targets.platform import Instance, InstanceSpec, TransientError
from tests.platforms.conftest import make_spec
from tests.platforms.rigs.kubevirt import KubeVirtRig
from tests.platforms.rigs.kubevirt_world import NAMESPACE
from tests.platforms.rigs.rig import Images
from tests.support.disks import make_image, raw_sha256
from tests.support.waiting import until

pytestmark = [
    pytest.mark.platforms,
    pytest.mark.timeout(600),
    # The contract's own server: it is started once for both.
    pytest.mark.parametrize("server", ["kubevirt"], indirect=True),
]

MACHINES = f"/apis/kubevirt.io/v1/namespaces/{NAMESPACE}/virtualmachines"
VOLUMES = f"/apis/cdi.kubevirt.io/v1beta1/namespaces/{NAMESPACE}/datavolumes"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"


def ignore(_count: int) -> None:
    pass


def machine(rig: KubeVirtRig, instance: Instance) -> Any:
    return rig.plane.request("GET", f"{MACHINES}/{instance.id.split('/')[1]}")


def test_nothing_of_what_we_send_is_unknown_to_kubevirt(
    rig: KubeVirtRig, images: Images, tmp_path: Path
) -> None:
    platform = rig.platform(
        networks=["lab-net", "elsewhere/storage"], eviction="LiveMigrate", spread="required",
        cpu_model="host-passthrough", firmware="efi", node_selector={"zone": "a"},
        storage_class="fast", access_mode="ReadWriteMany",
    )  # fmt: skip
    spec = replace(make_spec(tmp_path, "lab-1"), macs=("52:54:00:00:00:01", "52:54:00:00:00:02"))

    made = platform.create(spec, platform.upload(images[0], ignore))

    guest = machine(rig, made)["spec"]["template"]["spec"]
    assert [n["multus"]["networkName"] for n in guest["networks"]] == [
        "lab-net", "elsewhere/storage"]  # fmt: skip
    assert [i["macAddress"] for i in guest["domain"]["devices"]["interfaces"]] == list(spec.macs)
    assert guest["domain"]["firmware"]["bootloader"] == {"efi": {"secureBoot": False}}
    assert guest["evictionStrategy"] == "LiveMigrate"
    assert "requiredDuringSchedulingIgnoredDuringExecution" in guest["affinity"]["podAntiAffinity"]
    until(lambda: rig.plane.request("GET", f"{VOLUMES}/lab-lab-1"), what="its volume",
          timeout_s=60)  # fmt: skip
    clone = rig.plane.request("GET", f"{VOLUMES}/lab-lab-1")["spec"]
    assert clone["source"]["pvc"] == {"name": volume_name(images[0]), "namespace": NAMESPACE}
    assert clone["storage"]["storageClassName"] == "fast"


def test_user_data_is_in_a_secret_of_the_machine_s_own_and_never_in_the_machine(
    rig: KubeVirtRig, images: Images, spec: InstanceSpec
) -> None:
    platform = rig.connect()

    made = platform.create(spec, platform.upload(images[0], ignore))

    found = machine(rig, made)
    volume = next(v for v in found["spec"]["template"]["spec"]["volumes"] if v["name"] == "seed")
    own = {"name": "lab-lab-1"}
    assert volume["cloudInitNoCloud"] == {"secretRef": own, "networkDataSecretRef": own}
    secret = rig.plane.request("GET", f"{SECRETS}/lab-lab-1")
    assert secret["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["uid"]
    network = base64.b64decode(secret["data"]["networkdata"])
    assert network == spec.network_config.reveal()


def test_a_raw_image_is_compressed_on_its_way_and_arrives_as_it_was(
    rig: KubeVirtRig, tmp_path: Path
) -> None:
    image = make_image(tmp_path, "raw", seed=3)
    platform = rig.platform(format="raw")
    done: list[int] = []

    uploaded = platform.upload(image, done.append)

    assert sum(done) == image.size
    assert rig.disk_sha256(uploaded, tmp_path) == raw_sha256(image.path, "raw", tmp_path)
    platform.delete_image(uploaded)


def test_an_upload_that_was_cut_goes_on_in_the_same_volume(
    rig: KubeVirtRig, images: Images
) -> None:
    image = images[0]
    with pytest.raises(TransientError):
        rig.platform(upload_proxy=rig.proxy_url("cut")).upload(image, ignore)
    before = rig.plane.request("GET", f"{VOLUMES}/{volume_name(image)}")["metadata"]["uid"]

    rig.connect().upload(image, ignore)

    after = rig.plane.request("GET", f"{VOLUMES}/{volume_name(image)}")["metadata"]["uid"]
    assert before == after


@pytest.mark.parametrize("status", [401, 500, 503])
def test_what_the_proxy_may_get_over_is_transient(
    rig: KubeVirtRig, images: Images, status: int
) -> None:
    rig.world.refuse.append((status, "not now"))

    with pytest.raises(TransientError):
        rig.connect().upload(images[0], ignore)

    assert rig.connect().find_image(images[0]) is None


def test_what_somebody_else_brought_there_meanwhile_is_kept(
    rig: KubeVirtRig, images: Images
) -> None:
    platform = rig.connect()
    first = platform.upload(images[0], ignore)
    path = f"{VOLUMES}/{volume_name(images[0])}"
    before = rig.plane.request("GET", path)["metadata"]["uid"]

    assert platform.upload(images[0], ignore) == first
    assert rig.plane.request("GET", path)["metadata"]["uid"] == before


def test_two_formats_of_one_image_are_two(rig: KubeVirtRig, images: Images, tmp_path: Path) -> None:
    raw = replace(make_image(tmp_path, "raw"), name=images[0].name, digest=images[0].digest)
    platform, other = rig.connect(), rig.platform(format="raw")

    first, second = platform.upload(images[0], ignore), other.upload(raw, ignore)

    assert first.id != second.id
    assert platform.find_image(images[0]) == first
    assert other.find_image(raw) == second
    other.delete_image(second)
    assert platform.find_image(images[0]) == first


def test_a_volume_that_nobody_vouched_for_is_written_anew(rig: KubeVirtRig, images: Images) -> None:
    image = images[0]
    platform = rig.connect()
    platform.upload(image, ignore)
    path = f"{VOLUMES}/{volume_name(image)}"
    marks = {"kubekiln-image": None, "kubekiln-sha256": None}
    rig.plane.request("PATCH", path, {"metadata": {"annotations": marks}})
    before = rig.plane.request("GET", path)["metadata"]["uid"]
    assert platform.find_image(image) is None, "it succeeded, but its bytes weren't compared"

    platform.upload(image, ignore)

    assert rig.plane.request("GET", path)["metadata"]["uid"] != before


def test_what_cdi_takes_and_can_t_write_is_an_error_in_its_words_and_leaves_no_volume(
    rig: KubeVirtRig, images: Images
) -> None:
    rig.world.spoil.add(volume_name(images[0]))

    with pytest.raises(KubekilnError, match="no space left on device") as raised:
        rig.connect().upload(images[0], ignore)

    assert not isinstance(raised.value, TransientError)
    assert rig.leftovers() == []


def test_a_file_that_is_not_what_was_baked_never_counts(rig: KubeVirtRig, images: Images) -> None:
    image = replace(images[0], sha256="0" * 64)

    with pytest.raises(IntegrityError):
        rig.connect().upload(image, ignore)

    assert rig.leftovers() == []


def test_a_volume_of_somebody_else_is_left_alone(rig: KubeVirtRig, images: Images) -> None:
    name = volume_name(images[0])
    about = {"name": name, "namespace": NAMESPACE}
    rig.plane.make({"apiVersion": "cdi.kubevirt.io/v1beta1", "kind": "DataVolume",
                    "metadata": about, "spec": {"source": {"upload": {}}, "storage": {
                        "resources": {"requests": {"storage": "1Gi"}}}}})  # fmt: skip

    with pytest.raises(KubekilnError, match="another DataVolume"):
        rig.connect().upload(images[0], ignore)

    assert rig.plane.request("GET", f"{VOLUMES}/{name}") is not None


def test_a_machine_of_somebody_else_is_left_alone(
    rig: KubeVirtRig, images: Images, spec: InstanceSpec
) -> None:
    platform = rig.connect()
    image = platform.upload(images[0], ignore)
    made = platform.create(spec, image)

    with pytest.raises(KubekilnError, match="another VirtualMachine"):
        platform.create(replace(spec, payload="fedcba9876543210"), image)

    assert [i.id for i in platform.list_instances("lab")] == [made.id]


def test_a_machine_that_was_switched_off_is_stopped_and_can_be_started(
    rig: KubeVirtRig, images: Images, spec: InstanceSpec
) -> None:
    platform = rig.connect()
    made = platform.create(spec, platform.upload(images[0], ignore))
    path = f"{MACHINES}/lab-lab-1"
    until(lambda: platform.list_instances("lab")[0].state == "running", what="running",
          timeout_s=60)  # fmt: skip
    rig.plane.request("PATCH", path, {"spec": {"runStrategy": "Halted"}})
    assert platform.list_instances("lab")[0].state == "stopped"

    platform.start(made)

    assert machine(rig, made)["spec"]["runStrategy"] == "Always"


@pytest.mark.parametrize("sent", [800, 1_600, 2_400, 3_200, 4_800, 6_400])
def test_wherever_the_making_is_cut_what_is_there_can_be_removed_and_made_again(
    rig: KubeVirtRig, images: Images, spec: InstanceSpec, sent: int
) -> None:
    platform = rig.connect()
    image = platform.upload(images[0], ignore)
    before = rig.leftovers()
    door = rig.api_doors["cut"]
    usual, door.cut_after = door.cut_after, sent
    try:
        rig.connect("cut").create(spec, image)
    except TransientError:
        pass
    finally:
        door.cut_after = usual

    made = platform.create(spec, image)

    assert rig.user_data(made) == (spec.seed_dir / "user-data").read_bytes()
    assert [i.state for i in platform.list_instances("lab")] != ["failed"]
    platform.delete(made)
    assert rig.leftovers() == before


def test_what_is_missing_is_told_before_anything_is_made(rig: KubeVirtRig) -> None:
    platform = rig.platform(networks=["nowhere"], upload_proxy="https://127.0.0.1:9")

    whats = [problem.what for problem in platform.problems()]

    assert "there is no network nowhere in machines" in whats
    assert any("127.0.0.1:9" in what for what in whats)
    assert rig.leftovers() == []


def test_a_namespace_without_rights_is_told_right_by_right(rig: KubeVirtRig) -> None:
    whats = [problem.what for problem in rig.platform(namespace="default").problems()]

    assert "not allowed to create virtualmachines.kubevirt.io in default" in whats
    assert "not allowed to get pods/log in default" in whats


def test_a_proxy_whose_certificate_nobody_vouches_for_gets_no_image(
    rig: KubeVirtRig, images: Images
) -> None:
    platform = rig.platform(upload_proxy_ca=None)

    with pytest.raises(KubekilnError, match="certificate isn't believed") as raised:
        platform.upload(images[0], ignore)

    assert not isinstance(raised.value, TransientError)
    assert rig.leftovers() == []


@pytest.fixture(autouse=True)
def cleared(rig: KubeVirtRig) -> Iterator[None]:
    """Leave no wish of one test to the next."""
    yield
    rig.world.refuse.clear()
    rig.world.spoil.clear()
    for instance in rig.connect().list_instances():
        rig.connect().delete(instance)
    rig.remove_volumes()
