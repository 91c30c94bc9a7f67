# SPDX-License-Identifier: Apache-2.0
"""What does Azure's Resource Manager do, and refuse, when a resource is made or changed?

Written after the REST reference. `arm` asks the rule of a kind before it keeps a resource.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.platforms.fakes.arm import Arm

Resource = dict[str, Any]
_CUSTOM_DATA_LIMIT = 65_535
_SIZES = {"Standard_D2s_v5", "Standard_D4s_v5", "Standard_D8s_v5"}


class ArmError(Exception):
    """An answer that refuses."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def disks_of(machine: Resource) -> list[Resource]:
    """List a machine's disks, that of its system first."""
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
    for disk in disks_of(machine):
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


Rule = Callable[["Arm", Resource, Resource | None], None]
RULES: Mapping[str, Rule] = {
    "microsoft.compute/virtualmachines": _make_machine,
    "microsoft.compute/images": _make_image,
    "microsoft.compute/galleries/images/versions": _make_version,
    "microsoft.network/networkinterfaces": _make_nic,
}
