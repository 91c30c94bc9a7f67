# SPDX-License-Identifier: Apache-2.0
"""What must be true of a finished disk? (One function a question.)"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kubekiln.files import sha256_file
from pipeline.disk.layout import BIOS_BOOT_TYPE, ESP_TYPE, ROOT_TYPES, SECTOR
from pipeline.disk.readback import Owner
from pipeline.elf import elf_architecture

PROGRAM_DIRS = ("usr/local/bin", "opt/cni/bin")
# What is read back from the root; the checks see nothing else.
EXTRACTED = (
    "/boot", "/etc", "/home", "/root", "/usr/local", "/opt/cni", "/usr/lib/systemd/system-preset",
    "/var/lib/cloud", "/var/lib/containerd", "/var/lib/dbus", "/var/lib/systemd", "/var/log",
    "/var/spool", "/vmlinuz", "/initrd.img",
)  # fmt: skip
OWNED = {
    "/etc/cni/net.d": Owner(0o700, 0, 0),
    "/etc/shadow": Owner(0o640, 0, 42),
    "/root": Owner(0o700, 0, 0),
    "/tmp": Owner(0o1777, 0, 0),
    "/usr/local/bin/kubelet": Owner(0o755, 0, 0),
    "/var/lib/etcd": Owner(0o700, 980, 980),
    "/var/log/kubernetes/audit": Owner(0o700, 0, 0),
}
_ENABLED = ("containerd.service", "kubekiln-activate.service", "ssh.service")
_METADATA = "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db"
_CONTENT = "var/lib/containerd/io.containerd.content.v1.content/blobs/sha256"
_SNAPSHOTS = "var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
# Where the name of the host that bakes gets in; elsewhere it is a word with a meaning of its own:
# a host may be called kubernetes.
_HOLD_A_HOST_NAME = (
    "etc/hosts", "etc/hostname", "etc/mailname", "etc/machine-info", "etc/ssh/ssh_host_*.pub",
    "etc/postfix/*",
)  # fmt: skip
_OF_ANY_HOST = "localhost"


@dataclass(frozen=True)
class Facts:
    """A disk, read back, and what its manifest says of it."""

    raw: Path
    tree: Path
    """The extracted part of the root."""
    table: Mapping[str, Any]
    esp_files: set[str]
    owners: Mapping[str, Owner | None]
    manifest: Mapping[str, Any]

    def text(self, path: str) -> str:
        """Read a file of the root; empty if it isn't there."""
        file = self.tree / path
        return file.read_text(errors="replace") if file.is_file() else ""

    def files(self, *below: str) -> Iterator[Path]:
        """List the regular files below some directories."""
        for directory in below:
            for path in sorted((self.tree / directory).rglob("*")):
                if path.is_file() and not path.is_symlink():
                    yield path

    def name(self, path: Path) -> str:
        return f"/{path.relative_to(self.tree)}"


Check = Callable[[Facts], list[str]]


def partitions(facts: Facts) -> list[str]:
    """GPT with BIOS-boot, EFI system partition and the root last."""
    found = [p["type"].upper() for p in facts.table["partitions"]]
    wanted = [BIOS_BOOT_TYPE, ESP_TYPE, ROOT_TYPES[facts.manifest["architecture"]]]
    return [] if facts.table["label"] == "gpt" and found == wanted else [f"partitions are {found}"]


def boots_under_bios(facts: Facts) -> list[str]:
    """The boot sector leads to GRUB's core in the BIOS-boot partition."""
    if facts.manifest["architecture"] != "amd64":
        return []
    with facts.raw.open("rb") as disk:
        sector = disk.read(SECTOR)
        core = int.from_bytes(sector[0x5C:0x64], "little")
        disk.seek(core * SECTOR + 0x1F4)
        rest = int.from_bytes(disk.read(8), "little")
    start = int(facts.table["partitions"][0]["start"])
    good = sector[510:] == b"\x55\xaa" and core == start and rest == start + 1
    return [] if good else [f"boot sector points to sector {core}, core to {rest}, not {start}"]


def boots_under_uefi(facts: Facts) -> list[str]:
    """The EFI system partition has shim, GRUB and its configuration."""
    efi = {"amd64": "X64", "arm64": "AA64"}[facts.manifest["architecture"]]
    wanted = {f"/EFI/BOOT/BOOT{efi}.EFI", f"/EFI/BOOT/GRUB{efi}.EFI", "/EFI/DEBIAN/GRUB.CFG"}
    return [f"{name} is missing" for name in sorted(wanted - facts.esp_files)]


def has_kernel(facts: Facts) -> list[str]:
    """The kernel and its initrd are where GRUB looks for them."""
    problems = []
    for name in ("vmlinuz", "initrd.img"):
        link = facts.tree / name
        if not (link.is_symlink() and (facts.tree / link.readlink()).is_file()):
            problems.append(f"/{name} leads nowhere")
    if "linux /vmlinuz root=" not in facts.text("boot/grub/grub.cfg"):
        problems.append("/boot/grub/grub.cfg boots no kernel")
    return problems


def has_no_identity(facts: Facts) -> list[str]:
    """Two machines of this image will not be alike: no machine-id, host keys, random seed."""
    problems = []
    if facts.text("etc/machine-id").strip() not in ("", "uninitialized"):
        problems.append("/etc/machine-id is set")
    for pattern in (
        "etc/ssh/ssh_host_*", "var/lib/systemd/random-seed", "var/lib/dbus/machine-id",
        "var/lib/cloud/instance*", "var/lib/cloud/instances/*", "root/.ssh/*", "home/*/.ssh/*",
        "etc/nvme/host*", "etc/hostname",
        "var/lib/containerd/io.containerd.grpc.v1.introspection/uuid",
    ):  # fmt: skip
        problems += [f"{facts.name(path)} is there" for path in facts.tree.glob(pattern)]
    if "InitiatorName=" in facts.text("etc/iscsi/initiatorname.iscsi"):
        problems.append("/etc/iscsi/initiatorname.iscsi names an initiator")
    return problems


def has_no_secret(facts: Facts) -> list[str]:
    """No password, no private key."""
    problems = [
        f"account {line.split(':')[0]} has a password"
        for line in facts.text("etc/shadow").splitlines()
        if line.split(":")[1][:1] not in ("*", "!")
    ]
    if not facts.text("etc/shadow"):
        problems.append("/etc/shadow cannot be read")
    for path in facts.files("etc", "root", "home", "var/lib/cloud"):
        if b"PRIVATE KEY-----" in path.read_bytes():
            problems.append(f"{facts.name(path)} holds a private key")
    return problems


def has_no_residue(facts: Facts) -> list[str]:
    """Nothing tells of the bake or its host: logs, histories, names, mirrors, resolvers."""
    logs = [p for p in facts.files("var/log") if p.stat().st_size]
    problems = [f"{facts.name(path)} is not empty" for path in logs]
    problems += [f"{facts.name(p)} is there" for p in (facts.tree / "root").glob(".*")]
    resolver = facts.tree / "etc/resolv.conf"
    if resolver.is_file() and not resolver.is_symlink() and resolver.stat().st_size:
        problems.append("/etc/resolv.conf is that of the build host")
    return problems + _names_the_build_host(facts)


def _names_the_build_host(facts: Facts) -> list[str]:
    host = platform.node().split(".")[0]
    if host in ("", _OF_ANY_HOST):
        return []
    word = re.compile(rf"(?<![\w-]){re.escape(host)}(?![\w-])".encode(), re.IGNORECASE)
    paths = [path for pattern in _HOLD_A_HOST_NAME for path in sorted(facts.tree.glob(pattern))]
    return [
        f"{facts.name(path)} names the build host {host}"
        for path in paths
        if path.is_file() and not path.is_symlink() and word.search(path.read_bytes())
    ]


def has_public_mirrors(facts: Facts) -> list[str]:
    """apt is set to the archives that the image's configuration names, and to no others."""
    allowed = set(facts.manifest["apt"])
    sources = "".join(p.read_text() for p in facts.files("etc/apt") if p.suffix == ".sources")
    lists = [p for p in facts.files("etc/apt") if p.suffix == ".list"]
    found = {line.split()[1] for line in sources.splitlines() if line.startswith("URIs:")}
    problems = [f"apt installs from {uri}" for uri in sorted(found - allowed)]
    return problems + [f"{facts.name(path)} is there" for path in lists]


def has_the_pinned_programs(facts: Facts) -> list[str]:
    """Every program is the one that was pinned and fetched, and none is missing."""
    wanted = {name.rpartition("/")[2]: sha256 for name, sha256 in facts.manifest["files"].items()}
    found = {path.name: sha256_file(path) for path in facts.files(*PROGRAM_DIRS)}
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    problems += [f"{name} is not of any component" for name in sorted(found.keys() - wanted.keys())]
    return problems + [
        f"{name} has sha256 {found[name]}, not {wanted[name]}"
        for name in sorted(wanted.keys() & found.keys())
        if wanted[name] != found[name]
    ]


def has_the_right_architecture(facts: Facts) -> list[str]:
    """Every program is for the image's architecture."""
    wanted = facts.manifest["architecture"]
    programs = {facts.name(p): elf_architecture(p) for p in facts.files(*PROGRAM_DIRS)}
    return [f"{name} is for {was}" for name, was in programs.items() if was != wanted]


def has_the_container_images(facts: Facts) -> list[str]:
    """containerd's store has each container image: pinned, whole, unpacked."""
    file = facts.tree / _METADATA
    metadata = file.read_bytes() if file.is_file() else b""
    images = facts.manifest["container_images"]
    problems = [f"no container image {name}" for name in images if name.encode() not in metadata]
    # A page of before may say so once more: fewer than images is wrong in any case.
    if metadata.count(b"io.cri-containerd.pinned") < len(images):
        problems.append("not every container image is pinned")
    blobs = list(facts.files(_CONTENT))
    problems += [f"blob {b.name} is damaged" for b in blobs if sha256_file(b) != b.name]
    unpacked = [p for p in (facts.tree / _SNAPSHOTS).glob("*/fs/*")]
    if len(blobs) < len(images) or not unpacked:
        problems.append(f"{len(blobs)} blobs and {len(unpacked)} unpacked files")
    return problems


def has_no_swap(facts: Facts) -> list[str]:
    """The kubelet wants none."""
    lines = [line.split("#")[0].split() for line in facts.text("etc/fstab").splitlines()]
    return [f"/etc/fstab has {line[0]}" for line in lines if "swap" in line]


def has_its_units_enabled(facts: Facts) -> list[str]:
    """What must start by itself does, and nothing changes the node behind our back."""
    enabled = {p.name for p in (facts.tree / "etc/systemd/system").glob("*.wants/*")}
    problems = [f"{unit} is not enabled" for unit in _ENABLED if unit not in enabled]
    return problems + [
        f"{unit} is enabled"
        for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service")
        if unit in enabled
    ]


def asks_its_datasources_alone(facts: Facts) -> list[str]:
    """cloud-init asks for user-data whom the image's configuration names, and nobody else."""
    asked: object = None
    # As cloud-init merges its configuration: of several files that say it the last one counts.
    below = sorted((facts.tree / "etc/cloud/cloud.cfg.d").glob("*.cfg"))
    for path in (facts.tree / "etc/cloud/cloud.cfg", *below):
        try:
            said = yaml.safe_load(facts.text(str(path.relative_to(facts.tree))))
        except yaml.YAMLError:
            return [f"{facts.name(path)} is no YAML"]
        if isinstance(said, dict):
            asked = said.get("datasource_list", asked)
    if not isinstance(asked, list):
        return ["no datasource_list below /etc/cloud"]
    # The manifest of an image that was baked before this was looked at doesn't say.
    wanted = list(facts.manifest.get("datasources", asked))
    return [] if asked == wanted else [f"datasource_list is {asked}, not {wanted}"]


def has_the_right_owners(facts: Facts) -> list[str]:
    """Directories that hold secrets or data are closed, and belong to whom they must."""
    return [
        f"{path} is {facts.owners.get(path)}"
        for path, wanted in OWNED.items()
        if facts.owners.get(path) != wanted
    ]


CHECKS: Mapping[str, Check] = {
    "partition table": partitions,
    "boots under BIOS": boots_under_bios,
    "boots under UEFI": boots_under_uefi,
    "kernel and initrd": has_kernel,
    "no identity": has_no_identity,
    "no secret": has_no_secret,
    "no residue of the bake": has_no_residue,
    "public mirrors only": has_public_mirrors,
    "pinned programs": has_the_pinned_programs,
    "architecture": has_the_right_architecture,
    "container images": has_the_container_images,
    "no swap": has_no_swap,
    "enabled units": has_its_units_enabled,
    "datasources": asks_its_datasources_alone,
    "owners and modes": has_the_right_owners,
}
