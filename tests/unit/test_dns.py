# SPDX-License-Identifier: Apache-2.0
"""Whom do pods ask for names, and what becomes of names that the cluster doesn't know?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudinit.networkmodel import NODE_LOCAL_DNS
from cloudinit.part import NodeFile
from tests.support.clusters import render_example, render_files

COREFILE = "/etc/coredns/Corefile"
KUBELET = "/var/lib/kubelet/config.yaml"
UNIT = "/etc/systemd/system/node-local-dns.service"


def cluster_corefile(files: dict[str, NodeFile]) -> str:
    documents = yaml.safe_load_all(files["/etc/kubernetes/addons/coredns.yaml"].content)
    return str(next(d for d in documents if d["kind"] == "ConfigMap")["data"]["Corefile"])


def blocks(corefile: str) -> dict[str, str]:
    """Server blocks: zones → body."""
    found = re.findall(r"^(\S[^\n{#]*) \{\n(.*?)^\}", corefile, re.MULTILINE | re.DOTALL)
    return dict(found)


@pytest.mark.parametrize(
    ("nameservers", "zones"),
    [
        (["10.80.0.3", "10.80.0.4"], [".:53"]),
        ([], [".:53", "cluster.local:53 in-addr.arpa:53 ip6.arpa:53"]),
    ],
    ids=["forwarded", "air gap"],
)
def test_coredns_forwards_only_if_there_is_somebody_to_ask(
    tmp_path: Path, nameservers: list[str], zones: list[str]
) -> None:
    corefile = cluster_corefile(render_files(tmp_path, network={"nameservers": nameservers}))

    found = blocks(corefile)

    assert list(found) == zones
    assert ("forward . 10.80.0.3 10.80.0.4\n" in found[".:53"]) is bool(nameservers)
    assert ("rcode NXDOMAIN" in found[".:53"]) is not bool(nameservers)
    assert "kubernetes cluster.local in-addr.arpa ip6.arpa {" in found[zones[-1]]
    assert "{%" not in corefile and "{{" not in corefile


def test_pods_ask_the_clusters_dns_unless_a_cache_is_wanted(tmp_path: Path) -> None:
    files = render_files(tmp_path)

    assert yaml.safe_load(files[KUBELET].content)["clusterDNS"] == ["10.96.0.10"]
    assert not {COREFILE, UNIT} & set(files)


def test_with_a_cache_pods_ask_the_one_of_their_node_which_asks_the_rest(tmp_path: Path) -> None:
    network = {"dns_cache": True, "nameservers": ["10.80.0.3"], "domain": "k8s.example"}
    files = render_files(tmp_path, network=network)

    found = blocks(files[COREFILE].content.decode())

    assert yaml.safe_load(files[KUBELET].content)["clusterDNS"] == [str(NODE_LOCAL_DNS)]
    assert list(found) == ["k8s.example in-addr.arpa ip6.arpa", "."]
    own, others = found.values()
    assert "forward . 10.96.0.10 {\n        force_tcp\n" in own
    assert "forward . 10.80.0.3\n" in others
    assert all(
        f"bind {NODE_LOCAL_DNS}\n" in body and "serve_stale" in body for body in (own, others)
    )


def test_in_an_air_gap_the_cache_says_at_once_that_there_is_no_such_name(tmp_path: Path) -> None:
    files = render_files(tmp_path, network={"dns_cache": True})

    others = blocks(files[COREFILE].content.decode())["."]

    assert "rcode NXDOMAIN" in others and "forward" not in others


def test_the_cache_has_the_address_that_pods_are_told(tmp_path: Path) -> None:
    unit = render_files(tmp_path, network={"dns_cache": True})[UNIT].content.decode()

    assert f"ip address replace {NODE_LOCAL_DNS}/32 dev lo\n" in unit


def test_every_node_with_pods_has_the_cache_and_no_other_machine(tmp_path: Path) -> None:
    rendered: dict[str, Any] = render_example(tmp_path, "ha-external")

    having = {name for name, files in rendered.items() if UNIT in files}

    assert having == {name for name, files in rendered.items() if KUBELET in files}
    assert having < set(rendered)
