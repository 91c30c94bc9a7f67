# SPDX-License-Identifier: Apache-2.0
"""How are machines made in a resource group, found again, read and removed?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from kubekiln.errors import ConfigError, KubekilnError
from pipeline.targets.azure_account import Account, Pace, resource_id
from pipeline.targets.azure_errors import code_of
from pipeline.targets.azure_machines import (
    CLUSTER_TAG,
    NODE_TAG,
    PAYLOAD_TAG,
    Place,
    Resource,
    disk_name,
    etcd_disk_name,
    instances_of,
    is_of,
    nic_body,
    nic_name,
    vm_body,
)
from pipeline.targets.azure_settings import Settings
from pipeline.targets.platform import Instance, InstanceSpec, RemoteImage

# A machine counts as made for Azure when its cloud-init has reported itself, which takes a minute
# or two. One that doesn't would be waited for until Azure's own limit of 40 minutes.
_MADE_WITHIN_S = 600.0
_RESERVED, _NIC_RESERVED_S = "NicReservedForAnotherVm", 240.0
SUBNET = "Microsoft.Network/virtualNetworks/subnets"
_SECURITY_GROUP = "Microsoft.Network/networkSecurityGroups"
AVAILABILITY_SET = "Microsoft.Compute/availabilitySets"


class Fleet:
    """The machines of ours in one resource group."""

    def __init__(self, settings: Settings, account: Account, pace: Pace) -> None:
        self._pace = pace
        self._settings = settings
        self._group = settings.resource_group
        self._subscription = account.subscription
        self._machines = account.compute.virtual_machines
        self._disks = account.compute.disks
        self._nics = account.network.network_interfaces
        self._public_key = _public_key(settings)

    def list(self, cluster: str | None) -> Sequence[Instance]:
        """List machines, and parts of machines, that bear our tags."""
        # Azure tells what a machine does one by one; with a list for scale sets only.
        look = partial(self._machines.get, expand="instanceView")
        listed = self._machines.list(self._group)
        ours = [str(machine.name) for machine in listed if NODE_TAG in (machine.tags or {})]
        found = (_found(look, self._group, name) for name in ours)
        return instances_of(
            [machine for machine in found if machine is not None],
            _plain(self._nics.list(self._group)),
            _plain(self._disks.list_by_resource_group(self._group)),
            cluster,
        )

    def create(self, spec: InstanceSpec, image: RemoteImage) -> Instance:
        """Make the card, then the machine; what is there already of this very payload is kept."""
        there = _found(self._machines.get, self._group, spec.name)
        if there is None:
            place = self._place()
            nic = self._make_nic(place, spec)
            self._make_machine(spec, vm_body(self._settings, place, spec, image, nic))
        elif not is_of(there, spec):
            raise _in_the_way("machine", there)
        elif not any(is_of(disk, spec) for disk in self._disks_of(spec.name)):
            self._wait_made(spec.name)
        self._tag_disks(spec.name, spec.tags)
        return self._instance(spec)

    def start(self, instance: Instance) -> None:
        """Power a machine on; Azure says nothing against it if it runs."""
        name = f"{instance.cluster}-{instance.node}"
        # Before: a start that fails is the machine's last change, and without tags on its disks it
        # would look as if it had never been made.
        self._tag_disks(name, _tags_of(instance))
        self._machines.begin_start(self._group, name).result()

    def console(self, name: str) -> str | None:
        """Fetch the serial console's log, which Azure keeps as a blob of its own."""
        from azure.core.exceptions import ResourceNotFoundError
        from azure.storage.blob import BlobClient

        answer = self._machines.retrieve_boot_diagnostics_data(self._group, name)
        if not answer.serial_console_log_blob_uri:
            return None
        # The signature in its URL is the only credential that this blob takes.
        with BlobClient.from_blob_url(answer.serial_console_log_blob_uri) as blob:
            try:
                return blob.download_blob().readall().decode(errors="replace")
            except ResourceNotFoundError:
                return ""  # it wrote nothing yet

    def delete(self, instance: Instance) -> None:
        """Remove a machine, then what of its card and disks didn't go with it.

        Raises KubekilnError for a machine of its name that doesn't bear its tags.
        """
        name = f"{instance.cluster}-{instance.node}"
        there = _found(self._machines.get, self._group, name)
        if there is not None:
            tags = there.get("tags") or {}
            if (tags.get(CLUSTER_TAG), tags.get(NODE_TAG)) != (instance.cluster, instance.node):
                raise _in_the_way("machine", there)
            self._machines.begin_delete(self._group, name).result()
        for disk in instance.extra.get("disks", "").split():
            self._disks.begin_delete(self._group, disk).result()
        for nic in instance.extra.get("nics", "").split():
            self._delete_nic(nic)

    def _delete_nic(self, nic: str) -> None:
        """Remove a card; Azure keeps that of a machine that failed back for three minutes."""
        from azure.core.exceptions import HttpResponseError

        until = time.monotonic() + _NIC_RESERVED_S
        while True:
            try:
                self._nics.begin_delete(self._group, nic).result()
                return
            except HttpResponseError as error:
                if code_of(error) != _RESERVED or time.monotonic() > until:
                    raise
            time.sleep(self._pace.poll_s)

    def _make_nic(self, place: Place, spec: InstanceSpec) -> str:
        from azure.mgmt.network.models import NetworkInterface

        name = nic_name(spec.name)
        there = _found(self._nics.get, self._group, name)
        if there is not None and not is_of(there, spec):
            raise _in_the_way("network card", there)
        body = NetworkInterface(nic_body(self._settings, place, spec))
        return str(self._nics.begin_create_or_update(self._group, name, body).result().id)

    def _make_machine(self, spec: InstanceSpec, body: dict[str, Any]) -> None:
        from azure.mgmt.compute.models import VirtualMachine

        making = self._machines.begin_create_or_update(self._group, spec.name, VirtualMachine(body))
        making.wait(_MADE_WITHIN_S)
        if making.done():
            making.result()

    def _wait_made(self, name: str) -> None:
        """Wait for a machine whose making was begun before; raises KubekilnError if it failed."""
        look = partial(self._machines.get, expand="instanceView")
        until = time.monotonic() + _MADE_WITHIN_S
        while time.monotonic() < until:
            there = _found(look, self._group, name) or {}
            provisioning = str(there.get("properties", {}).get("provisioningState", "")).lower()
            if provisioning == "failed":
                raise KubekilnError(
                    f"Azure could not make {name}",
                    where=str(there["id"]),
                    hint="its activity log says why; `kubekiln boot` makes it anew",
                )
            if provisioning != "creating":
                return
            time.sleep(self._pace.poll_s)

    def _tag_disks(self, name: str, tags: Mapping[str, str]) -> None:
        """Tag the disks, which Azure makes on its own while it makes the machine."""
        from azure.mgmt.compute.models import DiskUpdate

        for disk in self._disks_of(name):
            if not _bears(disk, tags):
                update = DiskUpdate({"tags": {**self._settings.tags, **tags}})
                self._disks.begin_update(self._group, disk["name"], update).result()

    def _disks_of(self, name: str) -> Sequence[Resource]:
        """Find the disks that a machine has, by their names."""
        found = (
            _found(self._disks.get, self._group, disk)
            for disk in (disk_name(name), etcd_disk_name(name))
        )
        return [disk for disk in found if disk is not None and _is_of_machine(disk, name)]

    def _instance(self, spec: InstanceSpec) -> Instance:
        machine = self._machines.get(self._group, spec.name, expand="instanceView")
        nic = self._nics.get(self._group, nic_name(spec.name))
        (instance,) = instances_of(
            _plain([machine]), _plain([nic]), self._disks_of(spec.name), spec.cluster
        )
        return instance

    def _place(self) -> Place:
        settings = self._settings
        group, chosen = settings.security_group, settings.availability_set
        return Place(
            subnet=self._id(SUBNET, settings.subnet),
            security_group=self._id(_SECURITY_GROUP, group) if group else None,
            availability_set=self._id(AVAILABILITY_SET, chosen) if chosen else None,
            ssh_public_key=self._public_key,
        )

    def _id(self, kind: str, name: str) -> str:
        return resource_id(self._subscription, self._group, kind, name)


def _tags_of(instance: Instance) -> dict[str, str]:
    """Give the tags that all of a machine bears."""
    return {CLUSTER_TAG: instance.cluster, NODE_TAG: instance.node, PAYLOAD_TAG: instance.payload}


def _bears(resource: Resource, tags: Mapping[str, str]) -> bool:
    return tags.items() <= (resource.get("tags") or {}).items()


def _is_of_machine(disk: Resource, name: str) -> bool:
    """Tell whether a machine of ours has a disk: one of that name may be somebody else's."""
    owner = str(disk.get("managedBy") or "").lower()
    return owner.endswith(f"/virtualmachines/{name}".lower())


def throwaway_public_key() -> str:
    """Make an SSH public key whose private half nobody has."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    # RSA: Azure refused other kinds for years, and its older clouds still do.
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _public_key(settings: Settings) -> str:
    if settings.ssh_public_key is None:
        return throwaway_public_key()
    path = settings.ssh_public_key
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the SSH key: {error}", where=str(path)) from error


def _found(get: Callable[[str, str], Any], group: str, name: str) -> Resource | None:
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return _plain([get(group, name)])[0]
    except ResourceNotFoundError:
        return None


def _plain(models: Iterable[Any]) -> list[Resource]:
    return [model.as_dict() for model in models]


def _in_the_way(kind: str, there: Resource) -> KubekilnError:
    return KubekilnError(
        f"a {kind} named {there['name']} is there, made of something else or not by kubekiln",
        where=str(there["id"]),
        hint="remove or rename it; `kubekiln destroy` removes what kubekiln made",
    )
