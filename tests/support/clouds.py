# SPDX-License-Identifier: Apache-2.0
"""What does a machine of a cloud's find there: firmware's tables, and a metadata service?

After the clouds' own documentation, as cloud-init's sources read it. None of them ran here.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import yaml

from kubekiln.channel import CHANNELS
from pipeline.targets.machine import Machine
from tests.support.metadata import ADDRESS

Files = Mapping[str, bytes]
_TOKEN = "of-this-machine"  # noqa: S105 - opens nothing
_SERIAL = "20614"
_UUID = "ec2e1916-9099-7caf-fd21-032134566a8c"
_OTHER_NAME = "named-by-the-cloud"
_SERVED = ' HTTP/1.1" 200'


@dataclass(frozen=True)
class Cloud:
    """A kind of cloud, for the datasource of this name."""

    datasource: str
    smbios: str
    """Of its machines' table of type 1."""
    asked: str
    """The end of what a machine must have asked for: user-data, where that comes so."""
    files: Callable[[Machine], Files] = lambda machine: {}
    """What its metadata service gives a machine, by path."""
    rules: Mapping[str, str] = field(default_factory=dict)
    image: str = "debian-13-cloud"
    only_source: str = ""
    """The one datasource of an image that is like `image` else, where that looks elsewhere."""
    element: str = ""
    """One more of that image's, of tests/e2e/elements."""
    addressing: str = "dhcp"
    asset_tag: str = ""
    """Of the machines' chassis."""
    media: Callable[[Machine], Files] | None = None
    """What is on a CD of the machine's."""
    kept_in: str = ""
    """Where cloud-init keeps user-data there, beside its own directory."""
    guestinfo: Callable[[Machine], Files] | None = None
    """What its hypervisor is asked for by a program on the machine."""
    cpu: str = ""
    """What its CPU doesn't say of itself, as QEMU has it."""


def _attached(machine: Machine, name: str) -> bytes:
    return (machine.seed_dir / name).read_bytes()


def _as_amazon(machine: Machine) -> Files:
    address, network = machine.address.ip, machine.address.network
    card = f"latest/meta-data/network/interfaces/macs/{machine.mac}"
    texts = {
        "latest/meta-data/instance-id": "i-0123456789abcdef0",
        "latest/meta-data/local-hostname": f"{_OTHER_NAME}.ec2.internal",
        "latest/meta-data/local-ipv4": str(address),
        "latest/meta-data/mac": machine.mac,
        "latest/meta-data/placement/availability-zone": "eu-north-1a",
        f"{card}/device-number": "0",
        f"{card}/interface-id": "eni-0123456789abcdef0",
        f"{card}/local-ipv4s": str(address),
        f"{card}/mac": machine.mac,
        f"{card}/subnet-ipv4-cidr-block": str(network),
        f"{card}/vpc-id": "vpc-0123456789abcdef0",
        "latest/dynamic/instance-identity/document": json.dumps(
            {"instanceId": "i-0123456789abcdef0", "region": "eu-north-1"}
        ),
    }
    files = {path: text.encode() for path, text in texts.items()}
    return {**files, "latest/user-data": _attached(machine, "user-data.gz")}


def _as_google(machine: Machine) -> Files:
    user_data = _attached(machine, "user-data.gz.b64").decode()
    attributes = {"user-data": user_data, "user-data-encoding": "base64"}
    instance = "computeMetadata/v1/instance"
    return {
        f"{instance}/attributes/index": json.dumps(attributes).encode(),
        f"{instance}/hostname": f"{_OTHER_NAME}.c.project.internal".encode(),
        f"{instance}/id": b"2061412345678901234",
        f"{instance}/zone": b"projects/1/zones/europe-north1-a",
        "computeMetadata/v1/project/attributes/index": b"{}",
    }


def _as_hetzner(machine: Machine) -> Files:
    card = {
        "mac_address": machine.mac,
        "name": "eth0",
        "subnets": [{"ipv4": True, "type": "dhcp"}],
        "type": "physical",
    }
    said = {
        "hostname": _OTHER_NAME,
        "instance-id": int(_SERIAL),
        "network-config": {"config": [card], "version": 1},
        "public-keys": [],
        "region": "eu-central",
    }
    return {
        "hetzner/v1/metadata/index": yaml.safe_dump(said).encode(),
        "hetzner/v1/metadata/instance-id": _SERIAL.encode(),
        "hetzner/v1/userdata": _attached(machine, "user-data.gz.b64"),
    }


def _as_linode(machine: Machine) -> Files:
    said = {"id": int(_SERIAL), "label": _OTHER_NAME, "region": "se-sto", "type": "g6-standard-2"}
    return {
        "v1/instance": json.dumps(said).encode(),
        # Its API takes user-data in this form, and gives it so.
        "v1/user-data": base64.b64encode(_attached(machine, "user-data.gz")),
    }


def _as_cloudstack(machine: Machine) -> Files:
    texts = {
        "availability-zone": "zone-1",
        "instance-id": "7d3aef41-2f5a-4f0c-9d2f-0a0a3c4e5b6c",
        "local-hostname": _OTHER_NAME,
        "local-ipv4": str(machine.address.ip),
    }
    files = {f"latest/meta-data/{name}": text.encode() for name, text in texts.items()}
    # Its router gives what its API was told in base64.
    attached = base64.b64decode(_attached(machine, "user-data.gz.b64"), validate=True)
    return {**files, "latest/user-data": attached}


def _as_azure(machine: Machine) -> Files:
    network = machine.address.network
    subnet = {"address": str(network.network_address), "prefix": str(network.prefixlen)}
    ipv4 = {"ipAddress": [{"privateIpAddress": str(machine.address.ip)}], "subnet": [subnet]}
    card = {"macAddress": machine.mac.replace(":", "").upper(), "ipv4": ipv4}
    profile = {"computerName": _OTHER_NAME, "disablePasswordAuthentication": "true"}
    said = {"compute": {"osProfile": profile}, "network": {"interface": [card]}}
    goal = (
        "<GoalState><Incarnation>1</Incarnation><Container><ContainerId>c</ContainerId>"
        "<RoleInstanceList><RoleInstance><InstanceId>i</InstanceId></RoleInstance>"
        "</RoleInstanceList></Container></GoalState>"
    )
    return {"metadata/instance": json.dumps(said).encode(), "machine/index": goal.encode()}


def _media_of_azure(machine: Machine) -> Files:
    custom_data = base64.b64encode(_attached(machine, "user-data.gz")).decode()
    document = f"""\
<ns0:Environment xmlns:ns0="http://schemas.dmtf.org/ovf/environment/1"
    xmlns:wa="http://schemas.microsoft.com/windowsazure">
<wa:ProvisioningSection><wa:Version>1.0</wa:Version><wa:LinuxProvisioningConfigurationSet>
<wa:HostName>{_OTHER_NAME}</wa:HostName><wa:UserName>azureuser</wa:UserName>
<wa:CustomData>{custom_data}</wa:CustomData>
</wa:LinuxProvisioningConfigurationSet></wa:ProvisioningSection>
<wa:PlatformSettingsSection><wa:Version>1.0</wa:Version><wa:PlatformSettings/>
</wa:PlatformSettingsSection></ns0:Environment>
"""
    return {"ovf-env.xml": document.encode()}


def _guestinfo_of_vmware(machine: Machine) -> Files:
    beside = CHANNELS["vsphere"].beside
    encodings = {key: encoding.encode() for key, encoding in beside.items()}
    values = {key.removesuffix(".encoding") for key in beside}
    return {**encodings, **{key: _attached(machine, key) for key in values}}


def _as_any_server(machine: Machine) -> Files:
    names = ("meta-data", "network-config", "user-data")
    return {f"seed/{name}": _attached(machine, name) for name in names}


CLOUDS = (
    Cloud(
        "ec2",
        f"type=1,manufacturer=Amazon EC2,product=t3.medium,uuid={_UUID},serial={_UUID}",
        f"/user-data{_SERVED}",
        _as_amazon,
        rules={
            "header": "X-aws-ec2-metadata-token",
            "value": _TOKEN,
            "token_path": "/latest/api/token",
            "token_header": "X-aws-ec2-metadata-token-ttl-seconds",
        },
    ),
    Cloud(
        "gce",
        "type=1,manufacturer=Google,product=Google Compute Engine,serial=GoogleCloud-0123456789AB",
        f"/computeMetadata/v1/instance/attributes/?recursive=True{_SERVED}",
        _as_google,
        rules={"header": "Metadata-Flavor", "value": "Google"},
    ),
    Cloud(
        "hetzner",
        f"type=1,manufacturer=Hetzner,product=vServer,serial={_SERIAL}",
        f"/hetzner/v1/userdata{_SERVED}",
        _as_hetzner,
    ),
    Cloud(
        "linode",
        f"type=1,manufacturer=Akamai,product=Compute Instance,serial={_SERIAL}",
        f"/v1/user-data{_SERVED}",
        _as_linode,
        rules={
            "header": "Metadata-Token",
            "value": _TOKEN,
            "token_path": "/v1/token",
            "token_header": "Metadata-Token-Expiry-Seconds",
        },
    ),
    # Custom data comes on a CD; the machine tells the service that it has it.
    Cloud(
        "azure",
        f"type=1,manufacturer=Microsoft Corporation,product=Virtual Machine,uuid={_UUID}",
        f"/machine?comp=health{_SERVED}",
        _as_azure,
        asset_tag="7783-7084-3265-9085-8269-3286-77",
        media=_media_of_azure,
        kept_in="/var/lib/waagent",
    ),
    # Its service is at the address of who gives leases.
    Cloud(
        "cloudstack",
        "type=1,manufacturer=Apache Software Foundation,product=CloudStack KVM Hypervisor",
        f"/latest/user-data{_SERVED}",
        _as_cloudstack,
        only_source="CloudStack",
    ),
    # The node clears what its hypervisor shows to every process on it. Where its CPU names no
    # hypervisor, kernel and systemd take it for VMware's by its firmware.
    Cloud(
        "vsphere",
        "type=1,manufacturer=VMware,, Inc.,product=VMware Virtual Platform",
        "info-set guestinfo.userdata ---",
        image="debian-13-vmware",
        element="vmware-rpctool-on-disk",
        addressing="static",
        guestinfo=_guestinfo_of_vmware,
        cpu=",hypervisor=off,tcg-cpuid=off",
    ),
    Cloud(
        "nocloud",
        f"type=1,serial=ds=nocloud;s=http://{ADDRESS}/seed/",
        f"/seed/user-data{_SERVED}",
        _as_any_server,
        image="debian-13",
        addressing="static",
    ),
)
