# SPDX-License-Identifier: Apache-2.0
"""Who has the cluster's virtual address? (Part: keepalived, where the API is served to others.)"""

from __future__ import annotations

from cloudinit.families import of_family
from cloudinit.model import Cluster, Node
from cloudinit.nodepool import NodePool
from cloudinit.part import Context, Part, from_template, unit

UNIT = "keepalived.service"


def holders(cluster: Cluster) -> tuple[Node, ...]:
    """Give the machines that the address moves between."""
    return cluster.doors if cluster.api.vips else ()


def is_holder(cluster: Cluster, node: Node | NodePool) -> bool:
    """Tell whether a machine may have the virtual address."""
    return node in holders(cluster)


def render(context: Context) -> Part:
    """Give keepalived to a machine that may have the virtual address; nothing to others.

    Members know each other's addresses (unicast): many networks of clouds carry no multicast.
    """
    cluster, node = context.cluster, context.node
    if not is_holder(cluster, node):
        return Part(files=())
    others = [other for other in holders(cluster) if other != node]
    # VRRP speaks one family; an address of the other moves along with the first.
    family = cluster.api.vips[0].version
    view = {
        "address": of_family(node.addresses, family),
        "name": node.name,
        "peers": [of_family(other.addresses, family) for other in others],
        "priority": 200 - holders(cluster).index(node),
        "vips": [f"{vip}/{vip.max_prefixlen}" for vip in cluster.api.vips],
        "vrrp_id": cluster.api.vrrp_id,
    }
    keys = ("api.vip", "api.vrrp_id", "nodes.address", "nodes.role")
    settings = from_template("/etc/keepalived/keepalived.conf", view, keys=keys)
    return Part(files=(settings, unit(UNIT)), units=(UNIT,))
