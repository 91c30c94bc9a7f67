# SPDX-License-Identifier: Apache-2.0
"""What does the database need? (Part: etcd, a member of the cluster that rendering decides.)"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from ipaddress import ip_address

from cloudinit import sizing
from cloudinit.credentials import leaf_files
from cloudinit.etcdmodel import Etcd
from cloudinit.families import IPAddress, in_url
from cloudinit.model import Cluster, Node
from cloudinit.part import Context, NodeFile, Part, from_template, unit
from cloudinit.pki import LeafSpec

PKI_DIR = "/etc/etcd/pki"
_OWNER = "etcd:etcd"
MIB = 1 << 20
_LOOPBACK = ip_address("127.0.0.1")
_DEFAULTS = Etcd()
# The default of kube-apiserver's --etcd-readycheck-timeout, by which its /readyz answers.
_API_WAITS_S = 2


@dataclass(frozen=True)
class Database:
    """One of the databases that a member has: its unit's name and its ports."""

    name: str
    client_port: int
    peer_port: int
    metrics_port: int

    @property
    def unit(self) -> str:
        return f"{self.name}.service"


MAIN = Database("etcd", 2379, 2380, 2381)
EVENTS = Database("etcd-events", 2479, 2480, 2481)


def databases(cluster: Cluster) -> tuple[Database, ...]:
    """Give the databases that each member has."""
    return (MAIN, EVENTS) if sizing.has_events_apart(cluster) else (MAIN,)


def render(context: Context) -> Part:
    """Give etcd, once for each database, with its settings and one certificate for all."""
    own_keys = ("nodes.name", "nodes.address")
    wanted = databases(context.cluster)
    return Part(
        files=(
            authority(context),
            *leaf_files(
                context, member_spec(context), f"{PKI_DIR}/etcd", keys=own_keys, owner=_OWNER
            ),
            *(_settings(context, database) for database in wanted),
            *(unit(database.unit, template=MAIN.unit) for database in wanted),
        ),
        units=tuple(database.unit for database in wanted),
    )


def _settings(context: Context, database: Database) -> NodeFile:
    cluster, node = context.cluster, context.node
    is_main = database is MAIN
    quota_mib = sizing.etcd_quota_mib(cluster) if is_main else cluster.etcd.events_quota_mib
    view = {
        "address": in_url(_address(node)),
        "client_port": database.client_port,
        # The other database's writes are none that a disk of its own is for.
        "disk": _disk_uuid(context) if is_main and cluster.etcd.disk_gib else None,
        "disk_gib": cluster.etcd.disk_gib,
        "listen": [
            f"https://{in_url(address)}:{database.client_port}"
            for address in dict.fromkeys((_LOOPBACK, _address(node)))
        ],
        "members": ",".join(
            f"{member.name}=https://{in_url(_address(member))}:{database.peer_port}"
            for member in cluster.etcd_members
        ),
        "metrics_port": database.metrics_port,
        "name": node.name,
        "peer_port": database.peer_port,
        "quota_bytes": quota_mib * MIB,
        # Members of one database take none of another's into theirs.
        "token": cluster.name if is_main else f"{cluster.name}-events",
        "tuning": _tuning(cluster.etcd),
    }
    keys = ("name", "planned_nodes", "nodes.name", "nodes.role", "nodes.address", "etcd")
    path = f"/etc/etcd/{database.name}.env"
    return from_template(path, view, keys=keys, mode=0o644, template=f"/etc/etcd/{MAIN.name}.env")


def _disk_uuid(context: Context) -> uuid.UUID:
    """Name the file system of this member's disk: no other node's, nor that of another cluster with
    the same names (whose authority is another), is ever taken for it."""
    authority = hashlib.sha256(context.state.authority("etcd").certificate).hexdigest()
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{authority}/{context.node.name}")


def _tuning(settings: Etcd) -> dict[str, int]:
    """Give what differs from etcd's own times."""
    times = {
        "ETCD_ELECTION_TIMEOUT": (settings.election_ms, _DEFAULTS.election_ms),
        "ETCD_HEARTBEAT_INTERVAL": (settings.heartbeat_ms, _DEFAULTS.heartbeat_ms),
    }
    return {name: value for name, (value, default) in times.items() if value != default}


def answer_s(cluster: Cluster) -> int:
    """Give the seconds in which a member that works answers: twice the silence after which members
    elect another leader, and never less than the two that API servers wait by default."""
    return max(_API_WAITS_S, -(-2 * cluster.etcd.election_ms // 1000))


def client_flags(cluster: Cluster) -> sizing.Flags:
    """Give an API server's flags for how long it waits until it takes etcd, and so itself, for out
    of service; none for its own default."""
    seconds = answer_s(cluster)
    if seconds == _API_WAITS_S:
        return {}
    return {
        "etcd-healthcheck-timeout": f"{seconds}s",
        "etcd-readycheck-timeout": f"{seconds}s",
    }


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


def client_urls(context: Context, database: Database = MAIN) -> tuple[str, ...]:
    """Say where this node's API server finds a database: its own member if it has one.

    With that member gone the API server isn't ready, and its balancers take another master. For
    events any member will do: a master is ready without them, but does not start.
    """
    members = context.cluster.etcd_members
    if context.node in members and database is MAIN:
        return (f"https://{_LOOPBACK}:{database.client_port}",)
    return tuple(f"https://{in_url(_address(member))}:{database.client_port}" for member in members)


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
