# SPDX-License-Identifier: Apache-2.0
"""How do images and machines get to Proxmox VE, and away again?

The image goes to a storage of the content type `import`, and each machine's disk is imported from
it; the seed goes along as a CD. See docs/platforms/proxmox.md.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from kubekiln.errors import KubekilnError, Problem
from kubekiln.files import sha256_file
from pipeline.targets.environment import tools_environment
from pipeline.targets.platform import (
    Advance,
    DiskImage,
    FormatName,
    Instance,
    InstanceSpec,
    RemoteImage,
    TransientError,
)
from pipeline.targets.proxmox_api import Api, Upload, find_credentials, find_endpoint
from pipeline.targets.proxmox_errors import ExistsError, MissingError
from pipeline.targets.proxmox_machines import (
    NO_SEED,
    disk_parameters,
    finished,
    instances_of,
    is_of,
    machine_parameters,
    refusals,
    seed_name,
)
from pipeline.targets.proxmox_settings import Settings
from pipeline.targets.spread import pick_for

__all__ = ["ProxmoxPlatform", "Settings", "connect"]

# The content type `import` takes disks since then: https://pve.proxmox.com/wiki/Roadmap
_OLDEST = (8, 4)
_CHOICES = 20
"""So many numbers are tried for a machine, where others make some at the same time."""


class ProxmoxPlatform:
    """Hosts of one cluster."""

    type = "proxmox"
    format: FormatName = "qcow2"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._first = settings.nodes[0]
        self._choosing = threading.Lock()

    def problems(self) -> list[Problem]:
        """Ask for version, hosts, storages and bridges."""
        try:
            return list(self._problems())
        except TransientError:
            raise
        except KubekilnError as error:
            return list(error.problems)

    def _problems(self) -> Iterator[Problem]:
        version = str(self._api.get("ask for the version", "version")["version"])
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
            yield Problem(f"it is Proxmox VE {version}", hint="8.4 or newer imports disks by API")
        online = {
            str(host["node"]): host.get("status") for host in self._api.get("list hosts", "nodes")
        }
        for host in self._settings.nodes:
            if online.get(host) != "online":
                hint = f"there are: {', '.join(sorted(online))}"
                yield Problem(f"host {host} is {online.get(host, 'not there')}", hint=hint)
            else:
                yield from self._problems_of(host)

    def _problems_of(self, host: str) -> Iterator[Problem]:
        settings = self._settings
        listed = self._api.get(f"list storages of {host}", f"nodes/{host}/storage")
        storages = {str(storage["storage"]): storage for storage in listed}
        for name, content in (
            (settings.image_storage, "import"),
            (settings.iso_storage, "iso"),
            (settings.disk_storage, "images"),
        ):
            yield from _storage_problems(host, name, content, storages.get(name))
            shared = storages.get(name, {}).get("shared")
            if len(settings.nodes) > 1 and content != "images" and not shared:
                hint = "name a shared one, or one host in `nodes`"
                yield Problem(f"storage {name} isn't shared between the hosts", hint=hint)
        bridges = self._api.get(
            f"list bridges of {host}", f"nodes/{host}/network", type="any_bridge"
        )
        known = {str(bridge["iface"]) for bridge in bridges}
        for network in settings.networks:
            if network.bridge not in known:
                hint = f"the token may use: {', '.join(sorted(known)) or 'none (SDN.Use)'}"
                yield Problem(f"host {host} has no bridge {network.bridge}", hint=hint)

    def find_image(self, image: DiskImage) -> RemoteImage | None:
        """Look for the file whose name has both digests, of the right size.

        It gets there only after Proxmox compared its checksum, and has no other place for a mark.
        """
        wanted = self._image(image)
        for volume in self._volumes("import"):
            if volume["volid"] == wanted.id and volume.get("size") == image.size:
                return wanted
        return None

    def upload(self, image: DiskImage, advance: Advance) -> RemoteImage:
        """Send the file in one request; Proxmox compares the checksum and then puts it there."""
        self._refuse_full(image.size)
        wanted = self._image(image)
        with Upload(image.path, wanted.id.rpartition("/")[2], advance) as file:
            self._send("import", self._settings.image_storage, file, image.sha256)
        return wanted

    def delete_image(self, image: RemoteImage) -> None:
        """Remove the file."""
        self._remove_volume(image.id)

    def refusals(self, specs: Sequence[InstanceSpec], image: DiskImage) -> list[Problem]:
        """Hold cards and disks against settings and image."""
        return [p for spec in specs for p in refusals(spec, image, self._settings)]

    def list_instances(self, cluster: str | None = None) -> Sequence[Instance]:
        """List machines with our tags, and seeds of ours without a machine."""
        resources = self._api.get("list the machines", "cluster/resources", type="vm")
        return instances_of(resources, [str(v["volid"]) for v in self._volumes("iso")], cluster)

    def create(self, spec: InstanceSpec, image: RemoteImage) -> Instance:
        """Send the seed, make the machine, then its disks; then power it on."""
        there = self._find(spec)
        if there is not None and there.state == "failed":
            self.delete(there)
            there = None
        if there is None:
            self._make(spec, image)
            there = self._find(spec)
        if there is None or there.payload != spec.payload:
            raise KubekilnError(
                f"{spec.name} is there, made of another image or user-data",
                hint="`kubekiln destroy` it first",
            )
        # Asks the host itself: the list is ten seconds old.
        self.start(there)
        return replace(there, state="running")

    def start(self, instance: Instance) -> None:
        """Power it on unless it runs."""
        path, doing = _path(instance), f"start machine {instance.id}"
        if self._api.get(doing, f"{path}/status/current")["status"] != "running":
            self._api.wait(doing, self._api.post(doing, f"{path}/status/start", {}))

    def read_console(self, instance: Instance) -> str | None:
        """Tell nothing: the API passes on what the serial port says now, and keeps none of it."""
        del instance
        return None

    def forget_user_data(self, instance: Instance) -> None:
        """Take the seed out of the drive, and remove it."""
        doing = f"take the seed out of machine {instance.id}"
        if "host" in instance.extra:
            task = self._api.post(doing, f"{_path(instance)}/config", NO_SEED)
            self._api.wait(doing, task)
        for seed in instance.extra.get("seeds", "").split():
            self._remove_volume(seed)

    def delete(self, instance: Instance) -> None:
        """Stop and remove the machine with its disks, then its seed."""
        if "host" in instance.extra:
            self._delete_machine(instance)
        for seed in instance.extra.get("seeds", "").split():
            self._remove_volume(seed)

    def _delete_machine(self, instance: Instance) -> None:
        path, doing = _path(instance), f"remove machine {instance.id}"
        try:
            config = self._api.get(doing, f"{path}/config")
            if not is_of(config.get("tags"), instance):
                return  # gone; the number is another machine's now
            if self._api.get(doing, f"{path}/status/current")["status"] == "running":
                self._api.wait(doing, self._api.post(doing, f"{path}/status/stop", {}))
            # Not its unreferenced disks: on a storage that is shared they may be another machine's
            # that had, or has, this number.
            self._api.wait(doing, self._api.delete(doing, path, purge=1))
        except MissingError:
            return

    def _make(self, spec: InstanceSpec, image: RemoteImage) -> None:
        host = pick_for(spec.node, self._settings.nodes)
        with Upload(spec.seed_iso, seed_name(spec)) as file:
            self._send("iso", self._settings.iso_storage, file, sha256_file(spec.seed_iso))
        seed = f"{self._settings.iso_storage}:iso/{seed_name(spec)}"
        path, doing = f"nodes/{host}/qemu/{self._reserve(host, spec)}", f"make {spec.name}"
        disks = disk_parameters(self._settings, spec, image.id, seed)
        self._api.wait(doing, self._api.post(doing, f"{path}/config", disks))
        size = {"disk": "scsi0", "size": f"{spec.disk_gib}G"}
        self._api.wait(doing, self._api.put(doing, f"{path}/resize", size))
        self._api.put(doing, f"{path}/config", finished(spec))
        self._api.wait(doing, self._api.post(doing, f"{path}/status/start", {}))

    def _reserve(self, host: str, spec: InstanceSpec) -> int:
        """Make the machine itself, with a free number; gives the number."""
        doing = f"make {spec.name}"
        for _ in range(_CHOICES):
            # `nextid` reserves nothing: two that ask at the same time get the same answer.
            with self._choosing:
                vmid = int(self._api.get(doing, "cluster/nextid"))
                parameters = machine_parameters(self._settings, spec, vmid)
                try:
                    task = self._api.post(doing, f"nodes/{host}/qemu", parameters)
                except ExistsError:
                    continue
            self._api.wait(doing, task)
            return vmid
        raise TransientError(f"{doing}: somebody else took each of {_CHOICES} free numbers")

    def _find(self, spec: InstanceSpec) -> Instance | None:
        found = (i for i in self.list_instances(spec.cluster) if i.node == spec.node)
        return next(found, None)

    def _send(self, content: str, storage: str, file: Upload, sha256: str) -> None:
        doing = f"upload {file.name} to {storage}"
        parameters = {
            "content": content,
            "checksum-algorithm": "sha256",
            "checksum": sha256,
            # The last one: the server takes what is behind the file for a part of it.
            "filename": file,
        }
        path = f"nodes/{self._first}/storage/{storage}/upload"
        self._api.wait(doing, self._api.post(doing, path, parameters))

    def _volumes(self, content: str) -> list[dict[str, Any]]:
        settings = self._settings
        storage = settings.image_storage if content == "import" else settings.iso_storage
        path = f"nodes/{self._first}/storage/{storage}/content"
        return list(self._api.get(f"list storage {storage}", path, content=content))

    def _remove_volume(self, volume: str) -> None:
        storage, _, _name = volume.partition(":")
        path = f"nodes/{self._first}/storage/{storage}/content/{volume}"
        try:
            self._api.wait(f"remove {volume}", self._api.delete(f"remove {volume}", path))
        except MissingError:
            return

    def _refuse_full(self, size: int) -> None:
        storage = self._settings.image_storage
        path = f"nodes/{self._first}/storage/{storage}/status"
        available = self._api.get(f"ask for the room on {storage}", path).get("avail")
        if available is not None and int(available) < size:
            raise KubekilnError(
                f"storage {storage} has {int(available) >> 20} MiB left, "
                f"the image needs {size >> 20} MiB",
                where=f"host {self._first}",
                hint="free space on it, or name another `image_storage`",
            )

    def _image(self, image: DiskImage) -> RemoteImage:
        name = f"{image.remote_name}-{image.sha256[:12]}.qcow2"
        return RemoteImage(f"{self._settings.image_storage}:import/{name}", image.remote_name)

    @cached_property
    def _api(self) -> Api:
        environ = tools_environment()
        host = find_endpoint(self._settings.endpoint, environ)
        return Api(host, find_credentials(environ), self._settings.ca_file)


def connect(settings: Settings) -> ProxmoxPlatform:
    """Make the platform of these settings."""
    return ProxmoxPlatform(settings)


def _path(instance: Instance) -> str:
    return f"nodes/{instance.extra['host']}/qemu/{instance.id}"


def _storage_problems(
    host: str, name: str, content: str, storage: dict[str, Any] | None
) -> Iterator[Problem]:
    where = f"host {host}"
    if storage is None:
        yield Problem(f"there is no storage {name}", where=where, hint="`pvesm status` lists them")
    elif content not in str(storage.get("content", "")).split(","):
        hint = "Datacenter → Storage → Edit → Content"
        yield Problem(f"storage {name} does not take the content {content!r}", where, hint)
    elif not storage.get("active", 1):
        yield Problem(f"storage {name} isn't active", where=where, hint="`pvesm status` says why")
