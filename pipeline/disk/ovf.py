# SPDX-License-Identifier: Apache-2.0
"""What does a VMware importer read about a machine? (The OVF descriptor.)

For VMware alone: Debian's cloud kernel drives its paravirtual SCSI and network, and not the LSI
controllers and Intel cards that other importers of OVF would take instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from kubekiln.errors import KubekilnError

_TEMPLATE = Path(__file__).with_name("appliance.ovf.j2")
# ESXi 7.0 and newer; a machine can be upgraded, what is too new is refused.
_HARDWARE = "vmx-17"


@dataclass(frozen=True)
class _Guest:
    """An operating system as the two lists name it: CIM_OperatingSystem's, vSphere's."""

    cim: int
    vmware: str
    description: str


# The newest Debian that ESXi 7.0 knows; it decides on defaults of devices that we name anyway.
_GUESTS: Mapping[str, _Guest] = MappingProxyType(
    {"amd64": _Guest(96, "debian11_64Guest", "Debian GNU/Linux (64-bit)")}
)


@dataclass(frozen=True)
class Appliance:
    """A machine of one disk and one network card, as an importer first shows it."""

    name: str
    virtual_size: int
    """Of the disk, in bytes."""
    architecture: str = "amd64"
    firmware: Literal["efi", "bios"] = "efi"
    """The disk boots under both."""
    cpus: int = 2
    memory_mib: int = 2048
    network: str = "VM Network"
    """The importer maps it to one that it has; this is what ESXi calls its first."""

    @property
    def disk_name(self) -> str:
        """What the disk's file is called in the descriptor, and in an OVA."""
        return f"{self.name}.vmdk"


def render_descriptor(appliance: Appliance, *, vmdk_size: int) -> str:
    """Write the descriptor of an appliance whose vmdk has so many bytes.

    Raises KubekilnError for an architecture that no ESXi runs.
    """
    from jinja2 import Environment, StrictUndefined

    guest = _GUESTS.get(appliance.architecture)
    if guest is None:
        raise KubekilnError(
            f"there is no OVF for {appliance.architecture}",
            hint=f"there is one for {', '.join(sorted(_GUESTS))}",
        )
    environment = Environment(
        autoescape=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    return environment.from_string(_TEMPLATE.read_text()).render(
        **asdict(appliance), disk_name=appliance.disk_name, guest=guest, hardware=_HARDWARE,
        vmdk_size=vmdk_size,
    )  # fmt: skip
