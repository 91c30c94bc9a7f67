# SPDX-License-Identifier: Apache-2.0
"""Azure's Resource Manager as far as kubekiln asks it: a contract fake, not Azure.

Written after the REST reference of Microsoft.Compute and Microsoft.Network. It keeps resources,
checks bodies against the published shapes (`arm_schema`), and refuses what is documented to be
refused (`arm_rules`); it boots nothing. `arm_server` puts it behind HTTPS with the protocol of
long-running operations.
"""

from __future__ import annotations

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

from tests.platforms.fakes.arm_rules import RULES, ArmError, Resource, disks_of, set_power
from tests.platforms.fakes.arm_schema import faults

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
_POLLS = 2


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
        parts = [(d["managedDisk"]["id"], d.get("deleteOption")) for d in disks_of(gone)]
        for nic in gone["properties"]["networkProfile"]["networkInterfaces"]:
            parts.append((nic["id"], nic.get("properties", {}).get("deleteOption")))
        for part, option in parts:
            resource = self.resources.get(part.lower(), {"properties": {}})
            resource.pop("managedBy", None)
            resource["properties"].pop("virtualMachine", None)
            if option == "Delete":
                self.resources.pop(part.lower(), None)
