# SPDX-License-Identifier: Apache-2.0
"""What may a cluster's configuration say (configs/clusters/*.yaml)?

Rules that look at several fields at once are in `rules.py`.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from ipaddress import ip_interface

from pydantic import Field, model_validator

from cloudinit.electionmodel import LeaderElection
from cloudinit.etcdmodel import Etcd
from cloudinit.families import IPAddress, IPInterface
from cloudinit.modeltypes import (
    Addresses,
    AlgorithmName,
    AlternativeName,
    BootstrapName,
    Label,
    RoleName,
)
from cloudinit.networkmodel import NetworkConfig
from cloudinit.nic import InterfaceName, MacAddress, Nic, refuse_both
from cloudinit.nodepool import NodePool
from cloudinit.protectmodel import UserData
from cloudinit.statemodel import StateSettings
from kubekiln.channel import DatasourceName
from kubekiln.config import Model, Version, invalid


class Api(Model):
    """Where the API server is reached."""

    port: int = Field(default=6443, ge=1, le=65535)
    """TCP port on the nodes that serve the API."""
    host_port: int = Field(default=6443, ge=1024, le=65535)
    """TCP port on this host's loopback that a local target (qemu, nspawn) forwards to the API."""
    local_port: int = Field(default=7443, ge=1024, le=65535)
    """TCP port on each node's loopback where its balancer leads to a master that is ready."""
    vips: Addresses = Field(default=(), alias="vip")
    """Virtual address in `network.node_cidr` that a live master (or `lb` node) always has."""
    vrrp_id: int = Field(default=64, ge=1, le=255)
    """VRRP router ID of `vip`: another one for each such address of a network."""
    extra_sans: tuple[AlternativeName, ...] = ()
    """More names and addresses by which clients reach the API (balancers, public names); the first
    one is that of the kubeconfig for other machines. One may begin with `*.`, but not the first."""

    @model_validator(mode="after")
    def _has_a_name_to_be_reached_by(self) -> Api:
        if self.extra_sans and self.extra_sans[0].startswith("*"):
            raise invalid(
                f"{self.extra_sans[0]} is the first of extra_sans, by which others reach the API",
                hint="give a name without * before it",
                at=("extra_sans", 0),
            )
        return self


class Pki(Model):
    """Keys and certificates."""

    algorithm: AlgorithmName = "p256"
    """Kind of every key; RSA payloads are four times as large as those of P-256."""
    ca_days: int = Field(default=3650, ge=1, le=36500)
    """Life of the certificate authorities in days."""
    leaf_days: int = Field(default=365, ge=1, le=36500)
    """Life of the other certificates in days; one in its last third is renewed by rendering."""


class Kubelet(Model):
    """What the kubelet is told beyond what follows from the rest."""

    max_pods: int = Field(default=110, ge=1, le=1000)
    """Most pods on one node."""
    pod_pids_limit: int = Field(default=4096, ge=64)
    """Most processes in one pod (CIS 4.2.13)."""
    reserved_disk_mib: int = Field(default=1024, ge=1)
    """Free disk, in MiB, below which pods are evicted: absolute, as a share of a large shared
    disk would evict for no reason."""
    pods_on_masters: bool | None = None
    """Whether ordinary pods may run on masters; if not given, only where there is no worker."""
    reserved_memory_mib: int = Field(default=100, ge=1)
    """Free memory, in MiB, below which pods are evicted."""


class Node(Model):
    """One machine."""

    name: Label
    """Host name and Kubernetes node name."""
    role: RoleName
    """What runs on it. `single`: a whole cluster. `master`: the control plane, and etcd unless
    there are nodes of role `etcd`. `worker`: pods. `lb`: a balancer before the masters."""
    addresses: Addresses = Field(alias="address", min_length=1)
    """Its address in `network.node_cidr`, without prefix length; a list of two in dual stack."""
    mac: MacAddress | None = None
    """MAC address of its interface; made from cluster and node name if not given."""
    interface: InterfaceName | None = None
    """Name of its interface, by which it is then found instead of by `mac`. With wildcards (`en*`)
    it must fit one card only."""
    nics: tuple[Nic, ...] = ()
    """Further network cards, for storage or management; Kubernetes uses none of them."""
    cpus: int = Field(default=2, ge=1, le=512)
    """Virtual CPUs, where a target makes the machine."""
    memory_mib: int = Field(default=3072, ge=1024)
    """Memory in MiB, where a target makes the machine."""
    disk_gib: int = Field(default=20, ge=4)
    """Disk in GiB, where a target makes the machine; the image's root grows to it."""
    labels: dict[str, str] = {}
    """More labels of the Kubernetes node."""

    @model_validator(mode="after")
    def _is_found_in_one_way(self) -> Node:
        refuse_both(self.mac, self.interface)
        return self

    @property
    def address(self) -> IPAddress:
        """Its address of the primary family."""
        return self.addresses[0]

    @property
    def serves_api(self) -> bool:
        """Whether an API server runs on it."""
        return self.role in ("single", "master")

    @property
    def runs_pods(self) -> bool:
        """Whether it has a kubelet, and so is a node in Kubernetes' sense."""
        return self.role in ("single", "master", "worker")


class Cluster(Model):
    """A cluster: its networks, its nodes, and what it runs."""

    name: Label
    """Name of the cluster; the file's own name if not given."""
    kubernetes: Version = Field(examples=["1.37.1"])
    """Version of Kubernetes; the image's must be the same."""
    image: str = "debian-13"
    """Image that the nodes boot from: a name under configs/images, or a path."""
    bootstrap: BootstrapName = "systemd"
    """How the control plane comes to be: as units of systemd of which rendering decides all, or by
    `kubeadm init` and `join` as static pods (docs/kubeadm.md)."""
    datasource: DatasourceName = "nocloud"
    """Where the nodes get their user-data from: its size limit must hold, and `image` must look
    there."""
    userdata: UserData = UserData()
    """How user-data is kept from the platform, and from who reads what that keeps."""
    network: NetworkConfig
    """Networks."""
    api: Api = Api()
    """The API server's addresses."""
    pki: Pki = Pki()
    """Keys and certificates."""
    state: StateSettings = StateSettings()
    """The cluster's secrets on this host."""
    etcd: Etcd = Etcd()
    """The database."""
    leader_election: LeaderElection = LeaderElection()
    """Which of several masters' controller managers and schedulers works."""
    kubelet: Kubelet = Kubelet()
    """The node agent."""
    addons: tuple[str, ...] = ("coredns",)
    """What is applied to the cluster once its API answers: names under configs/addons, or paths."""
    versions: dict[str, Version] = {}
    """Other versions of add-ons' images than those that `image` carries, by component."""
    nodes: tuple[Node, ...] = Field(min_length=1)
    """The machines."""
    pools: tuple[NodePool, ...] = ()
    """Workers that aren't listed one by one: autoscaling groups, racks that boot by PXE."""
    planned_nodes: int | None = Field(default=None, ge=1, examples=[1000])
    """Nodes that the control plane is sized for, if there are to be more than `nodes` lists."""
    phone_home: str | None = Field(
        default=None, pattern=r"^https?://[^/\s]+\S*$", examples=["http://10.80.0.1:8099/boot"]
    )
    """URL to which each machine POSTs the phases of its boot (docs/boot.md)."""

    @cached_property
    def sized_for(self) -> int:
        """The number of nodes by which settings are chosen: those with a kubelet, or planned.

        Pools count with all that they may have.
        """
        listed = sum(node.runs_pods for node in self.nodes)
        in_pools = sum(pool.max_nodes for pool in self.pools)
        return max(listed + in_pools, self.planned_nodes or 0)

    @cached_property
    def masters(self) -> tuple[Node, ...]:
        """The nodes with an API server."""
        return tuple(node for node in self.nodes if node.serves_api)

    @cached_property
    def workers(self) -> tuple[Node, ...]:
        """The nodes that only run pods."""
        return tuple(node for node in self.nodes if node.role == "worker")

    @cached_property
    def payloads(self) -> tuple[Node | NodePool, ...]:
        """All that user-data is rendered for: each node, and each pool as one."""
        return (*self.nodes, *self.pools)

    @property
    def taints_masters(self) -> bool:
        """Whether ordinary pods are kept off the masters."""
        wanted = self.kubelet.pods_on_masters
        return bool(self.workers or self.pools) if wanted is None else not wanted

    @cached_property
    def balancers(self) -> tuple[Node, ...]:
        """The nodes that only lead to the masters."""
        return tuple(node for node in self.nodes if node.role == "lb")

    @cached_property
    def etcd_members(self) -> tuple[Node, ...]:
        """The nodes with the database: those of role `etcd`, or else the masters."""
        return tuple(node for node in self.nodes if node.role == "etcd") or self.masters

    def etcd_disk_gib_of(self, node: Node) -> int | None:
        """Give the size of the disk that the database has to itself on a node, if it has one."""
        return self.etcd.disk_gib if node in self.etcd_members else None

    @property
    def doors(self) -> tuple[Node, ...]:
        """The machines that serve the API to others: the balancers, or else the masters."""
        return self.balancers or self.masters

    @property
    def api_host(self) -> str:
        """Where other machines reach the API: the user's own name for it, the virtual address, a
        balancer, or else the first master."""
        if self.api.extra_sans:
            return self.api.extra_sans[0]
        return str((self.api.vips or self.doors[0].addresses)[0])

    def mac_of(self, node: Node) -> str:
        """Give a node's MAC address: its own, or one made from its name."""
        return node.mac.lower() if node.mac else self._made_mac(node.name)

    def mac_of_nic(self, node: Node, index: int) -> str:
        """Give the MAC address of a node's further card: its own, or one made from names."""
        given = node.nics[index].mac
        return given.lower() if given else self._made_mac(f"{node.name}/{index + 1}")

    def _made_mac(self, owner: str) -> str:
        digest = hashlib.sha256(f"{self.name}/{owner}".encode()).digest()
        # 52 marks it as locally administered. QEMU's 52:54:00 would leave 24 bits, of which every
        # second cluster of 5,000 nodes would have two alike.
        return "52:" + ":".join(f"{byte:02x}" for byte in digest[:5])

    def interfaces_of(self, node: Node) -> tuple[IPInterface, ...]:
        """Give a node's addresses with the prefix length of their network."""
        lengths = {network.version: network.prefixlen for network in self.network.node_cidrs}
        return tuple(ip_interface(f"{a}/{lengths[a.version]}") for a in node.addresses)
