# SPDX-License-Identifier: Apache-2.0
"""What does the database need? (Part: etcd on the node itself, reachable from the node only.)"""

from __future__ import annotations

from ipaddress import ip_address

from cloudinit.credentials import leaf_files
from cloudinit.part import Context, NodeFile, Part, from_template, unit
from cloudinit.pki import LeafSpec

PKI_DIR = "/etc/etcd/pki"
_OWNER = "etcd:etcd"
_MIB = 1 << 20


def render(context: Context) -> Part:
    """Give etcd, its certificate and its settings."""
    cluster, node = context.cluster, context.node
    authority = context.state.authority("etcd").certificate
    settings = from_template(
        "/etc/etcd/etcd.env",
        {
            "cluster": cluster.name,
            "name": node.name,
            "quota_bytes": cluster.etcd.quota_mib * _MIB,
        },
        keys=("name", "nodes.name", "etcd.quota_mib"),
        mode=0o644,
    )
    ca_keys, own_keys = ("pki.algorithm", "pki.ca_days"), ("nodes.name", "nodes.address")
    return Part(
        files=(
            NodeFile(f"{PKI_DIR}/ca.crt", authority, "state: authority etcd", ca_keys),
            *leaf_files(
                context, member_spec(context), f"{PKI_DIR}/etcd", keys=own_keys, owner=_OWNER
            ),
            settings,
            unit("etcd.service"),
        ),
        units=("etcd.service",),
    )


def member_spec(context: Context) -> LeafSpec:
    """Describe the member's certificate, one for both ends.

    Its clients and its peers are checked against the same authority, which signs for nothing else.
    """
    name = context.node.name
    return LeafSpec(
        name=f"{name}/etcd",
        ca="etcd",
        common_name=name,
        usages=("server", "client"),
        dns_names=(name, "localhost"),
        addresses=(ip_address("127.0.0.1"), ip_address("::1"), context.node.address),
    )
