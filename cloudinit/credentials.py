# SPDX-License-Identifier: Apache-2.0
"""How do certificates and kubeconfigs become files on a node?"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

from cloudinit.nodepool import NodePool
from cloudinit.part import Context, NodeFile, from_template
from cloudinit.pki import KeyPair, LeafSpec

PKI_DIR = "/etc/kubernetes/pki"
CA_PATH = f"{PKI_DIR}/ca.crt"
# The kubelet's own name for its certificate and key: it writes and renews them.
KUBELET_CERTIFICATE = "/var/lib/kubelet/pki/kubelet-client-current.pem"
LOOPBACK = IPv4Address("127.0.0.1")
_PKI_KEYS = ("pki.algorithm", "pki.leaf_days")


def client_spec(
    context: Context,
    use: str,
    common_name: str,
    *,
    organization: str | None = None,
    ca: str = "kubernetes",
    serves_loopback: bool = False,
) -> LeafSpec:
    """Describe a certificate by which a component of this node shows who it is.

    With `serves_loopback` it also serves with it, on this machine only.
    """
    name = f"{context.node.name}/{use}"
    if not serves_loopback:
        return LeafSpec(name, ca, common_name, ("client",), organization)
    return LeafSpec(
        name, ca, common_name, ("client", "server"), organization, ("localhost",), (LOOPBACK,)
    )


def pair_files(
    pair: KeyPair,
    path: str,
    *,
    source: str,
    keys: tuple[str, ...] = (),
    owner: str = "root:root",
) -> tuple[NodeFile, NodeFile]:
    """Put a certificate at `path`.crt (0644) and its key at `path`.key (0600)."""
    return (
        NodeFile(f"{path}.crt", pair.certificate, source, (*_PKI_KEYS, *keys), 0o644, owner),
        NodeFile(f"{path}.key", pair.key.reveal(), source, (*_PKI_KEYS, *keys), 0o600, owner),
    )


def leaf_files(
    context: Context,
    spec: LeafSpec,
    path: str,
    *,
    keys: tuple[str, ...] = (),
    owner: str = "root:root",
) -> tuple[NodeFile, NodeFile]:
    """Issue (or find) a certificate and put it and its key on the node."""
    return pair_files(
        context.state.leaf(spec), path, source=f"state: leaf {spec.name}", keys=keys, owner=owner
    )


def identity(
    context: Context,
    use: str,
    common_name: str,
    *,
    organization: str | None = None,
    serves_loopback: bool = False,
    own_api: bool = False,
) -> tuple[NodeFile, ...]:
    """Give a component its certificate, its key, and the kubeconfig that names both files.

    With `own_api` it talks to the API server of its own machine only: when that is down, its
    namesake on another master takes over.

    Files instead of embedded data: base64 of base64 doesn't compress, and the payload is small.
    """
    spec = client_spec(
        context, use, common_name, organization=organization, serves_loopback=serves_loopback
    )
    path = f"{PKI_DIR}/{use}"
    server = context.own_api_url if own_api else context.api_url
    pair = {"client-certificate": f"{path}.crt", "client-key": f"{path}.key"}
    return (*leaf_files(context, spec, path), kubeconfig_file(context, use, pair, server=server))


def kubelet_pair(context: Context) -> tuple[str, str]:
    """Name the certificate and the key by which a machine is its node, from its first second.

    Of a declared node that is the rendered one: the kubelet's own file is there only once it has
    renewed that, after most of its life.
    """
    if isinstance(context.owner, NodePool):
        return KUBELET_CERTIFICATE, KUBELET_CERTIFICATE
    return f"{PKI_DIR}/kubelet.crt", f"{PKI_DIR}/kubelet.key"


def as_kubelet(context: Context, use: str) -> NodeFile:
    """Let a component be the kubelet of its machine, which may write its own Node alone.

    flannel by a name of its own would have to be let write the status of every Node: from any
    machine, the address at which another one is reached. And a certificate for all machines of a
    pool would be a secret that all share, and would end without anybody renewing it.
    """
    pair = dict(zip(("client-certificate", "client-key"), kubelet_pair(context), strict=True))
    return kubeconfig_file(context, use, pair, server=context.api_url)


def kubeconfig_file(
    context: Context, use: str, credential: Mapping[str, str], *, server: str
) -> NodeFile:
    """Write /etc/kubernetes/<use>.conf for a credential in files, named as kubeconfigs do."""
    view = {
        "ca": CA_PATH,
        "cluster": context.cluster.name,
        "credential": credential,
        "server": server,
        "user": use,
    }
    return from_template(
        f"/etc/kubernetes/{use}.conf",
        view,
        keys=("name", "api.port", "api.local_port"),
        template="/etc/kubernetes/kubeconfig",
    )
