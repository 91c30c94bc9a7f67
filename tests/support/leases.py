# SPDX-License-Identifier: Apache-2.0
"""How do tests give container machines addresses by DHCP? (dnsmasq in the cluster's network)"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from kubekiln.files import make_dir
from kubekiln.process import Command, spawn
from pipeline.targets.machine import Machine
from pipeline.targets.netns import ensure_network
from tests.support.waiting import until


@dataclass
class Leases:
    """A DHCP server that knows only reservations."""

    hosts_file: Path
    process: Popen[bytes]
    reserved: dict[str, str] = field(default_factory=dict)

    def reserve(self, machine: Machine, address: str | None = None) -> None:
        """Reserve a machine's own address for its MAC address, or another one.

        The lease also carries a host name that no machine shall take.
        """
        self.reserved[machine.mac] = f"{address or machine.address.ip},named-by-dhcp"
        lines = [f"{mac},{rest}\n" for mac, rest in self.reserved.items()]
        self.hosts_file.write_text("".join(lines))
        self.process.send_signal(signal.SIGHUP)


@contextmanager
def dhcp_server(machine: Machine, *, for_all: tuple[str, str] | None = None) -> Iterator[Leases]:
    """Serve DHCP in a cluster's network, which is made if it isn't there, until the block ends.

    Machines without a reservation get an address between those `for_all`, or none.
    """
    directory = make_dir(machine.network_dir)
    hosts_file = directory.with_name(f"{directory.name}-leases")
    hosts_file.write_text("")
    network = machine.address.network
    first, last = for_all or (network.network_address, "static")
    process = spawn(
        Command(
            [
                "nsenter", f"--net=/proc/{ensure_network(machine)}/ns/net", "dnsmasq",
                "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root",
                "--pid-file=", "--interface=kk0", "--bind-interfaces", "--no-ping",
                f"--dhcp-range={first},{last},{network.netmask},2m",
                f"--dhcp-option=option:router,{machine.gateways[0]}",
                f"--dhcp-option=option:dns-server,{machine.gateways[0]}",
                f"--dhcp-hostsfile={hosts_file}", f"--dhcp-leasefile={hosts_file}.given",
                f"--log-facility={hosts_file}.log", "--log-dhcp",
            ],
            as_root=True,
            what_for="to give addresses to a test's machines",
        )
    )  # fmt: skip
    log = Path(f"{hosts_file}.log")
    try:
        # Before, the signal by which it reads reservations anew would end it.
        until(lambda: log.exists() and "started" in log.read_text(), what="dnsmasq", timeout_s=30)
        yield Leases(hosts_file, process)
    finally:
        process.terminate()
        process.wait(10)
