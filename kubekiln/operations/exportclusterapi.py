# SPDX-License-Identifier: Apache-2.0
"""How is a cluster given to Cluster API: which objects are its nodes and pools?

No bootstrap and no control-plane provider is asked: each Machine's bootstrap data is our user-data,
as a Secret. What only the site knows (flavors, networks, credentials) is added by the example
`kustomization.yaml`, which is written once.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from kubekiln.channel import DatasourceName
from kubekiln.operations.export import Shipment, check_sizes, payload, payloads_of
from kubekiln.operations.exportfiles import Output
from kubekiln.operations.prepare import load, render
from kubekiln.paths import Project
from kubekiln.yamltext import dump, dump_all
from pipeline.targets.platform import DiskImage, InstanceSpec

Object = Mapping[str, Any]

_CORE = "cluster.x-k8s.io"
_INFRASTRUCTURE = "infrastructure.cluster.x-k8s.io"
# https://cluster-api.sigs.k8s.io: v1beta2 since 1.11. Bootstrap data is in `value`, what it is in
# `format`; the type is what Cluster API's own bootstrap providers give theirs.
_VERSION = f"{_CORE}/v1beta2"
_SECRET_TYPE = f"{_CORE}/secret"
_CLUSTER_LABEL, _MASTER_LABEL = f"{_CORE}/cluster-name", f"{_CORE}/control-plane"
_HEADER = "# Written by `kubekiln export cluster-api`, anew each time.\n"
_SECRETS, _OBJECTS = "secrets.yaml", "machines.yaml"


@dataclass(frozen=True)
class Site:
    """What of the cluster's configuration Cluster API wants to know as well."""

    kubernetes: str
    api_host: str
    api_port: int
    masters: frozenset[str]
    """Names of the nodes with an API server."""
    kubeconfig: Path
    pools: Sequence[tuple[str, str, Path]] = ()
    """Names of pools, how their machines' names begin, and their user-data."""


def site_of(project: Project, cluster: str) -> Site:
    """Read what of a cluster its image and nodes don't say; renders it."""
    plan = load(project, cluster)
    rendered, known = render(project, plan), plan.cluster
    return Site(
        kubernetes=known.kubernetes,
        api_host=known.api_host,
        api_port=known.api.port,
        masters=frozenset(node.name for node in known.masters),
        kubeconfig=rendered.admin_kubeconfig,
        pools=tuple(
            (made.name, pool.name_prefix, made.user_data)
            for made, pool in zip(rendered.pools, known.pools, strict=True)
        ),
    )


@dataclass(frozen=True)
class Infrastructure:
    """An infrastructure provider: its kinds, and what we can say of a machine to it."""

    datasource: DatasourceName
    version: str
    prefix: str
    """Of its kinds: `<prefix>Cluster`, `<prefix>Machine`, `<prefix>MachineTemplate`."""
    cluster: Mapping[str, Any]
    machine: Callable[[InstanceSpec | None, DiskImage], Mapping[str, Any]]
    """The spec of a node's machine, or (None) of any machine of a pool."""
    is_packed: bool = False
    """Whether it is given gzip: where the provider passes on any bytes."""
    is_limited: bool = True
    """Whether the datasource's limit is that of this provider."""


def _openstack(node: InstanceSpec | None, image: DiskImage) -> Mapping[str, Any]:
    cards: list[dict[str, Any]] = [{"macAddress": mac} for mac in node.macs] if node else [{}]
    if node:
        cards[0]["fixedIPs"] = [{"ipAddress": address} for address in node.addresses]
    plain = {"image": {"filter": {"name": image.remote_name}}, "ports": cards, "configDrive": True}
    if not node or not node.etcd_disk_gib:
        return plain
    disk = {"name": "etcd", "sizeGiB": node.etcd_disk_gib, "storage": {"type": "Volume"}}
    return {**plain, "additionalBlockDevices": [disk]}


def _vsphere(node: InstanceSpec | None, image: DiskImage) -> Mapping[str, Any]:
    if node is None:
        card = {"networkName": "", "dhcp4": True}
        return {"template": image.remote_name, "network": {"devices": [card]}}
    # Addresses are the user-data's; the provider is to give none of its own.
    cards = [{"networkName": "", "macAddr": mac, "skipIPAllocation": True} for mac in node.macs]
    sizes = {"numCPUs": node.cpus, "memoryMiB": node.memory_mib, "diskGiB": node.disk_gib}
    disks = [{"name": "etcd", "sizeGiB": node.etcd_disk_gib}] if node.etcd_disk_gib else []
    more = {"dataDisks": disks} if disks else {}
    return {"template": image.remote_name, "network": {"devices": cards}, **sizes, **more}


def _metal3(node: InstanceSpec | None, image: DiskImage) -> Mapping[str, Any]:
    chosen = {"hostSelector": {"matchLabels": {"kubekiln-node": node.node}}} if node else {}
    about = {"url": f"http://images.example/{image.path.name}", "checksum": image.sha256,
             "checksumType": "sha256", "format": image.format}  # fmt: skip
    return {"image": about, **chosen}


PROVIDERS: Mapping[str, Infrastructure] = MappingProxyType(
    {
        # Ironic gives it on a config drive, which has room.
        "metal3": Infrastructure(
            "openstack", "v1beta1", "Metal3", {"cloudProviderEnabled": False}, _metal3,
            is_limited=False,
        ),
        "openstack": Infrastructure(
            "openstack", "v1beta1", "OpenStack",
            {"apiServerLoadBalancer": {"enabled": False}, "disableAPIServerFloatingIP": True,
             "disableExternalNetwork": True}, _openstack, is_packed=True,
        ),
        "vsphere": Infrastructure("vsphere", "v1beta1", "VSphere", {}, _vsphere),
    }
)  # fmt: skip


def write_cluster_api(output: Output, shipment: Shipment, site: Site, provider: str) -> None:
    """Write the objects and, once, an example kustomization that completes them."""
    output.check(_SECRETS, _OBJECTS)
    chosen = PROVIDERS[provider]
    plain = not chosen.is_packed
    payloads = payloads_of(shipment.nodes, plain=plain) | {
        pool: payload(user_data, plain=plain) for pool, _prefix, user_data in site.pools
    }
    if chosen.is_limited:
        check_sizes(payloads, chosen.datasource, plain=plain)
    secrets = list(_secrets(shipment, site, payloads))
    objects = [*_cluster(shipment, site, chosen), *_machines(shipment, site, chosen),
               *_pools(shipment, site, chosen)]  # fmt: skip
    output.write(_SECRETS, _dump(secrets), has_keys=True)
    output.write(_OBJECTS, _dump(objects))
    output.examples(f"cluster-api/{provider}")
    output.finish()


def _secrets(shipment: Shipment, site: Site, payloads: Mapping[str, bytes]) -> Iterable[Object]:
    for name, content in payloads.items():
        yield _secret(shipment, f"{shipment.cluster}-{name}", content)
    # By this one Cluster API looks for the nodes in the cluster.
    document = yaml.safe_load(site.kubeconfig.read_bytes())
    document["current-context"] = f"{shipment.cluster}-network"
    kubeconfig = dump(document).encode()
    yield _secret(shipment, f"{shipment.cluster}-kubeconfig", kubeconfig, kind=None)


def _secret(
    shipment: Shipment, name: str, value: bytes, *, kind: str | None = "cloud-config"
) -> Object:
    content = {"value": value, **({"format": kind.encode()} if kind else {})}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": {_CLUSTER_LABEL: shipment.cluster}},
        "type": _SECRET_TYPE,
        "data": {key: base64.b64encode(data).decode() for key, data in content.items()},
    }


def _cluster(shipment: Shipment, site: Site, chosen: Infrastructure) -> Iterable[Object]:
    endpoint = {"host": site.api_host, "port": site.api_port}
    about = {"name": shipment.cluster}
    reference = _reference(f"{chosen.prefix}Cluster", shipment.cluster)
    yield _object(_VERSION, "Cluster", about,
                  {"controlPlaneEndpoint": endpoint, "infrastructureRef": reference})  # fmt: skip
    yield _object(f"{_INFRASTRUCTURE}/{chosen.version}", f"{chosen.prefix}Cluster", about,
                  {"controlPlaneEndpoint": endpoint, **chosen.cluster})  # fmt: skip


def _machines(shipment: Shipment, site: Site, chosen: Infrastructure) -> Iterable[Object]:
    kind = f"{chosen.prefix}Machine"
    for node in shipment.nodes:
        labels = {_CLUSTER_LABEL: shipment.cluster, "kubekiln-node": node.node,
                  **({_MASTER_LABEL: ""} if node.node in site.masters else {})}  # fmt: skip
        about = {"name": node.name, "labels": labels}
        yield _object(_VERSION, "Machine", about, _machine(shipment, site, kind, node.name))
        yield _object(f"{_INFRASTRUCTURE}/{chosen.version}", kind, about,
                      chosen.machine(node, shipment.image))  # fmt: skip


def _pools(shipment: Shipment, site: Site, chosen: Infrastructure) -> Iterable[Object]:
    kind = f"{chosen.prefix}MachineTemplate"
    for pool, prefix, _user_data in site.pools:
        name = f"{shipment.cluster}-{pool}"
        labels = {_CLUSTER_LABEL: shipment.cluster, "kubekiln-pool": pool}
        about = {"name": name, "labels": labels}
        # None: how many there are is decided there, `kubectl scale machinedeployment`.
        spec = {"clusterName": shipment.cluster, "replicas": 0,
                # A pool takes in nobody whose name begins otherwise (docs/pools.md).
                "machineNaming": {"template": prefix + "{{ .random }}"},
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels},
                             "spec": _machine(shipment, site, kind, name)}}  # fmt: skip
        yield _object(_VERSION, "MachineDeployment", about, spec)
        yield _object(f"{_INFRASTRUCTURE}/{chosen.version}", kind, about,
                      {"template": {"spec": chosen.machine(None, shipment.image)}})  # fmt: skip


def _machine(shipment: Shipment, site: Site, kind: str, name: str) -> Object:
    return {
        "clusterName": shipment.cluster,
        "version": f"v{site.kubernetes}",
        "bootstrap": {"dataSecretName": name},
        "infrastructureRef": _reference(kind, name),
    }


def _reference(kind: str, name: str) -> Object:
    return {"apiGroup": _INFRASTRUCTURE, "kind": kind, "name": name}


def _object(version: str, kind: str, about: Object, spec: Object) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": about, "spec": spec}


def _dump(objects: Iterable[Object]) -> str:
    return _HEADER + dump_all(objects, default_flow_style=False, explicit_start=True)
