# SPDX-License-Identifier: Apache-2.0
"""One server of each platform for the whole run; every test of the contract is tried on each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudinit.seed import build_iso
from pipeline.targets.platform import DiskImage, InstanceSpec
from tests.platforms.rigs.aws import AwsRig
from tests.platforms.rigs.azure import AzureRig
from tests.platforms.rigs.file import FileRig
from tests.platforms.rigs.kubevirt import KubeVirtRig
from tests.platforms.rigs.libvirt import LibvirtRig
from tests.platforms.rigs.openstack import OpenStackRig
from tests.platforms.rigs.proxmox import ProxmoxRig
from tests.platforms.rigs.rig import Rig
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
_WITH_TOOLS = frozenset({"test_aws", "test_azure", "test_export", "test_terraform"})
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
def images(tmp_path_factory: pytest.TempPathFactory, server: Rig) -> tuple[DiskImage, DiskImage]:
    """Two small images in the platform's format."""
    directory = tmp_path_factory.mktemp("images")
    for seed in (1, 2):
        CACHE[server.format, seed] = make_image(directory, server.format, seed=seed)
    return CACHE[server.format, 1], CACHE[server.format, 2]


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
