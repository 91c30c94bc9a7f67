# SPDX-License-Identifier: Apache-2.0
"""Where may cloud-init look for user-data, and what does it need in the image for that?

The names are those of cloud-init 25.1, as Debian 13 has it. What asks by network before the network
is up needs a DHCP client, which Debian's package brings along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

SourceName = Literal[
    "Akamai", "AliYun", "AltCloud", "Azure", "Bigstep", "CloudCIX", "CloudSigma", "CloudStack",
    "ConfigDrive", "DigitalOcean", "Ec2", "Exoscale", "GCE", "Hetzner", "IBMCloud", "LXD", "MAAS",
    "NWCS", "NoCloud", "None", "OVF", "OpenNebula", "OpenStack", "Oracle", "RbxCloud", "Scaleway",
    "SmartOS", "UpCloud", "VMware", "Vultr", "WSL",
]  # fmt: skip

PACKAGES: Mapping[SourceName, tuple[str, ...]] = {
    # Guestinfo is read by VMware's own programs.
    "OVF": ("open-vm-tools",),
    "VMware": ("open-vm-tools",),
}
