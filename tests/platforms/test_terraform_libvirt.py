# SPDX-License-Identifier: Apache-2.0
"""Does OpenTofu make a cluster's machines on libvirt of the module that `export terraform` writes?

With libvirt's own provider 0.8, on a real daemon; 0.9 can't be had where we build. The daemon is an
unprivileged user's, whom no bridge of the host's is lent: the machines have no cards.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from kubekiln.operations.export import Shipment
from kubekiln.operations.exportfiles import open_output
from kubekiln.operations.exportterraform import write_terraform
from pipeline.targets.platform import DiskImage
from tests.platforms.conftest import make_spec
from tests.platforms.rigs.libvirt import LibvirtRig
from tests.platforms.rigs.rig import Rig
from tests.support.disks import raw_sha256
from tests.support.gobuild import GoProgram
from tests.support.tofu import BUILD_S, make_tofu

pytestmark = [
    pytest.mark.platforms,
    pytest.mark.timeout(BUILD_S),
    pytest.mark.parametrize("server", ["libvirt"], indirect=True),
]

PROVIDER = GoProgram(
    "github.com/dmacvicar/terraform-provider-libvirt", "v0.8.3",
    "h1:E6ftS8RMCoCopzSYlsMt7gBkmtoSoV80f+648EAjyx8=",
)  # fmt: skip


def test_the_module_makes_the_machines_and_takes_them_away(
    rig: Rig, images: tuple[DiskImage, DiskImage], tmp_path: Path
) -> None:
    host, image = cast("LibvirtRig", rig), images[0]
    before = set(host.pool_dir.iterdir())
    first, second = (make_spec(tmp_path, name) for name in ("lab-1", "lab-2"))
    nodes = (first, replace(second, etcd_disk_gib=8))
    tofu = make_tofu(tmp_path, PROVIDER, "dmacvicar/libvirt")
    write_terraform(open_output(tofu.directory), Shipment("lab", image, nodes), "libvirt-0.8")
    module = tofu.directory / "main.tf"
    module.write_text(module.read_text().replace("for_each = each.value.macs", "for_each = []"))
    site = {"libvirt_uri": host.uri(), "domain_type": "qemu", "pool": "pool", "bridges": []}

    tofu.begin(site)

    made = set(host.pool_dir.iterdir()) - before
    assert {path.name for path in made} == {
        f"kubekiln-{image.sha256[:12]}.qcow2", "lab-lab-2-etcd.qcow2",
        *(f"lab-{name}{end}" for name in ("lab-1", "lab-2") for end in (".qcow2", "-seed.iso")),
    }  # fmt: skip
    uploaded = host.pool_dir / f"kubekiln-{image.sha256[:12]}.qcow2"
    assert raw_sha256(uploaded, "qcow2", tmp_path) == raw_sha256(image.path, "qcow2", tmp_path)
    assert (host.pool_dir / "lab-lab-1-seed.iso").read_bytes() == first.seed_iso.read_bytes()
    domain = host.domain("lab-lab-2")
    disks = [
        (target.attrib["bus"], source.attrib["volume"])
        for disk in domain.findall("devices/disk")
        if (target := disk.find("target")) is not None
        and (source := disk.find("source")) is not None
    ]
    assert disks == [
        ("virtio", "lab-lab-2.qcow2"), ("virtio", "lab-lab-2-etcd.qcow2"),
        ("scsi", "lab-lab-2-seed.iso"),
    ]  # fmt: skip
    assert tofu.has_nothing_to_do(), "what was made is what the module says"

    first_time = uuids(host)
    first.seed_iso.write_bytes(first.seed_iso.read_bytes() + bytes(2048))
    other = replace(first, payload="fedcba9876543210")
    changed = Shipment("lab", image, (other, nodes[1]))
    write_terraform(open_output(tofu.directory), changed, "libvirt-0.8")
    tofu.apply()
    again = uuids(host)
    assert again["lab-2"] == first_time["lab-2"], "a node that didn't change stays"
    assert again["lab-1"] != first_time["lab-1"], "one with another role is made anew"
    assert (host.pool_dir / "lab-lab-1-seed.iso").read_bytes() == first.seed_iso.read_bytes()

    tofu.destroy()
    assert set(host.pool_dir.iterdir()) == before


def uuids(host: LibvirtRig) -> dict[str, str | None]:
    """Tell a machine from another one of its name that was there before."""
    return {name: host.domain(f"lab-{name}").findtext("uuid") for name in ("lab-1", "lab-2")}
