# SPDX-License-Identifier: Apache-2.0
"""Who answers the node's pods when they ask for names? (Part: NodeLocal DNSCache, if wanted.)

A unit, not upstream's DaemonSet: it runs before the first pod, and needs neither kubelet nor API.
It is CoreDNS itself, the program that the image has for its container.
"""

from __future__ import annotations

from cloudinit.networkmodel import NODE_LOCAL_DNS
from cloudinit.part import Context, Part, from_template, unit


def render(context: Context) -> Part:
    """Give the cache of this node; nothing unless the cluster wants one."""
    network = context.cluster.network
    if not network.dns_cache:
        return Part(files=())
    view = {
        "address": NODE_LOCAL_DNS,
        "dns_ips": " ".join(str(address) for address in network.cluster_dns),
        "domain": network.domain,
        "nameservers": " ".join(str(address) for address in network.nameservers),
    }
    keys = ("network.dns_cache", "network.dns_ip", "network.domain", "network.nameservers")
    # The unit's user is made when it starts.
    corefile = from_template("/etc/coredns/Corefile", view, keys=keys, mode=0o644)
    name = "node-local-dns.service"
    return Part(files=(corefile, unit(name)), units=(name,))
