# SPDX-License-Identifier: Apache-2.0
"""How do the container machines of one cluster get a network of their own?

A network namespace with a bridge, held by one process (`nspawn-network.sh`); no name in /run/netns,
so no mount on the host, and nothing is left when the process ends.
"""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path

from kubekiln.errors import KubekilnError
from kubekiln.process import Command, run
from pipeline.targets.machine import Machine
from pipeline.targets.processes import find_processes, kill_all, wait_for

SCRIPT = Path(__file__).with_name("nspawn-network.sh")
_START_S = 15.0


def ensure_network(machine: Machine) -> int:
    """Start the cluster's network unless it is there; gives the process that holds it."""
    directory = machine.network_dir
    ready = directory / "network.ready"
    if find_processes(SCRIPT.name, str(directory)) and ready.exists():
        return network_pid(directory)
    stop_network(directory)
    run(Command(network_command(machine), as_root=True, log=directory / "network.log"))
    if not wait_for(ready, SCRIPT.name, str(directory), timeout_s=_START_S):
        said = (directory / "network.log").read_text(errors="replace").strip().splitlines()
        stop_network(directory)
        raise KubekilnError(
            f"no network for cluster {machine.cluster}: {said[-1] if said else 'no reason given'}",
            where=f"log {directory / 'network.log'}",
            hint="nspawn machines need root and a kernel with bridge and veth (modprobe bridge)",
        )
    return network_pid(directory)


def network_command(machine: Machine) -> list[str | Path]:
    """The process that holds the network; it leaves our session at once."""
    gateways = [str(gateway) for gateway in gateway_interfaces(machine)]
    return ["setsid", "--fork", "bash", SCRIPT, machine.network_dir, *gateways]


def gateway_interfaces(machine: Machine) -> list[IPv4Interface | IPv6Interface]:
    """The gateway of each family with the length of its network's prefix."""
    return [
        ip_interface(f"{gateway}/{address.network.prefixlen}")
        for address, gateway in zip(machine.addresses, machine.gateways, strict=True)
    ]


def network_pid(directory: Path) -> int:
    """Give a process that is in the network of this directory; raises KubekilnError if none is."""
    found = find_processes(SCRIPT.name, str(directory))
    if not found:
        raise KubekilnError(f"the network of {directory.name} is gone", where=str(directory))
    return found[0]


def stop_network(directory: Path) -> None:
    """End the network, with all that is in it."""
    kill_all(SCRIPT.name, str(directory), as_root=True)
    run(Command(["rm", "-f", directory / "network.ready"], as_root=True))
