# SPDX-License-Identifier: Apache-2.0
"""Azure's Resource Manager as far as kubekiln asks it: a contract fake, not Azure.

Written after the REST reference of Microsoft.Compute and Microsoft.Network. It keeps resources,
checks bodies against the published shapes, and refuses what is documented to be refused; it boots
nothing. `arm_server` puts it behind HTTPS with the protocol of long-running operations.
"""

from __future__ import annotations

import base64
import ipaddress
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import azure.mgmt.compute
import azure.mgmt.compute.models
import azure.mgmt.compute.types
import azure.mgmt.network
import azure.mgmt.network.models
import azure.mgmt.network.types

from tests.platforms.fakes.arm_schema import faults

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
Resource = dict[str, Any]
_CUSTOM_DATA_LIMIT = 65_535
_SIZES = {"Standard_D2s_v5", "Standard_D4s_v5", "Standard_D8s_v5"}
_POLLS = 2


class ArmError(Exception):
    """An answer that refuses."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Kind:
    """A type of resources: what its bodies look like."""

    shape: str
    library: Any


_COMPUTE, _NETWORK = azure.mgmt.compute, azure.mgmt.network
KINDS: Mapping[str, Kind] = {
    "microsoft.compute/virtualmachines": Kind("VirtualMachine", _COMPUTE),
    "microsoft.compute/disks": Kind("Disk", _COMPUTE),
    "microsoft.compute/images": Kind("Image", _COMPUTE),
    "microsoft.compute/availabilitysets": Kind("AvailabilitySet", _COMPUTE),
    "microsoft.compute/galleries": Kind("Gallery", _COMPUTE),
    "microsoft.compute/galleries/images": Kind("GalleryImage", _COMPUTE),
    "microsoft.compute/galleries/images/versions": Kind("GalleryImageVersion", _COMPUTE),
    "microsoft.network/networkinterfaces": Kind("NetworkInterface", _NETWORK),
    "microsoft.network/virtualnetworks/subnets": Kind("Subnet", _NETWORK),
}


@dataclass
class Operation:
    """Something that takes a while: done when it was asked about often enough."""

    finish: Callable[[], None]
    target: str
    polls_left: int = _POLLS
    error: ArmError | None = None


@dataclass
class Arm:
    """All resources of one subscription, by their IDs in lower case."""

    read_disk: Callable[[str], str]
    """Gives the SHA-256 of the disk in a page blob, as raw; raises KeyError if there is none."""
    write_console: Callable[[str], str]
    """Writes a machine's console as a blob; gives its URL, with a signature."""
    resources: dict[str, Resource] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    disk_sha256: dict[str, str] = field(default_factory=dict)
    """Of images, by ID: what Azure would have copied out of the blob."""
    custom_data: dict[str, bytes] = field(default_factory=dict)
    """Of machines, by ID: Azure gives it to the machine and to nobody else."""
    refuse: dict[str, ArmError] = field(default_factory=dict)
    """Name of a resource → why its making fails later, as when a region is full."""
    lock: Any = field(default_factory=threading.RLock)

    def get(self, path: str) -> Resource:
        found = self.resources.get(path.lower())
        if found is None:
            raise ArmError(404, "ResourceNotFound", f"The Resource '{path}' was not found.")
        return found

    def list(self, folder: str) -> list[Resource]:
        """List resources right below a path."""
        prefix = folder.lower() + "/"
        found = [r for key, r in sorted(self.resources.items()) if key.startswith(prefix)]
        return [r for r in found if "/" not in str(r["id"])[len(prefix) :]]

    def put(self, path: str, kind: str, body: Resource) -> tuple[Resource, Operation]:
        """Make or change a resource; it is made when the operation is done."""
        wrong = list(faults(body, KINDS[kind].shape, KINDS[kind].library))
        if wrong:
            raise ArmError(400, "InvalidRequestContent", "; ".join(wrong))
        rule, old = RULES.get(kind), self.resources.get(path.lower())
        made = {**body, "id": path, "name": path.rsplit("/", 1)[1]}
        properties = made["properties"] = {**body.get("properties", {})}
        if rule:
            rule(self, made, old)
        properties["provisioningState"] = "Updating" if old else "Creating"
        self.resources[path.lower()] = made
        operation = self._begin(path, lambda: properties.update(provisioningState="Succeeded"))
        operation.error = self.refuse.get(made["name"])
        if operation.error:
            operation.finish = lambda: properties.update(provisioningState="Failed")
        return made, operation

    def patch(self, path: str, body: Resource) -> tuple[Resource, Operation]:
        """Change tags, the only thing that kubekiln changes."""
        found = self.get(path)
        if set(body) != {"tags"}:
            raise ArmError(400, "InvalidRequestContent", f"not expected: {sorted(body)}")
        found["tags"] = body["tags"]
        return found, self._begin(path, lambda: None)

    def delete(self, path: str, kind: str) -> Operation | None:
        """Remove a resource with what goes with it; None if it isn't there."""
        found = self.resources.get(path.lower())
        if found is None:
            return None
        if found.get("managedBy") or found["properties"].get("virtualMachine"):
            raise ArmError(400, "InUse", f"{path} is used by a machine")
        if kind.endswith("galleries/images") and self.list(path + "/versions"):
            raise ArmError(409, "CannotDeleteResource", "has nested resources")
        found["properties"]["provisioningState"] = "Deleting"
        return self._begin(path, lambda: self._remove(path))

    def start(self, path: str) -> Operation:
        machine = self.get(path)
        return self._begin(path, lambda: set_power(machine, "running"))

    def poll(self, name: str) -> Operation:
        """Ask about an operation, which brings it forward."""
        operation = self.operations.get(name)
        if operation is None:
            raise ArmError(404, "OperationNotFound", name)
        operation.polls_left -= 1
        if operation.polls_left == 0:
            operation.finish()
        return operation

    def go_on(self, path: str) -> None:
        """Let time pass for what is being done to a resource, whoever asked for it."""
        for name, operation in self.operations.items():
            if operation.target.lower() == path.lower() and operation.polls_left > 0:
                self.poll(name)

    def _begin(self, path: str, finish: Callable[[], None]) -> Operation:
        operation = Operation(finish, path)
        self.operations[uuid.uuid4().hex] = operation
        return operation

    def _remove(self, path: str) -> None:
        gone = self.resources.pop(path.lower(), None)
        self.custom_data.pop(path, None)
        if gone is None or "/virtualMachines/" not in path:
            return
        parts = [(d["managedDisk"]["id"], d.get("deleteOption")) for d in _disks(gone)]
        for nic in gone["properties"]["networkProfile"]["networkInterfaces"]:
            parts.append((nic["id"], nic.get("properties", {}).get("deleteOption")))
        for part, option in parts:
            resource = self.resources.get(part.lower(), {"properties": {}})
            resource.pop("managedBy", None)
            resource["properties"].pop("virtualMachine", None)
            if option == "Delete":
                self.resources.pop(part.lower(), None)


def _disks(machine: Resource) -> list[Resource]:
    profile = machine["properties"]["storageProfile"]
    return [profile["osDisk"], *profile.get("dataDisks", ())]


def set_power(machine: Resource, state: str) -> None:
    """Put a machine's power state where `expand=instanceView` shows it."""
    codes = ("ProvisioningState/succeeded", f"PowerState/{state}")
    machine["properties"]["instanceView"] = {"statuses": [{"code": code} for code in codes]}


def _subnet_of(arm: Arm, configuration: Resource) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    wanted = configuration["privateIPAddressVersion"]
    prefixes = arm.get(configuration["subnet"]["id"])["properties"]["addressPrefixes"]
    networks = [ipaddress.ip_network(prefix) for prefix in prefixes]
    found = [network for network in networks if f"IPv{network.version}" == wanted]
    if not found:
        raise ArmError(400, "SubnetHasNoPrefixOfVersion", f"no prefix of {wanted}")
    return found[0]


def _used_addresses(arm: Arm, except_id: str) -> set[str]:
    used = set()
    for resource in arm.resources.values():
        if "/networkInterfaces/" in resource["id"] and resource["id"] != except_id:
            for one in resource["properties"]["ipConfigurations"]:
                used.add(one["properties"]["privateIPAddress"])
    return used


def _make_nic(arm: Arm, nic: Resource, old: Resource | None) -> None:
    used = _used_addresses(arm, nic["id"])
    for one in nic["properties"]["ipConfigurations"]:
        properties = one["properties"]
        network = _subnet_of(arm, properties)
        if properties["privateIPAllocationMethod"] == "Dynamic":
            # Azure keeps the first four addresses of a subnet.
            free = (str(network[index]) for index in range(4, network.num_addresses - 1))
            properties["privateIPAddress"] = next(a for a in free if a not in used)
        address = properties["privateIPAddress"]
        if ipaddress.ip_address(address) not in network:
            raise ArmError(400, "PrivateIPAddressNotInSubnet", f"{address} is not in {network}")
        if address in used:
            raise ArmError(400, "PrivateIPAddressInUse", f"{address} is allocated already")
    if old and "virtualMachine" in old["properties"]:
        nic["properties"]["virtualMachine"] = old["properties"]["virtualMachine"]


def _make_machine(arm: Arm, machine: Resource, old: Resource | None) -> None:
    properties = machine["properties"]
    data = _custom_data(properties["osProfile"])
    if old and (old["properties"]["osProfile"], arm.custom_data[machine["id"]]) != (
        properties["osProfile"], data,
    ):  # fmt: skip
        raise ArmError(409, "PropertyChangeNotAllowed", "Changing osProfile is not allowed.")
    if properties["hardwareProfile"]["vmSize"] not in _SIZES:
        raise ArmError(400, "InvalidParameter", "vmSize is none that Azure has")
    image = arm.resources.get(properties["storageProfile"]["imageReference"]["id"].lower())
    if image is None or image["properties"]["provisioningState"] != "Succeeded":
        raise ArmError(404, "ImageNotFound", "the image is not there")
    if machine.get("zones") and properties.get("availabilitySet"):
        raise ArmError(400, "BadRequest", "zones and availabilitySet exclude each other")
    arm.custom_data[machine["id"]] = data
    for reference in properties["networkProfile"]["networkInterfaces"]:
        nic = arm.get(reference["id"])
        if nic["properties"].get("virtualMachine", {}).get("id", machine["id"]) != machine["id"]:
            raise ArmError(400, "NicInUse", nic["id"])
        if nic["location"] != machine["location"]:
            raise ArmError(400, "InvalidResourceReference", "the card is in another region")
        nic["properties"]["virtualMachine"] = {"id": machine["id"]}
    base = machine["id"].rsplit("/virtualMachines/", 1)[0]
    for disk in _disks(machine):
        disk["managedDisk"]["id"] = f"{base}/disks/{disk['name']}"
        # Without tags: nothing promises that it gets those of the machine.
        arm.resources[disk["managedDisk"]["id"].lower()] = {
            "id": disk["managedDisk"]["id"], "name": disk["name"], "location": machine["location"],
            "managedBy": machine["id"], "properties": {"provisioningState": "Succeeded"},
        }  # fmt: skip
    set_power(machine, "running")


def _custom_data(profile: Resource) -> bytes:
    linux = profile["linuxConfiguration"]
    keys = linux.get("ssh", {}).get("publicKeys", [])
    if linux["disablePasswordAuthentication"] and not keys:
        raise ArmError(400, "InvalidParameter", "at least one SSH key must be given")
    if not all(key["keyData"].startswith(("ssh-rsa ", "ssh-ed25519 ")) for key in keys):
        raise ArmError(400, "InvalidParameter", "keyData is no SSH public key")
    data = base64.b64decode(profile.pop("customData"), validate=True)
    if len(data) > _CUSTOM_DATA_LIMIT:
        raise ArmError(400, "InvalidParameter", "Custom data in OSProfile must be in 65535 bytes")
    return data


def _make_image(arm: Arm, image: Resource, old: Resource | None) -> None:
    if old:
        raise ArmError(409, "PropertyChangeNotAllowed", "Changing osDisk.blobUri is not allowed.")
    _keep_disk(arm, image["id"], image["properties"]["storageProfile"]["osDisk"]["blobUri"])


def _make_version(arm: Arm, version: Resource, old: Resource | None) -> None:
    if old:
        raise ArmError(409, "PropertyChangeNotAllowed", "Changing the source is not allowed.")
    arm.get(version["id"].rsplit("/versions/", 1)[0])
    source = version["properties"]["storageProfile"]["osDiskImage"]["source"]
    if "/storageAccounts/" not in source["storageAccountId"]:
        raise ArmError(400, "InvalidParameter", "storageAccountId is no storage account")
    _keep_disk(arm, version["id"], source["uri"])


def _keep_disk(arm: Arm, image_id: str, url: str) -> None:
    try:
        arm.disk_sha256[image_id] = arm.read_disk(url)
    except KeyError as error:
        raise ArmError(400, "InvalidParameter", f"no page blob with a fixed VHD: {error}") from None


Rule = Callable[[Arm, Resource, Resource | None], None]
RULES: Mapping[str, Rule] = {
    "microsoft.compute/virtualmachines": _make_machine,
    "microsoft.compute/images": _make_image,
    "microsoft.compute/galleries/images/versions": _make_version,
    "microsoft.network/networkinterfaces": _make_nic,
}
