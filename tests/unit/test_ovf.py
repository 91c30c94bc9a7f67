# SPDX-License-Identifier: Apache-2.0
"""Is the OVA of a disk what an importer takes?"""

from __future__ import annotations

import random
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kubekiln.errors import IntegrityError, KubekilnError
from kubekiln.files import sha256_bytes
from pipeline.disk.ova import check_ova, read_ova, write_ova
from pipeline.disk.ovf import Appliance, render_descriptor

NAMES = {
    "ovf": "http://schemas.dmtf.org/ovf/envelope/1",
    "rasd": "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
    "vmw": "http://www.vmware.com/schema/ovf",
}
APPLIANCE = Appliance("debian-13-0123456789ab", 4 << 30)


def attribute(element: ElementTree.Element | None, name: str) -> str | None:
    assert element is not None
    space, _, key = name.partition(":")
    return element.get(f"{{{NAMES[space]}}}{key}")


def parse(appliance: Appliance = APPLIANCE) -> ElementTree.Element:
    return ElementTree.fromstring(render_descriptor(appliance, vmdk_size=1234))


def test_the_descriptor_names_the_disk_and_its_two_sizes() -> None:
    root = parse()

    file, disk = root.find("ovf:References/ovf:File", NAMES), root.find(".//ovf:Disk", NAMES)
    assert attribute(file, "ovf:href") == "debian-13-0123456789ab.vmdk"
    assert attribute(file, "ovf:size") == "1234"
    assert attribute(disk, "ovf:capacity") == str(4 << 30)
    assert attribute(disk, "ovf:capacityAllocationUnits") == "byte"
    assert attribute(disk, "ovf:fileRef") == attribute(file, "ovf:id")
    assert (attribute(disk, "ovf:format") or "").endswith("vmdk.html#streamOptimized")


def test_the_hardware_is_what_the_kernel_has_drivers_for() -> None:
    items = {
        (item.findtext("rasd:ResourceType", None, NAMES), item.findtext("rasd:ResourceSubType",
                                                                         None, NAMES))
        for item in parse().iterfind(".//ovf:Item", NAMES)
    }  # fmt: skip

    assert {("6", "VirtualSCSI"), ("10", "VmxNet3"), ("17", None)} <= items
    assert ("15", "vmware.cdrom.remotepassthrough") in items, "transport iso needs a CD drive"


def test_each_item_is_on_a_controller_that_there_is_and_has_its_children_in_the_schemas_order() -> (
    None
):
    items = parse().findall(".//ovf:Item", NAMES)
    ids = [item.findtext("rasd:InstanceID", "", NAMES) for item in items]
    parents = [item.findtext("rasd:Parent", ids[0], NAMES) for item in items]

    assert len(set(ids)) == len(items) == 7
    assert set(parents) <= set(ids)
    for item in items:
        names = [child.tag for child in item]
        assert names == sorted(names), "RASD is a sequence in the order of the alphabet"


@pytest.mark.parametrize("firmware", ["efi", "bios"])
def test_the_firmware_is_stated(firmware: str) -> None:
    root = parse(Appliance("x", 1 << 30, firmware=firmware))  # type: ignore[arg-type]

    configs = root.iterfind(".//vmw:Config", NAMES)
    assert {attribute(c, "vmw:key"): attribute(c, "vmw:value") for c in configs} == {
        "firmware": firmware
    }


def test_cloud_init_can_be_given_user_data_and_an_instance_id() -> None:
    root = parse()

    hardware = root.find(".//ovf:VirtualHardwareSection", NAMES)
    properties = root.findall(".//ovf:ProductSection/ovf:Property", NAMES)
    assert attribute(hardware, "ovf:transport") == "com.vmware.guestInfo iso"
    assert [attribute(p, "ovf:key") for p in properties] == ["instance-id", "user-data"]
    assert {attribute(p, "ovf:userConfigurable") for p in properties} == {"true"}


def test_a_name_with_signs_of_xml_stays_a_name() -> None:
    assert parse(Appliance('a&b<"c', 1 << 30)).findtext(".//ovf:Name", None, NAMES) == 'a&b<"c'


def test_an_architecture_that_no_esxi_runs_is_refused() -> None:
    with pytest.raises(KubekilnError, match="no OVF for riscv64"):
        render_descriptor(Appliance("x", 1, architecture="riscv64"), vmdk_size=1)


# Around the size in which bytes are moved, and around the archive's blocks.
@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, (4 << 20) - 1, 4 << 20, (9 << 20) + 77])
def test_a_disk_becomes_an_archive_that_is_whole(tmp_path: Path, size: int) -> None:
    vmdk, out = tmp_path / "x.vmdk", tmp_path / "x.ova"
    content = random.Random(size).randbytes(size)
    vmdk.write_bytes(content)

    write_ova(vmdk, out, APPLIANCE)

    assert list(tmp_path.iterdir()) == [out]
    assert out.stat().st_size % tarfile.RECORDSIZE == 0
    stem = APPLIANCE.name
    with tarfile.open(out, "r|") as archive:
        found = {m.name: (archive.extractfile(m) or out.open("rb")).read() for m in archive}
    assert list(found) == [f"{stem}.ovf", f"{stem}.mf", f"{stem}.vmdk"], "in an importer's order"
    assert found[f"{stem}.vmdk"] == content
    assert found[f"{stem}.mf"].decode().splitlines() == [
        f"SHA256({name})= {sha256_bytes(found[name])}" for name in (f"{stem}.ovf", f"{stem}.vmdk")
    ]
    assert out.read_bytes()[257:263] == b"ustar\0", "POSIX's, not GNU's"


def test_the_disk_is_found_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "x.vmdk").write_bytes(b"KDMV" + bytes(3000))
    write_ova(tmp_path / "x.vmdk", tmp_path / "x.ova", APPLIANCE)

    ova = read_ova(tmp_path / "x.ova")

    assert ova.descriptor == render_descriptor(APPLIANCE, vmdk_size=3004)
    assert ova.disk_name == APPLIANCE.disk_name
    with (tmp_path / "x.ova").open("rb") as file:
        file.seek(ova.disk_offset)
        assert file.read(ova.disk_size) == b"KDMV" + bytes(3000)


@pytest.mark.parametrize("content", [b"", b"KDMV" + bytes(2000)])
def test_what_is_no_ova_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.ova").write_bytes(content)

    with pytest.raises(KubekilnError, match="is not an OVA"):
        read_ova(tmp_path / "x.ova")


@pytest.mark.parametrize("place", ["vmdk", "ovf", "mf"])
def test_an_ova_in_which_a_byte_changed_is_not_what_its_manifest_says(
    tmp_path: Path, place: str
) -> None:
    path = tmp_path / "x.ova"
    (tmp_path / "x.vmdk").write_bytes(random.Random(1).randbytes(5000))
    write_ova(tmp_path / "x.vmdk", path, APPLIANCE)
    check_ova(path)
    with tarfile.open(path) as archive:
        at = archive.getmember(f"{APPLIANCE.name}.{place}").offset_data

    content = bytearray(path.read_bytes())
    content[at + 100] ^= 1
    path.write_bytes(content)

    with pytest.raises(IntegrityError, match="isn't what its manifest says"):
        check_ova(path)
