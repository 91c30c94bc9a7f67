# SPDX-License-Identifier: Apache-2.0
"""Is each form of a node network still written as it was? (`make golden` rewrites)

Below `networks/<form>/` lies what the form changes: network-config and networkd's files.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cloudinit.links import Link, links_of
from cloudinit.networkconfig import dump_links
from cloudinit.parts.network import network_files
from cloudinit.rules import findings
from tests.support.clusters import make_cluster

HERE = Path(__file__).parent / "networks"
STORAGE = {
    "mac": "52:54:00:00:90:11",
    "address": "10.90.0.11/24",
    "mtu": 9000,
    "routes": [{"to": "10.91.0.0/16", "via": "10.90.0.1"}],
}
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dhcp": ({"addressing": "dhcp"}, {}),
    "by-name": ({"nameservers": ["10.80.0.3"]}, {"interface": "ens3"}),
    "by-pattern": ({"addressing": "dhcp", "mtu": 9000}, {"interface": "en*"}),
    "vlan": ({"vlan": 120, "mtu": 9000, "nameservers": ["10.80.0.3"]}, {}),
    "vlan-dhcp": ({"vlan": 120, "addressing": "dhcp"}, {"interface": "ens3"}),
    "second-card": ({}, {"nics": [STORAGE, {"interface": "ens5", "dhcp": True}]}),
    "second-card-ipv6": (
        {},
        {
            "nics": [
                {
                    "mac": "52:54:00:00:90:11",
                    "address": ["fd00:90::11/64", "10.90.0.11/24"],
                    "routes": [
                        {"to": "default", "via": "fd00:90::1"},
                        {"to": "10.91.0.0/16", "via": "10.90.0.1"},
                    ],
                }
            ]
        },
    ),
    "trunk": (
        {"vlan": 120},
        {"nics": [{"vlan": 130, "address": "10.90.0.11/24"}, {"vlan": 140, "dhcp": True}]},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_written_as_it_was(form: str, golden_update: bool) -> None:
    written, golden = write(form), HERE / form
    if golden_update:
        shutil.rmtree(golden, ignore_errors=True)
        golden.mkdir(parents=True)
        for name, text in written.items():
            (golden / name).write_text(text)
        pytest.fail(f"rewrote {len(written)} files below {golden.name}: look at the difference")

    assert written == {path.name: path.read_text() for path in golden.iterdir()}


def write(form: str) -> dict[str, str]:
    links, config = described(form)
    files = {f.path.rpartition("/")[2]: f.content.decode() for f in network_files(links)}
    return {"network-config": config.decode(), **files}


def described(form: str) -> tuple[tuple[Link, ...], bytes]:
    """Give a form's links and its network-config."""
    network, node = FORMS[form]
    one = {"name": "lab-1", "role": "single", "address": "10.80.0.11", **node}
    cluster = make_cluster(network=network, nodes=[one])
    assert findings(cluster) == []
    links = links_of(cluster, cluster.nodes[0])
    return links, dump_links(links)
