# SPDX-License-Identifier: Apache-2.0
"""Did DHCP give this machine the address that it was declared with? Waits until it did.

Certificates, members of etcd and the other machines know it by that address. With another one it
would be half a node: it stays off, says so, and asks anew, until the reservation is there.
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOOK_S = 0.5
# The link to another network may have its lease before that of the nodes.
WRONG_AFTER_S = 15.0
LATE_AFTER_S = 60.0
# How long an operator waits after a reservation was mended. A lease would be renewed in half its
# time: hours.
ASK_AGAIN_S = 30.0


class Card(NamedTuple):
    """One network link, and the addresses on it."""

    name: str
    mac: str
    addresses: tuple[str, ...]
    leased: tuple[str, ...]
    """Those of `addresses` that end some time, as leases do."""


class Complaint(NamedTuple):
    """Why the machine still waits."""

    text: str
    is_wrong: bool
    """Whether it has a lease, but another one; else none yet."""


def await_lease(
    addresses: Sequence[str],
    *,
    complain: Callable[[Complaint], None],
    cards: Callable[[], list[Card]] | None = None,
    run: Callable[[Sequence[str]], int],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Return once the machine has all `addresses`; whether it had to complain until then.

    A complaint is told again only if it changes.
    """
    look = cards or read_cards
    told, last_asked, started = "", clock(), clock()
    while addresses:
        found = look()
        if set(addresses) <= {address for card in found for address in card.addresses}:
            break
        now, complaint = clock(), judge(addresses, found)
        patience = WRONG_AFTER_S if complaint.is_wrong else LATE_AFTER_S
        if now - started >= patience and complaint.text != told:
            complain(complaint)
            told = complaint.text
        if complaint.is_wrong and told and now - last_asked >= ASK_AGAIN_S:
            last_asked = now
            # From the beginning: the server would only prolong what it once gave.
            run(["networkctl", "reconfigure", *(card.name for card in found if card.leased)])
        sleep(LOOK_S)
    return bool(told)


def judge(addresses: Sequence[str], found: Sequence[Card]) -> Complaint:
    """Say in a sentence what the machine has instead of its addresses."""
    wanted = " and ".join(addresses)
    given = [
        f"{address} ({card.name}, {card.mac})"
        for card in found
        for address in card.leased
        if address not in addresses
    ]
    if given:
        text = (
            f"DHCP gave {', '.join(given)}, but this node is declared as {wanted}: "
            "reserve that address for its MAC address"
        )
        return Complaint(text, is_wrong=True)
    links = ", ".join(f"{card.name} ({card.mac})" for card in found) or "no network card"
    return Complaint(f"DHCP has not given {wanted} yet; asked on {links}", is_wrong=False)


def read_cards() -> list[Card]:
    """Ask the kernel for the links of this machine and their addresses."""
    said = subprocess.run(
        ["ip", "-json", "address"], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return parse_cards(said.stdout)


def parse_cards(text: str | bytes) -> list[Card]:
    """Read what `ip -json address` says; loopback is no card."""
    cards = []
    for link in json.loads(text or "[]"):
        if link.get("link_type") == "loopback":
            continue
        here = [entry for entry in link.get("addr_info", []) if "local" in entry]
        cards.append(
            Card(
                link["ifname"],
                link.get("address", "?"),
                tuple(entry["local"] for entry in here),
                tuple(entry["local"] for entry in here if _is_leased(entry)),
            )
        )
    return cards


def _is_leased(entry: dict[str, Any]) -> bool:
    # Of IPv6, what a router announces ends some time, too.
    return entry.get("family") == "inet" and bool(entry.get("dynamic"))
