# SPDX-License-Identifier: Apache-2.0
"""What is a machine to a target, and what can be told about it?"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from pathlib import Path
from typing import Literal

State = Literal["running", "stopped", "absent"]


@dataclass(frozen=True)
class BootImage:
    """What a target needs of a baked image: the disk, and the same root as a tar."""

    name: str
    digest: str
    qcow2: Path
    root_tar: Path


@dataclass(frozen=True)
class Machine:
    """One node as a machine: an image, a seed, a network card and where its traces go."""

    cluster: str
    name: str
    role: str
    image: BootImage
    seed_dir: Path
    """Directory with user-data, meta-data and network-config."""
    seed_iso: Path
    """The same as a NoCloud disk."""
    mac: str
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    """One, or one of each family; the first is the primary one."""
    gateways: tuple[IPv4Address | IPv6Address, ...]
    """The router of the node network in each family, in the same order; a target gives these
    addresses to the host's side of it."""
    run_dir: Path
    """Everything the machine leaves on the host; `build/machines/<cluster>/<node>`."""
    api_host_port: int | None = None
    """Port of 127.0.0.1 on the host that leads to this machine's API."""
    api_port: int = 6443
    cpus: int = 2
    memory_mib: int = 4096
    disk_gib: int = 20
    etcd_disk_gib: int | None = None
    """Size of a second disk, empty at first, that the database has to itself."""
    vlan: int | None = None
    """VLAN ID that the node network has on its card, if it is tagged."""
    siblings_cpus: int = 0
    """CPUs of its cluster's other machines, which run on the same host."""
    nics: tuple[str, ...] = ()
    """MAC addresses of its further network cards, on a network of their own."""
    key_dir: Path | None = None
    """Directory with its key to its user-data, in several forms, if that is encrypted."""

    @property
    def macs(self) -> tuple[str, ...]:
        """MAC addresses of all its network cards, that of the node network first."""
        return (self.mac, *self.nics)

    @property
    def address(self) -> IPv4Interface | IPv6Interface:
        """Its address of the primary family."""
        return self.addresses[0]

    @property
    def console_log(self) -> Path:
        """What the machine wrote to its console since it was last powered on."""
        return self.run_dir / "console.log"

    @property
    def network_dir(self) -> Path:
        """Where the machines of one cluster keep what they share."""
        return self.run_dir.parent


@dataclass(frozen=True)
class Phase:
    """One step of a boot, as the node itself reported it."""

    name: str
    seconds: float
    """Since the kernel (of a container machine: its first process) started."""


@dataclass(frozen=True)
class ConsoleReport:
    """What the node said on its console during its latest boot."""

    phases: tuple[Phase, ...] = ()
    refusals: tuple[str, ...] = ()
    """Why the node's gate is closed; empty if it isn't."""
    failing: tuple[str, ...] = ()
    """Units that the node named as failing, with their last words."""
    complete: bool = False

    def has(self, phase: str) -> bool:
        """Tell whether the node reported this phase."""
        return any(p.name == phase for p in self.phases)


@dataclass(frozen=True)
class MachineStatus:
    """What a target can tell about a machine right now."""

    state: State
    pid: int | None = None
    """Of the process that is the machine, on the host."""
    how: str = ""
    """How it runs: `QEMU 10.0 tcg, 2 CPUs`."""
    report: ConsoleReport = field(default_factory=ConsoleReport)
