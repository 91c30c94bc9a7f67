# SPDX-License-Identifier: Apache-2.0
"""How fast does an image get to a platform, and how much of that is ours?

Ours against the platform's own client on the same test server, in turn, best of some rounds. Ours
compares checksums (where the platform doesn't, by reading back), tags, and makes an image of it;
the client alone only sends. For an AWS of yours there is `bench/upload_aws.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from bench.upload_aws import bare_loop
from kubekiln.errors import ToolMissing
from kubekiln.files import sha256_file
from kubekiln.process import Command, run
from pipeline.disk.ovf import Appliance, render_descriptor
from pipeline.targets.kubeapi import KubeApi
from pipeline.targets.kubevirt_objects import TOKEN, VOLUME, image_volume, phase_of, token_request
from pipeline.targets.platform import DiskImage
from tests.platforms.fakes import pve_server
from tests.platforms.rigs.aws import AwsRig
from tests.platforms.rigs.azure import CONTAINER, AzureRig
from tests.platforms.rigs.file import FileRig
from tests.platforms.rigs.kubevirt import KubeVirtRig
from tests.platforms.rigs.kubevirt_world import NAMESPACE
from tests.platforms.rigs.libvirt import LibvirtRig
from tests.platforms.rigs.openstack import OpenStackRig
from tests.platforms.rigs.proxmox import ProxmoxRig
from tests.platforms.rigs.rig import Rig
from tests.platforms.rigs.vsphere import VSphereRig
from tests.support.disks import make_image

_MIB = 1 << 20
_NAME = "bench-by-hand"


def by_cp(rig: FileRig, image: DiskImage, scratch: Path) -> None:
    """`cp`, and no more."""
    run(Command(["cp", "--sparse=never", image.path, scratch / "copy"]))


def by_virsh(rig: LibvirtRig, image: DiskImage, scratch: Path) -> None:
    """`virsh vol-upload`, which compares nothing."""
    virsh = ["virsh", "--quiet", "--connect", rig.uri()]
    run(Command([*virsh, "vol-create-as", "pool", _NAME, str(image.size), "--format", "raw"]))
    run(Command([*virsh, "vol-upload", "--pool", "pool", _NAME, image.path, "--sparse"]))
    run(Command([*virsh, "vol-delete", "--pool", "pool", _NAME]))


def by_sdk(rig: OpenStackRig, image: DiskImage, scratch: Path) -> None:
    """What `openstack image create --file` calls."""
    made = rig.sdk.image.create_image(
        name=_NAME, filename=str(image.path), disk_format="qcow2", container_format="bare",
        validate_checksum=False, wait=True,
    )  # fmt: skip
    rig.sdk.image.delete_image(made.id)


def by_curl(rig: ProxmoxRig, image: DiskImage, scratch: Path) -> None:
    """curl, as Proxmox' own documentation has it."""
    settings = rig.settings()
    header = scratch / "header"
    header.write_text(f"Authorization: PVEAPIToken={pve_server.TOKEN}\n")
    run(
        Command(
            ["curl", "--silent", "--fail", "--cacert", str(settings.ca_file), "--header",
             f"@{header}", "--form", "content=import", "--form",
             f"filename=@{image.path};filename={_NAME}.qcow2",
             f"{settings.endpoint}/api2/json/nodes/pve1/storage/local/upload"]
        )
    )  # fmt: skip
    for storage in rig.pve.storages.values():
        storage.files = {k: v for k, v in storage.files.items() if _NAME not in k}


def by_blob_client(rig: AzureRig, image: DiskImage, scratch: Path) -> None:
    """The SDK's own upload of a page blob."""
    with rig.storage.service() as service, image.path.open("rb") as file:
        blob: Any = service.get_blob_client(CONTAINER, _NAME)
        with contextlib.suppress(Exception):
            service.create_container(CONTAINER)
        blob.upload_blob(file, blob_type="PageBlob", length=image.size, max_concurrency=4)
        blob.delete_blob()


def by_govc(rig: VSphereRig, image: DiskImage, scratch: Path) -> None:
    """`govc import.ovf`, which compares nothing without `-m`."""
    appliance = Appliance(_NAME, image.virtual_size)
    descriptor = scratch / f"{_NAME}.ovf"
    descriptor.write_text(render_descriptor(appliance, vmdk_size=image.size))
    disk = scratch / appliance.disk_name
    if not disk.is_symlink():
        disk.symlink_to(image.path)
    rig.govc("import.ovf", descriptor)
    rig.govc("vm.destroy", _NAME)


def by_boto3(rig: AwsRig, image: DiskImage, scratch: Path) -> None:
    """The shortest loop that boto3 allows, with as many threads as ours."""
    snapshot = bare_loop(rig.admin("ebs"), image.path, rig.settings().upload_threads)
    rig.admin("ec2").delete_snapshot(SnapshotId=snapshot)


def by_curl_to_cdi(rig: KubeVirtRig, image: DiskImage, scratch: Path) -> None:
    """What `virtctl image-upload` does: a volume, a token, the file, and waiting for CDI."""
    api = KubeApi(namespace=NAMESPACE)
    volume = image_volume(rig.settings(), image)
    volume["metadata"]["name"] = _NAME
    api.create(VOLUME, volume)
    _wait_for(api, "UploadReady")
    answer = api.create(TOKEN, token_request(_NAME)) or {}
    header = scratch / "header"
    header.write_text(f"Authorization: Bearer {answer['status']['token']}\n")
    run(
        Command(
            ["curl", "--silent", "--fail", "--cacert", rig.plane.ca, "--header", f"@{header}",
             "--header", "Content-Type: application/octet-stream", "--header", "Expect:",
             "--request", "POST", "--upload-file", image.path,
             f"https://127.0.0.1:{rig.world.port}/v1beta1/upload-async"]
        )
    )  # fmt: skip
    _wait_for(api, "Succeeded")
    api.delete(VOLUME, _NAME, timeout_s=60)


def _wait_for(api: KubeApi, phase: str) -> None:
    def is_there(found: Mapping[str, Any] | None) -> bool:
        return found is not None and phase_of(found) == phase

    assert is_there(api.wait(VOLUME, _NAME, is_there, timeout_s=60)), f"{_NAME}: no {phase}"


_CLIENTS: Mapping[str, tuple[type[Any], str, Callable[[Any, DiskImage, Path], None]]] = {
    "aws": (AwsRig, "boto3", by_boto3),
    "azure": (AzureRig, "azure-storage-blob", by_blob_client),
    "file": (FileRig, "cp", by_cp),
    "kubevirt": (KubeVirtRig, "curl", by_curl_to_cdi),
    "libvirt": (LibvirtRig, "virsh", by_virsh),
    "openstack": (OpenStackRig, "openstacksdk", by_sdk),
    "proxmox": (ProxmoxRig, "curl", by_curl),
    "vsphere": (VSphereRig, "govc", by_govc),
}


def _noise(size_mib: int) -> bytes:
    """Make bytes by the MiB: Python has no random number of 2 Gbit."""
    source = Random(1)
    return b"".join(source.randbytes(_MIB) for _ in range(size_mib))


def noisy_image(directory: Path, rig: Rig, size_mib: int) -> DiskImage:
    """Make an image that doesn't compress: what a baked one is, whose content is compressed."""
    small = make_image(directory, rig.format, size_mib=size_mib)
    if rig.format == "qcow2":
        raw = directory / "noise.raw"
        raw.write_bytes(_noise(size_mib))
        run(Command(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, small.path]))
    else:
        with small.path.open("r+b") as file:
            file.write(_noise(size_mib - 1))
    return DiskImage(
        small.name, small.digest, small.path, small.format, sha256_file(small.path),
        small.virtual_size,
    )  # fmt: skip


def measure(name: str, size_mib: int, rounds: int) -> Iterator[tuple[str, float, float]]:
    """Give title, MB/s and ratio to the client, of the client and of ours."""
    kind, client, by_hand = _CLIENTS[name]
    scratch = Path(tempfile.mkdtemp(prefix="kubekiln-bench-"))
    prepare: Callable[[], None] = getattr(kind, "prepare", lambda: None)
    prepare()
    try:
        with kind() as rig:
            image, platform = noisy_image(scratch, rig, size_mib), rig.connect()
            best = {client: float("inf"), "kubekiln": float("inf")}
            for _ in range(rounds):
                started = time.monotonic()
                by_hand(rig, image, scratch)
                best[client] = min(best[client], time.monotonic() - started)
                started = time.monotonic()
                uploaded = platform.upload(image, lambda _n: None)
                best["kubekiln"] = min(best["kubekiln"], time.monotonic() - started)
                platform.delete_image(uploaded)
            for title, seconds in best.items():
                yield title, image.size / 1e6 / seconds, best[client] / seconds
    finally:
        shutil.rmtree(scratch)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("platforms", nargs="*", default=sorted(_CLIENTS))
    parser.add_argument("--size-mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print("| platform | by | MB/s | to the client |\n|---|---|---|---|")
    for name in given.platforms:
        try:
            for title, speed, ratio in measure(name, given.size_mib, given.rounds):
                print(f"| {name} | {title} | {speed:.0f} | {ratio:.2f} |", flush=True)
        except ToolMissing as error:  # of the platform's own client: nothing else needs it
            print(f"| {name} | {error.problems[0].what} | | |", flush=True)


if __name__ == "__main__":
    main()
