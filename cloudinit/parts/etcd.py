# SPDX-License-Identifier: Apache-2.0
"""What does the database need? (Part: etcd, a member of the cluster that rendering decides.)"""

from __future__ import annotations

from ipaddress import ip_address

from cloudinit.credentials import leaf_files
from cloudinit.families import IPAddress, in_url
from cloudinit.model import Node
from cloudinit.part import Context, NodeFile, Part, from_template, unit
from cloudinit.pki import LeafSpec

PKI_DIR = "/etc/etcd/pki"
_OWNER = "etcd:etcd"
_MIB = 1 << 20
_CLIENT_PORT = 2379
_PEER_PORT = 2380
_LOOPBACK = ip_address("127.0.0.1")


def render(context: Context) -> Part:
    """Give etcd, its certificate and its settings."""
    cluster, node = context.cluster, context.node
    settings = from_template(
        "/etc/etcd/etcd.env",
        {
            "address": in_url(_address(node)),
            "cluster": cluster.name,
            "listen": [
                f"https://{in_url(address)}:{_CLIENT_PORT}"
                for address in dict.fromkeys((_LOOPBACK, _address(node)))
            ],
            "members": ",".join(
                f"{member.name}=https://{in_url(_address(member))}:{_PEER_PORT}"
                for member in cluster.etcd_members
            ),
            "name": node.name,
            "quota_bytes": cluster.etcd.quota_mib * _MIB,
        },
        keys=("name", "nodes.name", "nodes.role", "nodes.address", "etcd.quota_mib"),
        mode=0o644,
    )
    own_keys = ("nodes.name", "nodes.address")
    return Part(
        files=(
            authority(context),
            *leaf_files(
                context, member_spec(context), f"{PKI_DIR}/etcd", keys=own_keys, owner=_OWNER
            ),
            settings,
            unit("etcd.service"),
        ),
        units=("etcd.service",),
    )


def authority(context: Context) -> NodeFile:
    """Give the certificate that both ends of a connection to the database are verified against."""
    certificate = context.state.authority("etcd").certificate
    keys = ("pki.algorithm", "pki.ca_days")
    return NodeFile(f"{PKI_DIR}/ca.crt", certificate, "state: authority etcd", keys)


def render_stacked(context: Context) -> Part:
    """Give etcd to a master, unless machines of their own have the database."""
    if context.node not in context.cluster.etcd_members:
        return Part(files=())
    return render(context)


def client_urls(context: Context) -> str:
    """Say where this node's API server finds the database: its own member if it has one.

    With that member gone the API server isn't ready, and its balancers take another master.
    """
    members = context.cluster.etcd_members
    if context.node in members:
        return f"https://{_LOOPBACK}:{_CLIENT_PORT}"
    return ",".join(f"https://{in_url(_address(member))}:{_CLIENT_PORT}" for member in members)


def _address(node: Node) -> IPAddress:
    """Only loopback for a single node: no other machine has a reason to talk to its database."""
    return _LOOPBACK if node.role == "single" else node.address


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
        addresses=(ip_address("127.0.0.1"), ip_address("::1"), *context.node.addresses),
    )
