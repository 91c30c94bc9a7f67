# SPDX-License-Identifier: Apache-2.0
"""One server of each platform for the whole run; every test of the contract is tried on each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from cloudinit.seed import build_iso
from pipeline.targets.platform import DiskImage, InstanceSpec, RemoteImage
from tests.platforms.rigs.aws import AwsRig
from tests.platforms.rigs.azure import AzureRig
from tests.platforms.rigs.file import FileRig
from tests.platforms.rigs.kubevirt import KubeVirtRig
from tests.platforms.rigs.libvirt import LibvirtRig
from tests.platforms.rigs.openstack import OpenStackRig
from tests.platforms.rigs.proxmox import ProxmoxRig
from tests.platforms.rigs.rig import Images, Rig, upload
from tests.platforms.rigs.vsphere import VSphereRig
from tests.support.disks import make_image

RIGS: dict[str, type[Rig]] = {
    "aws": AwsRig,
    "azure": AzureRig,
    "file": FileRig,
    "kubevirt": KubeVirtRig,
    "libvirt": LibvirtRig,
    "openstack": OpenStackRig,
    "proxmox": ProxmoxRig,
    "vsphere": VSphereRig,
}
# What is tried on a server, or with a tool, that is installed first: `make test` leaves it to
# `make platforms`.
_INSTALLED = frozenset({"aws", "azure", "libvirt", "openstack", "vsphere"})
_WITH_TOOLS = frozenset({
    "test_aws_images", "test_aws_machines", "test_azure_images", "test_azure_machines",
    "test_export", "test_terraform",
})  # fmt: skip
USER_DATA = b"#cloud-config\n# " + bytes(range(97, 123)) * 20 + b"\nhostname: lab-1\n"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs something to be installed, before anything is chosen by marks."""
    here = Path(__file__).parent
    for item in items:
        params = getattr(item, "callspec", None)
        server = params.params.get("server") if params is not None else None
        if item.path.parent == here and (server in _INSTALLED or item.path.stem in _WITH_TOOLS):
            item.add_marker(pytest.mark.installs)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the servers that are to be built, before the clock of any test runs."""
    params = [getattr(item, "callspec", None) for item in session.items]
    wanted = {one.params.get("server") for one in params if one is not None} & RIGS.keys()
    for name in () if session.config.option.collectonly else sorted(wanted):
        getattr(RIGS[name], "prepare", lambda: None)()


@pytest.fixture(scope="session", params=sorted(RIGS))
def server(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """A platform's server; each in turn."""
    with RIGS[request.param]() as rig:
        yield rig


@pytest.fixture
def rig(server: Rig) -> Iterator[Rig]:
    """The server, empty; what a test leaves there is an error of that test."""
    assert server.leftovers() == [], "an earlier test left something"
    yield server
    platform = server.connect()
    for instance in platform.list_instances():
        platform.delete(instance)
    clear_images(server)
    assert server.leftovers() == []


def clear_images(server: Rig) -> None:
    """Remove what tests uploaded."""
    platform = server.connect()
    for seed in (1, 2):
        image = CACHE.get((server.format, seed))
        if image and (found := platform.find_image(image)):
            platform.delete_image(found)


CACHE: dict[tuple[str, int], DiskImage] = {}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, server: Rig) -> Images:
    """Two small images in the platform's format."""
    directory = tmp_path_factory.mktemp("images")
    for seed in (1, 2):
        CACHE[server.format, seed] = make_image(directory, server.format, seed=seed)
    return CACHE[server.format, 1], CACHE[server.format, 2]


@pytest.fixture
def image(rig: Rig, images: Images) -> RemoteImage:
    """The first of them, uploaded."""
    return upload(rig.connect(), images[0])


@pytest.fixture
def daemon(rig: Rig) -> LibvirtRig:
    """The server of tests that are libvirt's alone."""
    return cast("LibvirtRig", rig)


@pytest.fixture
def vcenter(rig: Rig, images: Images) -> VSphereRig:
    """The server of tests that are vSphere's alone."""
    del images  # which are looked for when a test has ended
    return cast("VSphereRig", rig)


@pytest.fixture(scope="module")
def aws_server() -> Iterator[AwsRig]:
    """A server of a file's own: its tests set rules, and count all that was asked."""
    with AwsRig() as rig:
        yield rig


@pytest.fixture
def aws(aws_server: AwsRig) -> Iterator[AwsRig]:
    """AWS of tests that are its alone, without rules; empty again when one has ended."""
    aws_server.tell(rules=[])
    yield aws_server
    aws_server.tell(rules=[])
    platform = aws_server.connect()
    for instance in platform.list_instances():
        platform.delete(instance)
    aws_server.remove_images()
    assert aws_server.leftovers() == []


@pytest.fixture
def raw_image(tmp_path: Path) -> DiskImage:
    """A smaller image than the contract's, as AWS takes it."""
    return make_image(tmp_path, "raw", size_mib=8)


@pytest.fixture(scope="module")
def azure_server() -> Iterator[AzureRig]:
    """A server of a file's own: its tests change what it keeps."""
    with AzureRig() as rig:
        yield rig


@pytest.fixture(scope="module")
def vhd_image(tmp_path_factory: pytest.TempPathFactory) -> DiskImage:
    """An image as Azure takes it."""
    return make_image(tmp_path_factory.mktemp("images"), "vhd")


@pytest.fixture
def azure(azure_server: AzureRig, vhd_image: DiskImage) -> Iterator[AzureRig]:
    """Azure of tests that are its alone, refusing nothing; empty again when one has ended."""
    azure_server.arm.refuse.clear()
    yield azure_server
    platform = azure_server.connect()
    for instance in platform.list_instances():
        platform.delete(instance)
    found = platform.find_image(vhd_image)
    if found:
        platform.delete_image(found)
    assert azure_server.leftovers() == []


@pytest.fixture
def spec(tmp_path: Path) -> InstanceSpec:
    """A node that is to become a machine."""
    return make_spec(tmp_path, "lab-1")


def make_spec(directory: Path, node: str, *, user_data: bytes = USER_DATA) -> InstanceSpec:
    """Describe a node with a rendered seed; card and address follow its number."""
    number = int(node.rpartition("-")[2])
    seed_dir = directory / node
    seed_dir.mkdir()
    files = {
        "user-data": user_data,
        "meta-data": f"instance-id: lab-{node}-1\nlocal-hostname: {node}\n".encode(),
        "network-config": b"version: 2\nethernets: {}\n",
    }
    for name, content in files.items():
        (seed_dir / name).write_bytes(content)
    (seed_dir / "seed.iso").write_bytes(build_iso(files))
    return InstanceSpec(
        cluster="lab", node=node, role="worker", seed_dir=seed_dir,
        seed_iso=seed_dir / "seed.iso", payload="0123456789abcdef",
        macs=(f"52:54:00:aa:bb:{number:02x}",), addresses=(f"10.80.0.{10 + number}",),
        cpus=1, memory_mib=256, disk_gib=1,
    )  # fmt: skip


def make_large(spec: InstanceSpec) -> InstanceSpec:
    """Give a node more user-data than any platform takes."""
    noise = random.Random(1).randbytes(1 << 20).hex()
    (spec.seed_dir / "user-data").write_text(f"#cloud-config\n# {noise}\n")
    return spec


ODD: Mapping[str, Callable[[InstanceSpec], InstanceSpec]] = {
    "user-data": make_large,
    "cards": lambda spec: replace(spec, macs=tuple(f"52:54:00:aa:cc:{n:02x}" for n in range(9))),
    "disk": lambda spec: replace(spec, disk_gib=0),
}
"""What may be wrong with a node, and how one becomes such."""
