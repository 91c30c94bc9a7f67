# SPDX-License-Identifier: Apache-2.0
"""Which parameters do the methods of Proxmox VE's API take that kubekiln calls, and how written?

After the schemas of the API viewer (pve-docs/api-viewer) and the Perl modules that they are made
from (API2/Qemu.pm, QemuServer.pm, QemuServer/Drive.pm, QemuServer/Network.pm,
API2/Storage/{Status,Content}.pm, API2/{Cluster,Tasks,Nodes,Network}.pm), at Proxmox VE 8.4 and 9.
None of the methods allows additional properties.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_BOOL, _INT = r"[01]|yes|no|on|off|true|false", r"-?\d+"
_STORAGE = r"[a-zA-Z][a-zA-Z0-9_.-]*[a-zA-Z0-9]"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_\-+.]*"
_MAC = r"[A-Fa-f0-9][02468ACEace](?::[A-Fa-f0-9]{2}){5}"
_UUID = r"[a-fA-F0-9]{8}(?:-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}"
_BASE64 = r"[A-Za-z0-9+/]+={0,2}"
_DNS = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9-]+)*"


@dataclass(frozen=True)
class Words:
    """A property string: `word,key=value,…`, the first word being the default key's value."""

    keys: Mapping[str, str]
    default_key: str | None = None

    def faults(self, text: str) -> Iterator[str]:
        seen = set()
        for index, word in enumerate(text.split(",")):
            key, equals, value = word.partition("=")
            if not equals and index == 0 and self.default_key:
                key, value = self.default_key, word
            if key not in self.keys:
                yield f"invalid format - {key}: property is not defined in schema"
            elif not re.fullmatch(self.keys[key], value):
                yield f"invalid format - {key}: value does not match"
            if key in seen:
                yield f"invalid format - duplicate key: {key}"
            seen.add(key)


_DRIVE = Words(
    {
        "file": rf"none|{_STORAGE}:.+", "media": "cdrom|disk", "import-from": rf"{_STORAGE}:.+",
        "discard": "ignore|on", "iothread": _BOOL, "ssd": _BOOL, "format": "raw|qcow2|vmdk",
        "cache": "none|writethrough|writeback|unsafe|directsync", "size": r"\d+[KMGT]?",
        "backup": _BOOL, "serial": r".{1,60}", "aio": "native|threads|io_uring",
    },
    "file",
)  # fmt: skip
_EFI = Words(
    {
        "file": rf"{_STORAGE}:.+", "efitype": "2m|4m", "pre-enrolled-keys": _BOOL,
        "size": r"\d+[KMGT]?",
    },
    "file",
)  # fmt: skip
_NET = Words(
    {
        "virtio": _MAC, "e1000": _MAC, "vmxnet3": _MAC, "bridge": r"[a-zA-Z0-9._-]+",
        "tag": r"[1-9]\d{0,2}|[1-3]\d{3}|40[0-8]\d|409[0-4]", "mtu": r"\d{1,5}", "firewall": _BOOL,
        "link_down": _BOOL, "queues": _INT, "rate": r"\d+(\.\d+)?",
    }
)  # fmt: skip
_SMBIOS = Words(
    {"uuid": _UUID, "base64": _BOOL, **dict.fromkeys(
        ("version", "serial", "manufacturer", "product", "sku", "family"), _BASE64)}
)  # fmt: skip

Format = str | Words
_CONFIG: Mapping[str, Format] = {
    "agent": Words({"enabled": _BOOL, "type": "virtio|isa"}, "enabled"),
    "balloon": r"\d+",
    "bios": "seabios|ovmf",
    "boot": Words({"order": r"(ide|sata|scsi|virtio|net)\d+(;(ide|sata|scsi|virtio|net)\d+)*"}),
    "cores": r"[1-9]\d*",
    "cpu": r"[a-zA-Z0-9_-]+(,.*)?",
    "description": r"[\s\S]{0,8192}",
    "efidisk0": _EFI,
    "machine": r"(pc|pc(-i440fx)?-\d+(\.\d+)+|q35|pc-q35-\d+(\.\d+)+|virt)(\+pve\d+)?",
    "memory": Words({"current": r"[1-9]\d*"}, "current"),
    "name": _DNS,
    "onboot": _BOOL,
    "ostype": "other|wxp|w2k|w2k3|w2k8|wvista|win7|win8|win10|win11|l24|l26|solaris",
    "scsihw": "lsi|lsi53c810|virtio-scsi-pci|virtio-scsi-single|megasas|pvscsi",
    "smbios1": _SMBIOS,
    "tags": rf"{_TAG}([;, ]+{_TAG})*",
    "vga": Words({"type": "cirrus|none|qxl|serial[0-3]|std|virtio|vmware", "memory": _INT}, "type"),
    **{f"net{index}": _NET for index in range(32)},
    **{f"ide{index}": _DRIVE for index in range(4)},
    **{f"scsi{index}": _DRIVE for index in range(31)},
    **{f"serial{index}": r"/dev/[^,]+|socket" for index in range(4)},
}


@dataclass(frozen=True)
class Method:
    """What one method takes beside what is in its path."""

    takes: Mapping[str, Format]
    needs: frozenset[str] = frozenset()

    def faults(self, given: Mapping[str, str]) -> dict[str, str]:
        """Say what is wrong with each parameter, as PVE::JSONSchema does."""
        found = {}
        for key, value in given.items():
            form = self.takes.get(key)
            if form is None:
                found[key] = (
                    "property is not defined in schema and the schema does not allow additional "
                    "properties"
                )
            elif isinstance(form, Words):
                wrong = list(form.faults(value))
                if wrong:
                    found[key] = wrong[0]
            elif not re.fullmatch(form, value):
                found[key] = "value does not match the regex pattern"
        for key in self.needs - set(given):
            found[key] = "property is missing and it is not optional"
        return found


_DIGEST_KINDS = "md5|sha1|sha224|sha256|sha384|sha512"
_VMID = r"[1-9]\d{2,8}"
METHODS: Mapping[tuple[str, str], Method] = {
    ("GET", "version"): Method({}),
    ("GET", "nodes"): Method({}),
    ("GET", "cluster/nextid"): Method({"vmid": _VMID}),
    ("GET", "cluster/resources"): Method({"type": "vm|storage|node|sdn"}),
    ("GET", "nodes/{node}/network"): Method({"type": "bridge|any_bridge|any_local_bridge"}),
    ("GET", "nodes/{node}/storage"): Method(
        {"content": r"[a-z,]+", "enabled": _BOOL, "format": _BOOL, "storage": _STORAGE}
    ),
    ("GET", "nodes/{node}/storage/{storage}/status"): Method({}),
    ("GET", "nodes/{node}/storage/{storage}/content"): Method({"content": "[a-z]+", "vmid": _VMID}),
    ("DELETE", "nodes/{node}/storage/{storage}/content/{volume}"): Method({"delay": _INT}),
    ("POST", "nodes/{node}/storage/{storage}/upload"): Method(
        {
            "content": "iso|vztmpl|import", "filename": r".{1,255}",
            "checksum": "[0-9a-fA-F]+", "checksum-algorithm": _DIGEST_KINDS,
        },
        frozenset({"content", "filename"}),
    ),
    ("POST", "nodes/{node}/qemu"): Method(
        {**_CONFIG, "vmid": _VMID, "pool": r"[A-Za-z0-9._/-]+", "start": _BOOL},
        frozenset({"vmid"}),
    ),
    ("GET", "nodes/{node}/qemu/{vmid}/config"): Method({"current": _BOOL, "snapshot": ".+"}),
    ("POST", "nodes/{node}/qemu/{vmid}/config"): Method(
        {**_CONFIG, "digest": r"[0-9a-f]{40}", "delete": ".+", "background_delay": _INT}
    ),
    ("PUT", "nodes/{node}/qemu/{vmid}/config"): Method(
        {**_CONFIG, "digest": r"[0-9a-f]{40}", "delete": ".+"}
    ),
    ("PUT", "nodes/{node}/qemu/{vmid}/resize"): Method(
        {"disk": r"(ide|sata|scsi|virtio)\d+", "size": r"\+?\d+(\.\d+)?[KMGT]?"},
        frozenset({"disk", "size"}),
    ),
    ("GET", "nodes/{node}/qemu/{vmid}/status/current"): Method({}),
    ("POST", "nodes/{node}/qemu/{vmid}/status/start"): Method({"timeout": _INT}),
    ("POST", "nodes/{node}/qemu/{vmid}/status/stop"): Method({"timeout": _INT}),
    ("DELETE", "nodes/{node}/qemu/{vmid}"): Method(
        {"purge": _BOOL, "destroy-unreferenced-disks": _BOOL}
    ),
    ("GET", "nodes/{node}/tasks/{upid}/status"): Method({}),
    ("GET", "nodes/{node}/tasks/{upid}/log"): Method({"start": r"\d+", "limit": r"\d+"}),
}  # fmt: skip
