# SPDX-License-Identifier: Apache-2.0
"""How fast does an image get to a platform, and how much of that is ours?

Ours against the platform's own client on the same test server, in turn, best of some rounds. Ours
compares checksums (where the platform doesn't, by reading back), tags, and makes an image of it;
the client alone only sends. EBS has a benchmark of its own (`bench/upload_aws.py`).
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

from kubekiln.files import sha256_file
from kubekiln.process import Command, run
from pipeline.disk.ovf import Appliance, render_descriptor
from pipeline.targets.platform import DiskImage
from tests.platforms.fakes.pve_server import TOKEN
from tests.platforms.rigs.azure import CONTAINER, AzureRig
from tests.platforms.rigs.file import FileRig
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
    header.write_text(f"Authorization: PVEAPIToken={TOKEN}\n")
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


_CLIENTS: Mapping[str, tuple[type[Any], str, Callable[[Any, DiskImage, Path], None]]] = {
    "azure": (AzureRig, "azure-storage-blob", by_blob_client),
    "file": (FileRig, "cp", by_cp),
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
        for title, speed, ratio in measure(name, given.size_mib, given.rounds):
            print(f"| {name} | {title} | {speed:.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
