# SPDX-License-Identifier: Apache-2.0
"""Is a node written as the domain it should be? (What a daemon makes of it: tests/platforms.)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from kubekiln.config import load_model
from kubekiln.errors import ConfigError
from pipeline.targets.libvirt_checks import refusals
from pipeline.targets.libvirt_domain import (
    KEY_DRIVE,
    SEED_DRIVE,
    Files,
    Host,
    domain_xml,
    empty_drive_xml,
    tags_of,
)
from pipeline.targets.libvirt_settings import Settings
from pipeline.targets.platform import DiskImage, InstanceSpec

NATIVE = Host(has_kvm=True, qemu_version=10_000_002)
EMULATED = Host(has_kvm=False, qemu_version=10_000_002)
OLD = Host(has_kvm=False, qemu_version=7_002_022)
IMAGE = DiskImage("debian-13", "ab" * 32, Path("/disk"), "qcow2", "cd" * 32, 8 << 30)
FILES = Files("/pool/disk", "/pool/seed", "/pool/console")
TAGS = {"cluster": "lab", "node": "lab-1", "payload": "0123"}
QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
USER = {"user": "10.80.0.0/24"}


def settings(*networks: dict[str, Any], **more: Any) -> Settings:
    return Settings(type="libvirt", networks=networks or ({"network": "default"},), **more)


def spec(**changed: Any) -> InstanceSpec:
    nowhere = Path("/nowhere")
    made = InstanceSpec(
        cluster="lab", node="lab-1", role="worker", seed_dir=nowhere, seed_iso=nowhere,
        payload="0123", macs=("52:54:00:aa:bb:01",), addresses=("10.80.0.11",), cpus=3,
        memory_mib=2048, disk_gib=20,
    )  # fmt: skip
    return replace(made, **changed)


def domain(of: InstanceSpec, how: Settings, host: Host = NATIVE) -> ET.Element:
    return ET.fromstring(domain_xml(of, how, FILES, host, TAGS))


def attribute(element: ET.Element, path: str, name: str) -> str | None:
    found = element.find(path)
    assert found is not None, path
    return found.get(name)


def test_a_node_is_a_domain_with_its_size_tags_and_files() -> None:
    made = domain(spec(), settings())

    assert made.get("type") == "kvm"
    assert (made.findtext("name"), made.findtext("vcpu")) == ("lab-lab-1", "3")
    assert (made.findtext("memory"), attribute(made, "memory", "unit")) == ("2048", "MiB")
    assert attribute(made, "cpu", "mode") == "host-passthrough"
    (tags,) = made.findall("metadata/*")
    assert tags_of(ET.tostring(tags, encoding="unicode")) == TAGS
    assert attribute(made, "devices/disk[@device='disk']/source", "file") == FILES.disk
    assert attribute(made, "devices/serial/log", "file") == FILES.console
    assert made.find("sysinfo") is None, "kernel arguments are for emulated machines"


def test_the_database_has_a_second_disk_on_virtio() -> None:
    files = replace(FILES, etcd_disk="/pool/etcd")

    made = ET.fromstring(domain_xml(spec(), settings(), files, NATIVE, TAGS))

    _system, second = made.findall("devices/disk[@device='disk']")
    assert attribute(second, "source", "file") == "/pool/etcd"
    assert (attribute(second, "target", "dev"), attribute(second, "target", "bus")) == (
        "vdb", "virtio",
    )  # fmt: skip
    assert second.find("boot") is None


@pytest.mark.parametrize("name", [SEED_DRIVE, KEY_DRIVE])
def test_an_empty_drive_is_the_same_without_a_cd(name: str) -> None:
    drive = ET.fromstring(empty_drive_xml(name))

    assert drive.find("source") is None
    assert attribute(drive, "target", "dev") == name
    assert drive.get("device") == "cdrom"


@pytest.mark.parametrize("host", [NATIVE, EMULATED], ids=["kvm", "tcg"])
def test_a_key_is_a_second_cd_of_which_the_domain_says_only_where_it_is(
    tmp_path: Path, host: Host
) -> None:
    for name in ("smbios", "key.iso"):
        (tmp_path / name).write_text("AGE-SECRET-KEY-1QQ")
    files, of = replace(FILES, key="/keys/key"), spec(key_dir=tmp_path)

    text = domain_xml(of, settings(), files, host, TAGS)

    drives = ET.fromstring(text).findall("devices/disk[@device='cdrom']")
    shown = [(attribute(d, "source", "file"), attribute(d, "target", "dev")) for d in drives]
    assert shown == [(FILES.seed, SEED_DRIVE), ("/keys/key", KEY_DRIVE)]
    assert {attribute(drive, "target", "bus") for drive in drives} == {"scsi"}
    assert "AGE-SECRET" not in text
    without = domain(spec(), settings(), host).findall("devices/disk[@device='cdrom']")
    assert len(without) == 1


def test_the_seed_is_a_cd_that_debians_cloud_kernel_sees() -> None:
    made = domain(spec(), settings())

    assert attribute(made, "devices/disk[@device='cdrom']/source", "file") == FILES.seed
    assert attribute(made, "devices/disk[@device='cdrom']/target", "bus") == "scsi"
    assert attribute(made, "devices/controller[@type='scsi']", "model") == "virtio-scsi"
    assert made.find("devices/disk[@device='cdrom']/readonly") is not None


@pytest.mark.parametrize(
    ("host", "more"),
    [pytest.param(EMULATED, "", id="new"), pytest.param(OLD, " clearcpuid=cx16", id="old")],
)
def test_an_emulated_machine_is_told_what_makes_it_bearable(host: Host, more: str) -> None:
    made = domain(spec(), settings(), host)

    assert made.get("type") == "qemu"
    hidden = {f.get("name") for f in made.findall("cpu/feature[@policy='disable']")}
    assert hidden == {"la57", "smap", "svm", "vmx"}
    assert made.findtext("features/tcg/tb-cache") == "1024"
    assert attribute(made, "os/smbios", "mode") == "sysinfo"
    assert made.findtext("sysinfo/oemStrings/entry") == (
        f"io.systemd.stub.kernel-cmdline-extra=tsc=reliable mitigations=off{more}"
    )


def test_cards_are_plugged_in_in_order() -> None:
    two = spec(macs=("52:54:00:aa:bb:01", "52:54:00:aa:bb:02"))

    made = domain(two, settings({"network": "nodes"}, {"bridge": "br-storage"}))

    first, second = made.findall("devices/interface")
    assert [card.get("type") for card in (first, second)] == ["network", "bridge"]
    assert [attribute(card, "mac", "address") for card in (first, second)] == list(two.macs)
    assert attribute(first, "source", "network") == "nodes"
    assert attribute(second, "source", "bridge") == "br-storage"
    assert {attribute(card, "model", "type") for card in (first, second)} == {"virtio"}


def test_a_user_network_has_the_clusters_addresses_and_the_nodes_own_ways_in() -> None:
    ways = [
        {"node": "lab-1", "host_port": 16443},
        {"node": "lab-1", "host_port": 16080, "port": 30080},
        {"node": "lab-2", "host_port": 16444},
    ]

    made = domain(spec(), settings({**USER, "forwards": ways}))

    words = [str(arg.get("value")) for arg in made.findall(f"{QEMU}commandline/{QEMU}arg")]
    assert words[:2] == [
        "-netdev",
        "user,id=kubekiln0,ipv6=off,net=10.80.0.0/24,host=10.80.0.1,dns=10.80.0.3"
        ",hostfwd=tcp:127.0.0.1:16443-10.80.0.11:6443"
        ",hostfwd=tcp:127.0.0.1:16080-10.80.0.11:30080",
    ]
    assert words[2] == "-device"
    assert words[3].startswith("virtio-net-pci,netdev=kubekiln0,mac=52:54:00:aa:bb:01,")
    assert made.find("devices/interface") is None


def test_efi_cache_and_bios_are_what_the_target_says() -> None:
    plain = domain(spec(), settings())
    chosen = domain(spec(), settings(firmware="efi", cache="unsafe"))

    assert attribute(plain, "os", "firmware") is None
    assert attribute(plain, "devices/disk/driver", "cache") is None
    assert attribute(chosen, "os", "firmware") == "efi"
    assert attribute(chosen, "devices/disk/driver", "cache") == "unsafe"


@pytest.mark.parametrize(
    ("changed", "networks", "said"),
    [
        pytest.param(
            {"macs": ("52:54:00:aa:bb:01", "52:54:00:aa:bb:02")}, [{"network": "default"}],
            "has 2 network cards, the target gives it 1", id="more cards than networks",
        ),
        pytest.param(
            {"disk_gib": 7}, [USER], "has a disk of 7 GiB, the image one of 8 GiB",
            id="a small disk",
        ),
        pytest.param(
            {"addresses": ("10.99.0.11",)}, [USER], "(10.99.0.11) has no address in 10.80.0.0/24",
            id="an address of another network",
        ),
    ],
)  # fmt: skip
def test_what_no_domain_can_be_is_refused(
    changed: dict[str, Any], networks: list[dict[str, Any]], said: str
) -> None:
    (found,) = refusals(spec(**changed), IMAGE, settings(*networks))

    assert said in found.what
    assert found.hint
    assert list(refusals(spec(), IMAGE, settings(*networks))) == []


@pytest.mark.parametrize(
    ("networks", "said", "line"),
    [
        pytest.param([{}], "a network is one thing, this is nothing", 3, id="nothing"),
        pytest.param([{"network": "a", "bridge": "b"}], "this is network and bridge", 3, id="two"),
        pytest.param([{"user": "10.80.0.0/29"}], "10.80.0.0/29 is too small", 3, id="small"),
        pytest.param([{"user": "fd00::/64"}], "fd00::/64 is not IPv4", 3, id="IPv6"),
        pytest.param(
            [{"bridge": "br0", "forwards": [{"node": "lab-1", "host_port": 1}]}],
            "bridge br0 has no forwards", 4, id="forwards without user",
        ),
        pytest.param(
            [USER, {**USER, "forwards": [{"node": "lab-1", "host_port": 1}]}],
            "only the first network can have forwards", 5, id="forwards of the second",
        ),
    ],
)  # fmt: skip
def test_a_target_that_makes_no_sense_is_told_at_its_line(
    networks: list[dict[str, Any]], said: str, line: int, tmp_path: Path
) -> None:
    path = tmp_path / "target.yaml"
    path.write_text(yaml.safe_dump({"type": "libvirt", "networks": networks}, sort_keys=False))

    with pytest.raises(ConfigError) as raised:
        load_model(Settings, path)

    assert said in str(raised.value)
    assert f"{path}:{line}" in str(raised.value)
