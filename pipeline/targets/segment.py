# SPDX-License-Identifier: Apache-2.0
"""How do the QEMU machines of one cluster get a network of their own?

Processes of this user: a switch (`switch.py`), and as one of its ports the router, a QEMU without a
machine whose user network has the gateway's address; another switch, without a router, for further
cards. They outlive every machine of the cluster but the last, and nothing is left when they end.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from kubekiln.errors import KubekilnError
from kubekiln.process import Command, run, spawn
from pipeline.targets.kvm import QEMU
from pipeline.targets.machine import Machine
from pipeline.targets.ports import check_port
from pipeline.targets.processes import find_processes, kill_all
from pipeline.targets.qmp import ask_monitor, socket_path

SWITCH = Path(__file__).with_name("switch.py")
NODES, FURTHER = "switch", "further-switch"
"""The networks of a cluster: that of its nodes, and one for all their further cards."""
OUTSIDE = "outside"
"""The router's netdev that reaches what the host reaches."""
_BACKLOG = 128
# How QEMU's user network is told of a family.
_USER_NETWORK = {
    4: "net={network},host={gateway}",
    6: "ipv6-prefix={network.network_address},ipv6-prefixlen={network.prefixlen},"
    "ipv6-host={gateway}",
}
# The family to which it forwards ports of the host.
_FORWARDED = 4


def ensure_network(machine: Machine) -> None:
    """Start the cluster's networks unless they are there."""
    directory = machine.network_dir
    if not (_switches(directory, NODES) and _routers(directory)):
        stop_network(directory)
        _start_switch(directory, NODES, machine.vlan)
        # It connects at once, and so before any machine: whoever listens was there before it.
        run(Command(router_command(machine), log=_log(directory)))
    if machine.nics and not _switches(directory, FURTHER):
        _start_switch(directory, FURTHER)


def switch_command(
    directory: Path, network: str = NODES, router_vlan: int | None = None
) -> list[str | Path]:
    """The switch; isolated (-I) and without site packages (-S), it starts in 20 ms."""
    vlan = [] if router_vlan is None else [str(router_vlan)]
    return [sys.executable, "-I", "-S", SWITCH, directory / network, *vlan]


def router_command(machine: Machine) -> list[str | Path]:
    """A QEMU that runs no machine: what it has is a user network and a cable to the switch."""
    directory = machine.network_dir
    return [
        QEMU, "-name", f"{machine.cluster}-router",
        "-no-user-config", "-nodefaults", "-display", "none",
        "-machine", "none",
        "-netdev", f"user,id={OUTSIDE},{_user_network(machine)}",
        "-netdev", cable_option("cable", directory, NODES),
        # Two netdevs that are no machine's meet at a hub.
        "-netdev", f"hubport,id=outside-port,hubid=0,netdev={OUTSIDE}",
        "-netdev", "hubport,id=cable-port,hubid=0,netdev=cable",
        "-qmp", f"unix:{option(_monitor(directory))},server=on,wait=off",
        "-pidfile", _marker(directory),
        "-daemonize",
    ]  # fmt: skip


def _user_network(machine: Machine) -> str:
    words = {4: "ipv4=off", 6: "ipv6=off"}
    for address, gateway in zip(machine.addresses, machine.gateways, strict=True):
        form = _USER_NETWORK[address.version]
        words[address.version] = form.format(network=address.network, gateway=gateway)
    return ",".join(words.values())


def cable_option(name: str, directory: Path, network: str) -> str:
    """The `-netdev` of whoever is plugged into a network's switch."""
    path = option(socket_path(directory, network))
    return f"stream,id={name},server=off,addr.type=unix,addr.path={path}"


def option(path: Path) -> str:
    """Write a path for QEMU's option lists, in which a comma is written twice."""
    return str(path).replace(",", ",,")


def join(machine: Machine) -> None:
    """Have the network, and the machine's port of 127.0.0.1 lead to its API.

    QEMU's user network forwards to IPv4 alone (its hostfwd). Raises KubekilnError if the port is
    taken; nothing is started then.
    """
    leave(machine)
    if machine.api_host_port is None:
        ensure_network(machine)
        return
    check_port(machine.api_host_port, machine.name)
    ensure_network(machine)
    address = next(one.ip for one in machine.addresses if one.version == _FORWARDED)
    to = f"{address}:{machine.api_port}"
    said = _tell_router(machine, f"hostfwd_add {OUTSIDE} {_door(machine)}-{to}")
    if said:
        raise KubekilnError(f"no way to the API of {machine.name}: {said}")


def leave(machine: Machine) -> None:
    """Stop listening for the machine's API; fine if nobody does."""
    if machine.api_host_port is not None and _routers(machine.network_dir):
        with contextlib.suppress(KubekilnError):
            _tell_router(machine, f"hostfwd_remove {OUTSIDE} {_door(machine)}")


def stop_network(directory: Path) -> None:
    """End the network; machines that are still there reach nothing then."""
    kill_all(QEMU, str(_marker(directory)), as_root=False)
    for network in (NODES, FURTHER):
        kill_all(SWITCH.name, str(directory / network), as_root=False)
        socket_path(directory, network).unlink(missing_ok=True)
    for trace in (_monitor(directory), _marker(directory)):
        trace.unlink(missing_ok=True)


def remove_unused(directory: Path) -> None:
    """End the network and remove its traces if no machine has a directory there any more."""
    if directory.is_dir() and not any(path.is_dir() for path in directory.iterdir()):
        stop_network(directory)
        shutil.rmtree(directory)


def _start_switch(directory: Path, network: str, router_vlan: int | None = None) -> None:
    words = switch_command(directory, network, router_vlan)
    with _listening(socket_path(directory, network)) as listener:
        spawn(Command(words, cwd=Path("/"), log=_log(directory)), stdin=listener.fileno())


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(_BACKLOG)
        yield listener


def _tell_router(machine: Machine, line: str) -> str:
    return ask_monitor(_monitor(machine.network_dir), line)


def _door(machine: Machine) -> str:
    return f"tcp:127.0.0.1:{machine.api_host_port}"


def _switches(directory: Path, network: str) -> list[int]:
    return find_processes(SWITCH.name, str(directory / network))


def _routers(directory: Path) -> list[int]:
    return find_processes(QEMU, str(_marker(directory)))


def _marker(directory: Path) -> Path:
    return directory / "router.pid"


def _monitor(directory: Path) -> Path:
    return socket_path(directory, "qmp")


def _log(directory: Path) -> Path:
    return directory / "network.log"
