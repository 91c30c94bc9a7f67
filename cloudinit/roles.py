# SPDX-License-Identifier: Apache-2.0
"""What does a node of each role consist of? (THE table: bootstrap, role → ordered parts.)"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from cloudinit.modeltypes import BootstrapName, RoleName
from cloudinit.part import Context, NodeFile, Part, PartFunction
from cloudinit.parts import (
    addons,
    admin,
    apiserver,
    approver,
    authorities,
    balancer,
    bootstrap,
    controllers,
    dnscache,
    etcd,
    flannel,
    joining,
    kubeadm,
    kubelet,
    metadata,
    network,
    pools,
    proxy,
    trust,
    vip,
)

Roles = dict[RoleName | Literal["pool"], tuple[PartFunction, ...]]

# The same in every way: nothing of Kubernetes runs on it.
_LB: tuple[PartFunction, ...] = (
    network.render,
    trust.render,
    balancer.render_public,
    vip.render,
)

# Everything is decided here, and runs as units.
_SYSTEMD: Roles = {
    # A whole cluster on one machine.
    "single": (
        network.render,
        trust.render,
        etcd.render,
        apiserver.render,
        controllers.render,
        kubelet.render,
        proxy.render,
        flannel.render,
        metadata.render,
        dnscache.render,
        bootstrap.render,
        addons.render,
        approver.render,
        admin.render,
    ),
    "master": (
        network.render,
        trust.render,
        etcd.render_stacked,
        apiserver.render,
        controllers.render,
        balancer.render,
        vip.render,
        kubelet.render,
        proxy.render,
        flannel.render,
        metadata.render,
        dnscache.render,
        bootstrap.render,
        pools.render,
        addons.render,
        approver.render,
        admin.render,
    ),
    "etcd": (
        network.render,
        etcd.render,
    ),
    "worker": (
        network.render,
        trust.render,
        balancer.render,
        kubelet.render,
        proxy.render,
        flannel.render,
        metadata.render,
        dnscache.render,
    ),
    # Any machine of a pool: it has no name and no address yet, and no network but the platform's.
    "pool": (
        trust.render,
        balancer.render,
        joining.render,
        kubelet.render_in_pool,
        proxy.render_in_pool,
        flannel.render_in_pool,
        metadata.render,
        dnscache.render,
    ),
    "lb": _LB,
}

# kubeadm makes the control plane, of authorities that are decided here; pods' network, services'
# addresses and the way to the API are as above.
_KUBEADM: Roles = {
    "single": (
        network.render,
        trust.render,
        authorities.render,
        kubeadm.render_single,
        proxy.render,
        flannel.render,
        metadata.render,
        dnscache.render,
        bootstrap.render,
        addons.render,
        approver.render,
    ),
    "master": (
        network.render,
        trust.render,
        authorities.render,
        balancer.render,
        vip.render,
        kubeadm.render_master,
        proxy.render,
        flannel.render,
        metadata.render,
        dnscache.render,
        bootstrap.render,
        addons.render,
        approver.render,
    ),
    "worker": (
        network.render,
        trust.render,
        balancer.render,
        kubeadm.render_worker,
        proxy.render,
        flannel.render,
        metadata.render,
        dnscache.render,
    ),
    "lb": _LB,
}

ROLES: dict[BootstrapName, Roles] = {"systemd": _SYSTEMD, "kubeadm": _KUBEADM}


def compose(context: Context) -> Part:
    """Join the parts of the node's role; each file knows its part, no path is written twice."""
    files: dict[str, NodeFile] = {}
    units: list[str] = []
    for function in ROLES[context.cluster.bootstrap][context.owner.role]:
        part = function(context)
        name = function.__module__.rpartition(".")[2]
        for file in part.files:
            if file.path in files:
                raise AssertionError(f"parts {files[file.path].part} and {name} give {file.path}")
            files[file.path] = replace(file, part=name)
        units += part.units
    return Part(tuple(files.values()), tuple(units))
