# SPDX-License-Identifier: Apache-2.0
"""Does the inspection of a finished disk find what is wrong with it?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.checks import CHECKS, OWNED, Facts, has_no_residue
from pipeline.disk.bios import boot_sector, linked_core
from pipeline.disk.layout import SECTOR, make_layout
from pipeline.disk.readback import Owner
from tests.support.locks import program

LAYOUT = make_layout(size_mib=512, architecture="amd64", seed="test")
_METADATA = "var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db"
_CONTENT = "var/lib/containerd/io.containerd.content.v1.content/blobs/sha256"
_SNAPSHOT = "var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/pause"
DATASOURCES = "etc/cloud/cloud.cfg.d/90-kubekiln-datasources.cfg"


def write(tree: Path, path: str, content: str | bytes = "") -> None:
    file = tree / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    """A disk with which everything is right."""
    tree, blob = tmp_path / "tree", b"layer"
    write(tree, "boot/vmlinuz-6", "kernel")
    write(tree, "boot/initrd.img-6", "initrd")
    (tree / "vmlinuz").symlink_to("boot/vmlinuz-6")
    (tree / "initrd.img").symlink_to("boot/initrd.img-6")
    write(tree, "boot/grub/grub.cfg", "linux /vmlinuz root=LABEL=kubekiln-root\n")
    write(tree, "etc/machine-id")
    write(tree, "etc/shadow", "root:!*:1:0:99999:7:::\nsshd:!:1::::::\n")
    write(tree, "etc/fstab", "LABEL=kubekiln-root / ext4 defaults 0 1\n")
    write(tree, "etc/apt/sources.list.d/debian.sources", "URIs: http://m.example/debian\n")
    write(tree, "etc/cloud/cloud.cfg", "users: [default]\ndatasource_list: [Everything]\n")
    write(tree, DATASOURCES, "datasource_list: [ConfigDrive, None]\n")
    write(tree, "etc/cloud/cloud.cfg.d/README", "datasource_list: [Nobody]\n")
    for unit in ("containerd", "kubekiln-activate", "ssh"):
        write(tree, f"etc/systemd/system/multi-user.target.wants/{unit}.service")
    write(tree, "usr/local/bin/kubelet", program())
    write(tree, "opt/cni/bin/bridge", program(text=b"bridge"))
    write(tree, _METADATA, b"\0registry.k8s.io/pause:1\0io.cri-containerd.pinned\0")
    write(tree, f"{_CONTENT}/{sha256(blob)}", blob)
    write(tree, _SNAPSHOT, "x")
    write(tree, "var/log/lastlog")
    raw = tmp_path / "disk.raw"
    start = LAYOUT.bios_boot.start // SECTOR
    head = boot_sector(b"\x11" * SECTOR, b"\0" * SECTOR, start)
    core = linked_core(b"\x33" * SECTOR * 3, start)
    raw.write_bytes(head.ljust(LAYOUT.bios_boot.start, b"\0") + core)
    return Facts(
        raw=raw,
        tree=tree,
        table={
            "label": "gpt",
            "partitions": [{"type": p.type, "start": p.start // SECTOR} for p in LAYOUT.partitions],
        },
        esp_files={"/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/GRUBX64.EFI", "/EFI/DEBIAN/GRUB.CFG"},
        owners=dict(OWNED),
        manifest={
            "architecture": "amd64",
            "apt": ["http://m.example/debian"],
            "datasources": ["ConfigDrive", "None"],
            "files": {
                "kubernetes/kubelet": sha256(program()),
                "cni-plugins/bridge": sha256(program(text=b"bridge")),
            },
            "container_images": {"registry.k8s.io/pause:1": "0" * 64},
        },
    )


def findings(facts: Facts) -> dict[str, list[str]]:
    found = {name: check(facts) for name, check in CHECKS.items()}
    return {name: problems for name, problems in found.items() if problems}


def test_a_disk_with_which_everything_is_right_passes(facts: Facts) -> None:
    assert findings(facts) == {}


Damage = Callable[[Path], None]


@pytest.mark.parametrize(
    ("path", "content", "check"),
    [
        ("etc/machine-id", "0123456789abcdef", "no identity"),
        ("etc/ssh/ssh_host_ed25519_key", "x", "no identity"),
        ("var/lib/systemd/random-seed", "x", "no identity"),
        ("var/lib/cloud/instances/i-1", "x", "no identity"),
        ("root/.ssh/authorized_keys", "ssh-ed25519 AAAA", "no identity"),
        ("etc/hostname", "builder", "no identity"),
        ("var/lib/containerd/io.containerd.grpc.v1.introspection/uuid", "x", "no identity"),
        ("etc/nvme/hostnqn", "nqn.2014-08.org.nvmexpress:uuid:1", "no identity"),
        ("etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.1993-08.org:1", "no identity"),
        ("etc/shadow", "root:$y$j9T$x:1:0:99999:7:::\n", "no secret"),
        ("etc/pki/key.pem", "-----BEGIN PRIVATE KEY-----\n", "no secret"),
        ("var/log/dpkg.log", "installed", "no residue of the bake"),
        ("root/.bash_history", "ls", "no residue of the bake"),
        ("etc/resolv.conf", "nameserver 192.0.2.1\n", "no residue of the bake"),
        ("etc/apt/sources.list.d/a.sources", "URIs: http://b.example/debian\n",
         "public mirrors only"),
        ("etc/apt/sources.list.d/a.list", "deb http://b.example/debian x y", "public mirrors only"),
        ("usr/local/bin/kubelet", program(text=b"another one"), "pinned programs"),
        ("usr/local/bin/stray", program(), "pinned programs"),
        ("opt/cni/bin/bridge", program("arm64"), "architecture"),
        ("boot/grub/grub.cfg", "", "kernel and initrd"),
        (_METADATA, b"\0registry.k8s.io/other:1\0io.cri-containerd.pinned\0", "container images"),
        (_METADATA, b"\0registry.k8s.io/pause:1\0", "container images"),
        (f"{_CONTENT}/{'0' * 64}", b"layer", "container images"),
        ("etc/fstab", "/swap none swap sw 0 0\n", "no swap"),
        ("etc/systemd/system/timers.target.wants/apt-daily.timer", "", "enabled units"),
        (DATASOURCES, "datasource_list: [ConfigDrive]\n", "datasources"),
        (DATASOURCES, "datasource_list: [None, ConfigDrive]\n", "datasources"),
        (DATASOURCES, "datasource_list: ConfigDrive, None\n", "datasources"),
        (DATASOURCES, "datasource_list: [ConfigDrive,\n", "datasources"),
        ("etc/cloud/cloud.cfg.d/90_dpkg.cfg", "datasource_list: [NoCloud]\n", "datasources"),
    ],
    ids=lambda value: value if isinstance(value, str) and "/" in value else "",
)  # fmt: skip
def test_what_must_not_be_there_is_found(
    facts: Facts, path: str, content: str | bytes, check: str
) -> None:
    write(facts.tree, path, content)

    assert check in findings(facts)


@pytest.mark.parametrize(
    ("path", "content", "host", "is_found"),
    [
        ("etc/hosts", "127.0.1.1 builder-7.example builder-7\n", "builder-7.example", True),
        ("etc/hosts", "127.0.1.1 ci\n", "ci", True),
        ("etc/mailname", "Builder\n", "builder", True),
        ("etc/postfix/main.cf", "myhostname = builder.example\n", "builder", True),
        ("etc/hosts", "127.0.0.1 localhost\n", "localhost", False),
        ("etc/hosts", "127.0.1.1 builder-7\n", "builder", False),
        ("etc/kubernetes/a.conf", "# kubekiln: kubernetes\n", "kubernetes", False),
        ("etc/default/grub", "GRUB_DISTRIBUTOR=kubekiln\n", "kubekiln", False),
    ],
)
def test_the_build_hosts_name_is_looked_for_where_a_hosts_name_gets_in(
    facts: Facts,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    content: str,
    host: str,
    is_found: bool,
) -> None:
    monkeypatch.setattr("platform.node", lambda: host)
    write(facts.tree, path, content)

    assert any(path in line for line in has_no_residue(facts)) == is_found


@pytest.mark.parametrize(
    ("path", "check"),
    [
        ("boot/vmlinuz-6", "kernel and initrd"),
        ("etc/shadow", "no secret"),
        ("usr/local/bin/kubelet", "pinned programs"),
        (_METADATA, "container images"),
        (_SNAPSHOT, "container images"),
        ("etc/systemd/system/multi-user.target.wants/containerd.service", "enabled units"),
        (DATASOURCES, "datasources"),
    ],
)
def test_what_must_be_there_is_missed(facts: Facts, path: str, check: str) -> None:
    (facts.tree / path).unlink()

    assert check in findings(facts)


def test_a_list_of_datasources_is_missed_also_where_the_manifest_has_none(facts: Facts) -> None:
    older = {name: value for name, value in facts.manifest.items() if name != "datasources"}
    assert findings(replace(facts, manifest=older)) == {}

    for path in (facts.tree / "etc/cloud").rglob("*.cfg"):
        path.unlink()

    assert findings(replace(facts, manifest=older)) == {
        "datasources": ["no datasource_list below /etc/cloud"]
    }


def test_a_boot_sector_that_leads_elsewhere_is_found(facts: Facts) -> None:
    content = bytearray(facts.raw.read_bytes())
    content[0x5C] ^= 1
    facts.raw.write_bytes(content)

    assert list(findings(facts)) == ["boots under BIOS"]


def test_a_missing_loader_for_uefi_is_found(facts: Facts) -> None:
    assert list(findings(replace(facts, esp_files={"/EFI/BOOT/BOOTX64.EFI"}))) == [
        "boots under UEFI"
    ]


def test_another_order_of_partitions_is_found(facts: Facts) -> None:
    table = {**facts.table, "partitions": [*reversed(facts.table["partitions"])]}

    assert "partition table" in findings(replace(facts, table=table))


def test_an_open_directory_is_found(facts: Facts) -> None:
    owners = {**facts.owners, "/var/lib/etcd": Owner(0o755, 980, 980)}

    assert list(findings(replace(facts, owners=owners))) == ["owners and modes"]
