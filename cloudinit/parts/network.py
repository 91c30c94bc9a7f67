# SPDX-License-Identifier: Apache-2.0
"""How does a node find its network, at every boot? (Part: its links, for systemd-networkd.)

cloud-init makes files of network-config, too, which also name each card. Another slot or another
kernel gives another name; these files come first and hold the declared rule alone, and what
network-config can't say: that a lease is the MAC address's, that a VLAN is to be made.
"""

from __future__ import annotations

from cloudinit.links import Link, links_of
from cloudinit.nic import DEFAULT_ROUTES
from cloudinit.part import Context, NodeFile, Part, from_template

_DIR = "/etc/systemd/network"


def render(context: Context) -> Part:
    """Give networkd's own configuration."""
    return Part(network_files(links_of(context.cluster, context.node)))


def network_files(links: tuple[Link, ...]) -> tuple[NodeFile, ...]:
    """Write links as networkd's files; it reads them as a user of its own, hence the mode."""
    files, cards = [], 0
    for link in links:
        if link.vlan is None:
            label, cards = f"-nic{cards}" if cards else "", cards + 1
        else:
            label = f"-{link.name}"
        # networkd takes the first file that fits. What is found exactly comes first, and a VLAN,
        # which has its card's MAC address, before its card ('-' sorts before '.').
        path = f"{_DIR}/{'06' if link.fits_several else '05'}-kubekiln{label}"
        if link.vlan is not None:
            view = {"id": link.vlan, "name": link.name}
            files.append(_file(f"{path}.netdev", view, link.keys))
        files.append(_file(f"{path}.network", _view(link), link.keys))
    return tuple(files)


def _view(link: Link) -> dict[str, object]:
    gateways = [via for to, via in link.routes if to in DEFAULT_ROUTES.values()]
    return {
        "addresses": link.addresses,
        "gateways": gateways,
        "leased": link.leased,
        "leads_out": link.leads_out,
        # Neighbours find each other by it in IPv6.
        "link_local": "ipv6" if any(":" in address for address in link.addresses) else "no",
        "macs": [link.mac] if link.mac else [],
        "mtus": [link.mtu] if link.mtu is not None else [],
        "name": link.name,
        "nameservers": link.nameservers,
        "ntp_servers": link.ntp_servers,
        "optional": link.optional,
        "routes": [(to, via) for to, via in link.routes if to not in DEFAULT_ROUTES.values()],
        "vlans": link.vlans,
    }


def _file(path: str, view: dict[str, object], keys: tuple[str, ...]) -> NodeFile:
    template = f"{_DIR}/05-kubekiln.{path.rpartition('.')[2]}"
    return from_template(path, view, keys=keys, mode=0o644, template=template)
