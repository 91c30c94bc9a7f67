# SPDX-License-Identifier: Apache-2.0
"""How is a node written as a domain of libvirt's, and what do we find in one again?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from xml.etree import ElementTree as ET

from kubekiln.errors import ConfigError
from pipeline.targets.emulation import (
    KERNEL_ARGUMENTS_KEY,
    SLOW_FEATURES,
    TRANSLATION_CACHE_MIB,
    kernel_arguments,
)
from pipeline.targets.libvirt_settings import Network, Settings
from pipeline.targets.platform import InstanceSpec

TAGS = "urn:kubekiln:machine:1"
"""XML namespace of the element by which a domain is known as ours."""
_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
_QEMU_MAJOR = 1_000_000
# Of q35's root bus: libvirt fills it from below, and QEMU's own devices are above.
_SLOT = 0x10
SEED_DRIVE, KEY_DRIVE = "sda", "sdb"
ET.register_namespace("kubekiln", TAGS)
ET.register_namespace("qemu", _QEMU)


@dataclass(frozen=True)
class Files:
    """Paths of what a machine consists of, on the daemon's host."""

    disk: str
    seed: str
    console: str
    etcd_disk: str | None = None
    key: str | None = None
    """A CD with the key to the user-data, if that is encrypted. Not as SMBIOS string: every user of
    the host reads those, in QEMU's arguments and by a read-only connection (`virsh -r dumpxml`)."""


@dataclass(frozen=True)
class Host:
    """What matters of where the machine is to run."""

    has_kvm: bool
    qemu_version: int
    """As libvirt says it: major × 1,000,000 + minor × 1,000 + release."""


def domain_xml(
    spec: InstanceSpec, settings: Settings, files: Files, host: Host, tags: Mapping[str, str]
) -> str:
    """Describe a node as a domain; devices are those that Debian's cloud kernel has drivers for."""
    domain = ET.Element("domain", type="kvm" if host.has_kvm else "qemu")
    _add(domain, "name", spec.name)
    ET.SubElement(_add(domain, "metadata"), f"{{{TAGS}}}machine", dict(tags))
    _add(domain, "memory", str(spec.memory_mib), unit="MiB")
    _add(domain, "vcpu", str(spec.cpus))
    told = None if host.has_kvm else kernel_arguments(host.qemu_version // _QEMU_MAJOR)
    _add_firmware(domain, settings, told)
    features = _add(domain, "features")
    for name in ("acpi", "apic"):
        _add(features, name)
    if host.has_kvm:
        _add(domain, "cpu", mode="host-passthrough")
    else:
        _add_emulated_cpu(domain, features)
    _add(domain, "clock", offset="utc")
    devices = _add(domain, "devices")
    _add_disks(devices, settings, files)
    _add_console(devices, files)
    # Debian's cloud kernel has no USB worth having, and a keyboard isn't missed.
    _add(devices, "controller", type="usb", model="none")
    random = _add(devices, "rng", model="virtio")
    _add(random, "backend", "/dev/urandom", model="random")
    _add_cards(domain, devices, spec, settings)
    return ET.tostring(domain, encoding="unicode")


def tags_of(element: str) -> dict[str, str]:
    """Read our tags out of a domain's metadata, as libvirt gives it."""
    return dict(ET.fromstring(element).attrib)


def offers_kvm(capabilities: str) -> bool:
    """Look into a host's capabilities for KVM."""
    found = ET.fromstring(capabilities).findall("guest/arch[@name='x86_64']/domain[@type='kvm']")
    return bool(found)


def pool_type(description: str) -> str:
    """Read the type out of a storage pool's description."""
    return ET.fromstring(description).get("type", "")


def _add(parent: ET.Element, tag: str, text: str | None = None, /, **fields: str) -> ET.Element:
    child = ET.SubElement(parent, tag, fields)
    child.text = text
    return child


def _add_firmware(domain: ET.Element, settings: Settings, told: str | None) -> None:
    if told:
        system = _add(domain, "sysinfo", type="smbios")
        strings = _add(system, "oemStrings")
        _add(strings, "entry", f"{KERNEL_ARGUMENTS_KEY}={told}")
    firmware = {"firmware": "efi"} if settings.firmware == "efi" else {}
    system = _add(domain, "os", None, **firmware)
    _add(system, "type", "hvm", arch="x86_64", machine="q35")
    if firmware:
        # Secure Boot would also need a machine with SMM, which emulation makes slow.
        chosen = _add(system, "firmware")
        _add(chosen, "feature", enabled="no", name="secure-boot")
    if told:
        _add(system, "smbios", mode="sysinfo")


def _add_emulated_cpu(domain: ET.Element, features: ET.Element) -> None:
    cache = _add(features, "tcg")
    _add(cache, "tb-cache", str(TRANSLATION_CACHE_MIB), unit="MiB")
    cpu = _add(domain, "cpu", mode="maximum", check="none")
    for name in SLOW_FEATURES:
        _add(cpu, "feature", policy="disable", name=name)


def _add_disks(devices: ET.Element, settings: Settings, files: Files) -> None:
    _add(_add_disk(devices, settings, files.disk, "vda"), "boot", order="1")
    if files.etcd_disk:
        _add_disk(devices, settings, files.etcd_disk, "vdb")
    devices.append(_drive(files.seed, SEED_DRIVE))
    if files.key:
        # Who removed the file by hand still has a machine that starts: it needs the key only once.
        devices.append(_drive(files.key, KEY_DRIVE, startupPolicy="optional"))
    _add(devices, "controller", type="scsi", index="0", model="virtio-scsi")


def empty_drive_xml(name: str) -> str:
    """Describe a drive without a CD in it."""
    return ET.tostring(_drive(None, name), encoding="unicode")


def _drive(path: str | None, name: str, **source: str) -> ET.Element:
    # Not SATA, q35's own: Debian 12's cloud kernel has no AHCI driver.
    drive = ET.Element("disk", type="file", device="cdrom")
    _add(drive, "driver", name="qemu", type="raw")
    if path:
        _add(drive, "source", None, file=path, **source)
    _add(drive, "target", dev=name, bus="scsi")
    _add(drive, "readonly")
    return drive


def _add_disk(devices: ET.Element, settings: Settings, path: str, name: str) -> ET.Element:
    # By path, not as volume of a pool: Debian's AppArmor profile lets QEMU open only files.
    disk = _add(devices, "disk", type="file", device="disk")
    cache = {} if settings.cache == "default" else {"cache": settings.cache}
    _add(disk, "driver", name="qemu", type="qcow2", discard="unmap", **cache)
    _add(disk, "source", file=path)
    _add(disk, "target", dev=name, bus="virtio")
    return disk


def _add_console(devices: ET.Element, files: Files) -> None:
    # A terminal for `virsh console`, and a file, which has what was said when nobody listened.
    console = _add(devices, "serial", type="pty")
    _add(console, "log", file=files.console, append="off")
    _add(console, "target", port="0")


def _add_cards(
    domain: ET.Element, devices: ET.Element, spec: InstanceSpec, settings: Settings
) -> None:
    words: list[str] = []
    for index, (mac, network) in enumerate(zip(spec.macs, settings.networks, strict=False)):
        if network.user:
            words += _user_card(index, mac, network, spec)
            continue
        kind = "network" if network.network else "bridge"
        card = _add(devices, "interface", type=kind)
        _add(card, "mac", address=mac)
        _add(card, "source", None, **{kind: network.network or network.bridge or ""})
        _add(card, "model", type="virtio")
        _add(card, "rom", enabled="no")
    if words:
        line = ET.SubElement(domain, f"{{{_QEMU}}}commandline")
        for word in words:
            ET.SubElement(line, f"{{{_QEMU}}}arg", value=word)


def _user_card(index: int, mac: str, network: Network, spec: InstanceSpec) -> list[str]:
    """Give QEMU's own arguments: libvirt forwards ports only with passt, another program."""
    assert network.user is not None
    forwards = "".join(
        f",hostfwd=tcp:127.0.0.1:{way.host_port}-{node_address(spec, network)}:{way.port}"
        for way in network.forwards
        if way.node == spec.node
    )
    name, gateway, server = f"kubekiln{index}", network.user[1], network.user[3]
    return [
        "-netdev",
        f"user,id={name},ipv6=off,net={network.user},host={gateway},dns={server}{forwards}",
        "-device",
        f"virtio-net-pci,netdev={name},mac={mac},romfile=,bus=pcie.0,addr={_SLOT + index:#x}",
    ]


def node_address(spec: InstanceSpec, network: Network) -> str:
    """Give the node's address in a network of QEMU's own; raises ConfigError if it has none."""
    assert network.user is not None
    found = next((a for a in spec.addresses if ip_address(a) in network.user), None)
    if found is None:
        raise ConfigError(
            f"{spec.node} ({', '.join(spec.addresses)}) has no address in {network.user}",
            hint="`user` of the target's network is the cluster's `network.node_cidr`",
        )
    return found
