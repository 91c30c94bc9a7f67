# SPDX-License-Identifier: Apache-2.0
"""Which objects are an image, and a node, to KubeVirt and CDI?

Pure: settings and specs in, JSON out. Fields as in KubeVirt's and CDI's own API reference
(kubevirt.io/v1, cdi.kubevirt.io/v1beta1).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.targets.kubeapi import SECRET, Kind, Object
from pipeline.targets.platform import (
    TAG_PREFIX,
    DiskImage,
    Instance,
    InstanceSpec,
    InstanceState,
    RemoteImage,
)

if TYPE_CHECKING:
    from pipeline.targets.kubevirt_settings import Settings

MACHINE = Kind("kubevirt.io", "v1", "virtualmachines", "VirtualMachine")
VOLUME = Kind("cdi.kubevirt.io", "v1beta1", "datavolumes", "DataVolume")
TOKEN = Kind("upload.cdi.kubevirt.io", "v1beta1", "uploadtokenrequests", "UploadTokenRequest")
NETWORK = Kind(
    "k8s.cni.cncf.io", "v1", "network-attachment-definitions", "NetworkAttachmentDefinition"
)
IMAGE, SHA256 = f"{TAG_PREFIX}-image", f"{TAG_PREFIX}-sha256"
CLUSTER, NODE, PAYLOAD = (f"{TAG_PREFIX}-{what}" for what in ("cluster", "node", "payload"))
_SEED = "seed"
_ROLE, _MADE, _ADDRESSES = (f"{TAG_PREFIX}-{what}" for what in ("role", "made", "addresses"))

# A label takes 63 characters; the whole digest is an annotation.
_LABEL_DIGITS = 32
_NAME_DIGITS = 8
_STATES: Mapping[str, InstanceState] = {
    "Running": "running", "Migrating": "running", "Paused": "running",
    "Stopped": "stopped",
    "DataVolumeError": "failed",
}  # fmt: skip
# Of `printableStatus`; whatever else it says, the machine is on its way: what holds it up (a full
# host, a volume that waits) isn't cured by making it again, and one that is `Stopping` is restarted
# or drained. `failed` is removed by `boot`, which a machine with a disk must not be unasked.


def volume_name(image: DiskImage) -> str:
    """Name the volume of an image's file: another format of the image has one of its own."""
    return f"{image.remote_name}-{image.sha256[:_NAME_DIGITS]}"


def image_volume(settings: Settings, image: DiskImage) -> Object:
    """Describe the volume that an image is uploaded to; it doesn't count as whole yet."""
    return {
        "apiVersion": f"{VOLUME.group}/{VOLUME.version}",
        "kind": VOLUME.kind,
        "metadata": {
            "name": volume_name(image),
            "labels": {IMAGE: image.digest[:_LABEL_DIGITS]},
            "annotations": {
                # Nobody consumes an image, so nothing else would bind its volume.
                "cdi.kubevirt.io/storage.bind.immediate.requested": "true",
                # Where CDI collects finished DataVolumes, this one carries our digest.
                "cdi.kubevirt.io/storage.deleteAfterCompletion": "false",
            },
        },
        "spec": {"source": {"upload": {}}, "storage": _storage(settings, image.virtual_size)},
    }


def token_request(volume: str) -> Object:
    """Ask for a token with which a file may be sent into a volume."""
    return {
        "apiVersion": f"{TOKEN.group}/{TOKEN.version}",
        "kind": TOKEN.kind,
        "metadata": {"name": volume},
        "spec": {"pvcName": volume},
    }


def whole(image: DiskImage) -> Object:
    """Describe the change that makes an uploaded volume count as whole."""
    return {"metadata": {"annotations": {IMAGE: image.digest, SHA256: image.sha256}}}


def is_of_ours(volume: Object, image: DiskImage) -> bool:
    """Tell whether a volume was made for this image, finished or not."""
    labels = volume["metadata"].get("labels") or {}
    return bool(labels.get(IMAGE) == image.digest[:_LABEL_DIGITS])


def is_whole(volume: Object, image: DiskImage) -> bool:
    """Tell whether a volume holds all of exactly this image."""
    marks = volume["metadata"].get("annotations") or {}
    same = (marks.get(IMAGE), marks.get(SHA256)) == (image.digest, image.sha256)
    return same and phase_of(volume) == "Succeeded" and not is_going(volume)


def phase_of(volume: Object) -> str:
    """Give how far CDI is with a volume."""
    return str((volume.get("status") or {}).get("phase") or "")


def is_going(found: Object) -> bool:
    """Tell whether an object is being removed."""
    return "deletionTimestamp" in found["metadata"]


def why_not(volume: Object | None) -> str:
    """Give CDI's own words for what is wrong with a volume."""
    if volume is None:
        return "it is gone"
    conditions = (volume.get("status") or {}).get("conditions") or ()
    said = [c["message"] for c in conditions if c.get("status") == "False" and c.get("message")]
    return said[0] if said else phase_of(volume) or "no reason given"


def seed_of(spec: InstanceSpec) -> dict[str, bytes]:
    """Give what a machine's cloud-init reads; not compressed, as KubeVirt carries it as text."""
    return {"userdata": (spec.seed_dir / "user-data").read_bytes(),
            "networkdata": spec.network_config.reveal()}  # fmt: skip


def seed_secret(spec: InstanceSpec, machine: Object) -> Object:
    """Describe the secret that a machine's cloud-init reads; it goes with the machine."""
    owner = {"apiVersion": machine["apiVersion"], "kind": machine["kind"],
             "name": machine["metadata"]["name"], "uid": machine["metadata"]["uid"],
             "controller": True, "blockOwnerDeletion": True}  # fmt: skip
    data = {name: base64.b64encode(content).decode() for name, content in seed_of(spec).items()}
    return {
        "apiVersion": SECRET.version,
        "kind": SECRET.kind,
        "metadata": {"name": spec.name, "labels": spec.tags, "ownerReferences": [owner]},
        "data": data,
    }


def machine(settings: Settings, spec: InstanceSpec, image: RemoteImage) -> Object:
    """Describe a node's machine, powered off: its secret can't be there before it."""
    source = {"pvc": {"name": image.name, "namespace": image.id.partition("/")[0]}}
    volumes = [_volume(settings, spec, spec.name, source, spec.disk_gib)]
    if spec.etcd_disk_gib:
        name = _etcd_volume(spec)
        volumes.append(_volume(settings, spec, name, {"blank": {}}, spec.etcd_disk_gib))
    labels = {**spec.tags, _ROLE: spec.role}
    return {
        "apiVersion": f"{MACHINE.group}/{MACHINE.version}",
        "kind": MACHINE.kind,
        "metadata": {
            "name": spec.name,
            "labels": labels,
            "annotations": {_ADDRESSES: ",".join(spec.addresses)},
        },
        "spec": {
            "runStrategy": "Halted",
            "dataVolumeTemplates": volumes,
            "template": {"metadata": {"labels": labels}, "spec": _guest(settings, spec)},
        },
    }


def _volume(
    settings: Settings, spec: InstanceSpec, name: str, source: Object, gib: int
) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": spec.tags},
            "spec": {"source": source, "storage": _storage(settings, gib << 30)}}  # fmt: skip


def _etcd_volume(spec: InstanceSpec) -> str:
    return f"{spec.name}.etcd"  # no node's name has a dot


def without_seed(machine: Object) -> Object | None:
    """Describe the change by which a machine has no seed any more; None if it has none."""
    guest = machine["spec"]["template"]["spec"]
    disks = guest["domain"]["devices"]["disks"]
    if all(disk["name"] != _SEED for disk in disks):
        return None
    devices = {"disks": [disk for disk in disks if disk["name"] != _SEED]}
    volumes = [volume for volume in guest["volumes"] if volume["name"] != _SEED]
    change = {"domain": {"devices": devices}, "volumes": volumes}
    return {"spec": {"template": {"spec": change}}}


def powered_on() -> Object:
    """Describe the change that completes a machine, and starts it."""
    return {"metadata": {"annotations": {_MADE: "true"}}, "spec": {"runStrategy": "Always"}}


def as_instance(found: Object, namespace: str) -> Instance:
    """Read a machine of ours."""
    about, status = found["metadata"], found.get("status") or {}
    marks, labels = about.get("annotations") or {}, about["labels"]
    printed = str(status.get("printableStatus") or "Starting")
    state: InstanceState = _STATES.get(printed, "starting")
    if found["spec"].get("runStrategy") == "Halted":
        state = "stopped"
    if is_going(found) or marks.get(_MADE) != "true":
        state = "failed"
    return Instance(
        id=f"{namespace}/{about['name']}",
        cluster=labels[CLUSTER],
        node=labels[NODE],
        payload=labels.get(PAYLOAD, ""),
        state=state,
        addresses=tuple(filter(None, marks.get(_ADDRESSES, "").split(","))),
        detail=_detail(printed, status),
    )


def _detail(printed: str, status: Mapping[str, Any]) -> str:
    """Say what KubeVirt says: its word for the state, and what holds the machine up."""
    bad = {"Failure": "True", "Ready": "False"}
    said = {c["type"]: c.get("message") for c in status.get("conditions") or ()
            if bad.get(c["type"]) == c.get("status")}  # fmt: skip
    why = said.get("Failure") or said.get("Ready")
    return f"{printed}: {why}" if why else printed


def _guest(settings: Settings, spec: InstanceSpec) -> dict[str, Any]:
    cards = list(zip(spec.macs, settings.networks, strict=False))
    names = [f"net{number}" for number in range(len(cards))]
    further = _further_volumes(spec)
    disk = {"bus": "virtio"}  # Debian 12's cloud kernel has no driver for a SATA CD-ROM
    guest: dict[str, Any] = {
        "domain": {
            "cpu": {"cores": spec.cpus,
                    **({"model": settings.cpu_model} if settings.cpu_model else {})},
            "memory": {"guest": f"{spec.memory_mib}Mi"},
            "firmware": {"bootloader": _BOOTLOADERS[settings.firmware]},
            "devices": {
                "disks": [{"name": "root", "disk": disk, "bootOrder": 1},
                          *({"name": volume["name"], "disk": disk} for volume in further)],
                "interfaces": [{"name": name, "macAddress": mac, settings.binding: {}}
                               for name, (mac, _) in zip(names, cards, strict=True)],
                "logSerialConsole": True,
                "rng": {},
            },
        },
        "hostname": spec.node,
        "networks": [{"name": name, "multus": {"networkName": network}}
                     for name, (_, network) in zip(names, cards, strict=True)],
        "volumes": [{"name": "root", "dataVolume": {"name": spec.name}}, *further],
    }  # fmt: skip
    optional = {"evictionStrategy": settings.eviction, "nodeSelector": settings.node_selector,
                "affinity": _affinity(settings, spec)}  # fmt: skip
    return {**guest, **{key: value for key, value in optional.items() if value}}


def _further_volumes(spec: InstanceSpec) -> list[dict[str, Any]]:
    seed: dict[str, Any] = {"name": _SEED, "cloudInitNoCloud": {
        "secretRef": {"name": spec.name}, "networkDataSecretRef": {"name": spec.name}}}  # fmt: skip
    if not spec.etcd_disk_gib:
        return [seed]
    return [seed, {"name": "etcd", "dataVolume": {"name": _etcd_volume(spec)}}]


_BOOTLOADERS: Mapping[str, Object] = {"bios": {"bios": {}}, "efi": {"efi": {"secureBoot": False}}}


def _affinity(settings: Settings, spec: InstanceSpec) -> dict[str, Any]:
    if settings.spread == "no":
        return {}
    alike = {"matchLabels": {CLUSTER: spec.cluster, _ROLE: spec.role}}
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": alike}
    rule = {
        "preferred": {"preferredDuringSchedulingIgnoredDuringExecution":
                      [{"weight": 100, "podAffinityTerm": term}]},
        "required": {"requiredDuringSchedulingIgnoredDuringExecution": [term]},
    }[settings.spread]  # fmt: skip
    return {"podAntiAffinity": rule}


def _storage(settings: Settings, size: int) -> dict[str, Any]:
    chosen = {"storageClassName": settings.storage_class,
              "volumeMode": settings.volume_mode,
              "accessModes": [settings.access_mode] if settings.access_mode else None}  # fmt: skip
    return {"resources": {"requests": {"storage": str(size)}},
            **{key: value for key, value in chosen.items() if value}}  # fmt: skip
