# SPDX-License-Identifier: Apache-2.0
"""Does a machine wait for the address that it was declared with, and say what it got instead?"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.node_runtime import PROGRAMS_DIR, make_node

from kubekiln_node.activate import activate  # isort: skip
from kubekiln_node.lease import Card, Complaint, await_lease, judge, parse_cards, read_cards  # isort: skip

import pytest

OWN, OTHER = "10.80.0.11", "10.80.0.99"
MAC = "52:2e:55:a7:13:9c"


def card(*leased: str, name: str = "eth0", static: Sequence[str] = ()) -> Card:
    return Card(name, MAC, (*static, *leased), leased)


class Waiting:
    """A machine whose cards change as time goes by."""

    def __init__(self, *changes: tuple[float, list[Card]]) -> None:
        self.changes = changes
        self.time = 0.0
        self.said: list[tuple[float, Complaint]] = []
        self.ran: list[tuple[float, str]] = []

    def wait(self, *addresses: str) -> bool:
        def sleep(seconds: float) -> None:
            self.time += seconds
            assert self.time < 1000, "it waits for ever"

        def run(command: Sequence[str]) -> int:
            self.ran.append((self.time, " ".join(command)))
            return 0

        return await_lease(
            addresses,
            complain=lambda complaint: self.said.append((self.time, complaint)),
            cards=lambda: [cards for since, cards in self.changes if since <= self.time][-1],
            run=run,
            sleep=sleep,
            clock=lambda: self.time,
        )


def test_a_machine_with_its_address_does_not_wait() -> None:
    machine = Waiting((0, [card(OWN)]))

    assert machine.wait(OWN) is False
    assert machine.time == 0
    assert not machine.said and not machine.ran


def test_a_lease_that_comes_soon_is_no_matter() -> None:
    machine = Waiting((0, [card()]), (8, [card(OWN)]))

    assert machine.wait(OWN) is False
    assert machine.time == 8
    assert machine.said == []


def test_another_lease_is_told_once_with_what_to_do() -> None:
    machine = Waiting((0, [card()]), (2, [card(OTHER)]), (40, [card(OWN)]))

    assert machine.wait(OWN) is True
    ((at, complaint),) = machine.said
    assert at == 15
    assert complaint.is_wrong
    assert complaint.text == (
        f"DHCP gave {OTHER} (eth0, {MAC}), but this node is declared as {OWN}: "
        "reserve that address for its MAC address"
    )


def test_dhcp_is_asked_anew_until_the_reservation_is_there() -> None:
    machine = Waiting((0, [card(OTHER)]), (65, [card(OWN)]))

    machine.wait(OWN)

    assert machine.ran == [
        (30, "networkctl reconfigure eth0"), (60, "networkctl reconfigure eth0"),
    ]  # fmt: skip


def test_a_machine_without_a_lease_waits_for_as_long_as_it_takes() -> None:
    machine = Waiting((0, [card()]), (900, [card(OWN)]))

    assert machine.wait(OWN) is True
    ((at, complaint),) = machine.said
    assert at == 60
    assert not complaint.is_wrong
    assert complaint.text == f"DHCP has not given {OWN} yet; asked on eth0 ({MAC})"
    assert machine.ran == []


def test_a_further_card_with_its_own_address_is_nothing_wrong() -> None:
    complaint = judge([OWN], [card(), card(name="eth1", static=["10.90.0.11"])])

    assert not complaint.is_wrong


def test_the_kernels_answer_is_understood() -> None:
    said = [
        {"ifname": "lo", "link_type": "loopback", "addr_info": [{"local": "127.0.0.1"}]},
        {},
        {
            "ifname": "eth0",
            "link_type": "ether",
            "address": MAC,
            "addr_info": [
                {"family": "inet", "local": OWN, "dynamic": True},
                {"family": "inet", "local": "10.90.0.1"},
                {"family": "inet6", "local": "fd00::1", "dynamic": True, "mngtmpaddr": True},
                {},
            ],
        },
    ]

    assert parse_cards(json.dumps([link for link in said if link])) == [
        Card("eth0", MAC, (OWN, "10.90.0.1", "fd00::1"), (OWN,))
    ]
    assert parse_cards(b"") == []


@pytest.mark.processes("ip")
def test_the_kernel_is_asked() -> None:
    assert all(found.name != "lo" for found in read_cards())


def test_the_gate_stays_closed_until_the_lease_is_there(tmp_path: Path) -> None:
    node = make_node(tmp_path)
    node.write_manifest(lease=[OWN])
    console: list[str] = []
    gates: list[str] = []

    def wait(addresses: Sequence[str], *, complain: object, run: object) -> bool:
        assert tuple(addresses) == (OWN,)
        assert callable(complain)
        complain(Complaint("DHCP gave 10.80.0.99", is_wrong=True))
        status = json.loads(node.path("/run/kubekiln/status.json").read_text())
        gates.append(f"{status['gate']}: {status['reasons'][0]}")
        return True

    status = activate(
        run=lambda _command: 0,
        host_name="solo-1",
        owner_of=lambda _uid, _gid: "root:root",
        root=str(node.root),
        now=lambda: 20.0,
        tell=console.append,
        wait=wait,
        sync=lambda: None,
    )

    assert status == 0
    assert gates == ["closed: DHCP gave 10.80.0.99"]
    assert console[1:] == [
        'KUBEKILN gate=closed reason="DHCP gave 10.80.0.99" t=20.0 node=solo-1',
        "KUBEKILN gate=open t=20.0 node=solo-1",
        "KUBEKILN phase=activated t=20.0 node=solo-1",
    ]
    assert json.loads(node.path("/run/kubekiln/status.json").read_text())["gate"] == "open"


@pytest.mark.processes("bash")
@pytest.mark.parametrize(
    ("said", "written"),
    [
        ('[{},{"ifindex":2,"ifname":"vlan120","addr_info":[{}]}]', "interface vlan120\n"),
        ("[{}]", None),
    ],
    ids=["there", "not yet"],
)
def test_keepalived_is_told_the_interface_of_the_machines_own_address(
    tmp_path: Path, said: str, written: str | None
) -> None:
    for name in ("etc/keepalived", "run/keepalived", "bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/keepalived/keepalived.conf").write_text(f"    unicast_src_ip {OWN}\n")
    ip = tmp_path / "bin/ip"
    ip.write_text(f'#!/bin/bash\n[ "$*" = "-json address show to {OWN}" ] && echo \'{said}\'\n')
    ip.chmod(0o755)
    program = (PROGRAMS_DIR / "keepalived-interface").read_text()
    for place in ("/etc/keepalived", "/run/keepalived"):
        program = program.replace(place, f"{tmp_path}{place}")

    done = subprocess.run(
        ["bash", "-c", program],
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    result = tmp_path / "run/keepalived/interface.conf"
    assert (result.read_text() if result.exists() else None) == written
    assert done.returncode == (0 if written else 1)
