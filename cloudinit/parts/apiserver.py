# SPDX-License-Identifier: Apache-2.0
"""What does the API server need? (Part: certificates, policies, settings, unit.)"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from cloudinit import sizing
from cloudinit.credentials import PKI_DIR, client_spec, leaf_files
from cloudinit.families import IPAddress, joined
from cloudinit.model import Cluster, Node
from cloudinit.part import Context, NodeFile, Part, from_static, from_template, unit
from cloudinit.parts import etcd
from cloudinit.pki import LeafSpec

_ETC = "/etc/kubernetes"


def server_spec(context: Context) -> LeafSpec:
    """Name everything by which a client may reach the API (FAILURES 21)."""
    cluster, node = context.cluster, context.node
    names, own_addresses = names_and_addresses(context, [node])
    names.append("localhost")
    service = ("kubernetes", "default", "svc", *cluster.network.domain.split("."))
    names += [".".join(service[:count]) for count in (1, 2, 3)] + [".".join(service)]
    addresses: list[IPAddress] = [
        ip_address("127.0.0.1"),
        ip_address("::1"),
        *own_addresses,
        *cluster.network.service_ips,
        *cluster.api.vips,
    ]
    of_balancers = names_and_addresses(context, cluster.balancers)
    names += of_balancers[0]
    addresses += of_balancers[1]
    for extra in cluster.api.extra_sans:
        try:
            addresses.append(ip_address(extra))
        except ValueError:
            names.append(extra)
    return LeafSpec(
        name=f"{node.name}/apiserver",
        ca="kubernetes",
        common_name="kube-apiserver",
        usages=("server",),
        dns_names=tuple(dict.fromkeys(names)),
        addresses=tuple(dict.fromkeys(addresses)),
    )


def names_and_addresses(
    context: Context, nodes: Iterable[Node]
) -> tuple[list[str], list[IPAddress]]:
    """Give what machines are called and where they are, on their further cards, too."""
    names: list[str] = []
    addresses: list[IPAddress] = []
    for node in nodes:
        names += [node.name, f"{node.name}.{context.cluster.network.domain}"]
        addresses += node.addresses
        addresses += [address.ip for nic in node.nics for address in nic.addresses]
    return names, addresses


def render(context: Context) -> Part:
    """Give the API server with all its credentials."""
    return Part(
        files=(
            *_certificates(context),
            *policies(context),
            _environment(context),
            unit("kube-apiserver.service"),
        ),
        units=("kube-apiserver.service",),
    )


def _certificates(context: Context) -> tuple[NodeFile, ...]:
    state = context.state
    san_keys = (
        "nodes.name", "nodes.address", "nodes.role", "network.service_cidr", "network.domain",
        "api.extra_sans", "api.vip", "nodes.nics",
    )  # fmt: skip
    to_etcd = client_spec(context, "apiserver-etcd-client", "kube-apiserver-etcd-client", ca="etcd")
    to_kubelet = client_spec(context, "apiserver-kubelet-client", "kube-apiserver-kubelet-client")
    aggregation = client_spec(context, "front-proxy-client", "front-proxy-client", ca="front-proxy")
    ca_keys = ("pki.algorithm", "pki.ca_days")
    # A member of etcd brings its authority itself.
    of_etcd = () if context.node in context.cluster.etcd_members else (etcd.authority(context),)
    return (
        *of_etcd,
        *leaf_files(context, server_spec(context), f"{PKI_DIR}/apiserver", keys=san_keys),
        *leaf_files(context, to_etcd, f"{PKI_DIR}/apiserver-etcd-client"),
        *leaf_files(context, to_kubelet, f"{PKI_DIR}/apiserver-kubelet-client"),
        *leaf_files(context, aggregation, f"{PKI_DIR}/front-proxy-client"),
        NodeFile(
            f"{PKI_DIR}/front-proxy-ca.crt",
            state.authority("front-proxy").certificate,
            "state: authority front-proxy",
            ca_keys,
        ),
        NodeFile(
            f"{PKI_DIR}/sa.key",
            state.service_account_key().reveal(),
            "state: service-account key",
            ("pki.algorithm",),
            mode=0o600,
        ),
    )


def policies(context: Context) -> tuple[NodeFile, ...]:
    """Give what it admits, whom it knows, what it notes, and how it keeps secrets."""
    encryption = from_template(
        f"{_ETC}/encryption.yaml", {"key": context.state.encryption_key().reveal_text()}
    )
    return (
        from_static(f"{_ETC}/admission.yaml"),
        from_static(f"{_ETC}/audit-policy.yaml"),
        from_static(f"{_ETC}/authentication.yaml"),
        encryption,
    )


def _environment(context: Context) -> NodeFile:
    cluster = context.cluster
    return from_template(
        f"{_ETC}/kube-apiserver.env",
        {
            "bootstrap_tokens": str(bool(cluster.pools)).lower(),
            "domain": cluster.network.domain,
            "etcd_servers": ",".join(etcd.client_urls(context)),
            "node_ip": context.node.address,
            "port": cluster.api.port,
            "service_cidr": joined(cluster.network.service_cidrs),
            "size_flags": sizing.command_line(_flags(context)),
        },
        keys=(
            "api.port",
            "etcd.election_ms",
            "etcd.events",
            "nodes.address",
            "nodes.role",
            "network.service_cidr",
            "network.domain",
            "planned_nodes",
            "pools",
        ),
    )


def flags_of(cluster: Cluster) -> sizing.Flags:
    """Give what depends on the cluster's size, and on how patient its database is."""
    return {**sizing.apiserver_flags(cluster), **etcd.client_flags(cluster)}


def _flags(context: Context) -> sizing.Flags:
    flags = flags_of(context.cluster)
    if not sizing.has_events_apart(context.cluster):
        return flags
    urls = ";".join(etcd.client_urls(context, etcd.EVENTS))
    return {**flags, "etcd-servers-overrides": f"/events#{urls}"}
