# SPDX-License-Identifier: Apache-2.0
"""How does a node become a machine in Nova, and how does it go again?

In this order: the ports (one for each card, found by their description), then the server (found by
its metadata). Ports without a server are a machine that failed; so whatever a broken connection
left is found. A port takes one server only, and its MAC and address are refused to another: so
asking twice can't make two.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

from openstack.compute.v2.server import Server
from openstack.network.v2.port import Port

from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.openstack_client import Client, wait_until
from pipeline.targets.openstack_errors import asking, if_ready, if_there
from pipeline.targets.openstack_lookups import Lookups
from pipeline.targets.openstack_request import (
    choose_flavor,
    group_names,
    group_request,
    identity,
    is_ours,
    port_requests,
    read_tags,
    refusals,
    server_request,
)
from pipeline.targets.openstack_settings import Settings
from pipeline.targets.platform import DiskImage, Instance, InstanceSpec, InstanceState, RemoteImage

_PORTS = "ports:"
"""What the id of a machine begins with that has no server, only ports."""
# docs.openstack.org/api-guide/compute/server_concepts.html; what isn't here is on its way.
_STATES: Mapping[str, InstanceState] = {
    "ACTIVE": "running", "PASSWORD": "running", "MIGRATING": "running",
    "VERIFY_RESIZE": "running", "ERROR": "failed", "SHUTOFF": "stopped",
    "PAUSED": "stopped", "SUSPENDED": "stopped", "SHELVED": "stopped",
    "SHELVED_OFFLOADED": "stopped",
}  # fmt: skip
# Removed, kept for a while by the operator's choice (`reclaim_instance_interval`).
_GONE = frozenset({"DELETED", "SOFT_DELETED"})
_CONFLICT = 409


class Machines:
    """The machines of one project."""

    def __init__(self, client: Client, settings: Settings, lookups: Lookups) -> None:
        self._client = client
        self._settings = settings
        self._lookups = lookups
        self._group_lock = threading.Lock()

    def list(self, cluster: str | None = None) -> Sequence[Instance]:
        """List servers of ours, and ports of ours that have none."""
        with asking("list machines"):
            servers = [s for s in self._client.compute.servers() if is_ours(s.metadata or {})]
            # An administrator would see those of all projects.
            project = self._client.project_id
            ports = self._client.network.ports(project_id=project)
            tagged = [tags for tags in (read_tags(p.description or "") for p in ports) if tags]
        found = [_instance(server) for server in servers]
        have = {(one.cluster, one.node) for one in found}
        for tags in tagged:
            if identity(tags)[:2] not in have:
                found.append(_failed(tags))
                have.add(identity(tags)[:2])
        return [one for one in found if cluster in (None, one.cluster)]

    def refusals(self, spec: InstanceSpec, image: DiskImage) -> Iterable[Problem]:
        """Say what of a node this cloud can't have."""
        return refusals(spec, image, self._settings, self._lookups.flavors)

    def create(self, spec: InstanceSpec, image: RemoteImage) -> Instance:
        """Make ports and server, unless they are there, and wait until it runs."""
        flavor = choose_flavor(self._lookups.flavors, spec, self._settings)
        server = self._find(spec)
        if server is None:
            ports = self._make_ports(spec)
            wanted = server_request(
                spec, image, self._settings, flavor_id=flavor.id,
                port_ids=ports, group_id=self._make_group(spec),
            )  # fmt: skip
            with asking(f"make machine {spec.name}"):
                server = self._client.compute.create_server(**wanted)
        return self._wait_running(spec, str(server.id))

    def start(self, instance: Instance) -> None:
        """Power on, whatever way it was stopped; nothing is asked of a server that has a task."""
        compute = self._client.compute
        ways = {
            "SHUTOFF": compute.start_server, "PAUSED": compute.unpause_server,
            "SUSPENDED": compute.resume_server, "SHELVED": compute.unshelve_server,
            "SHELVED_OFFLOADED": compute.unshelve_server,
        }  # fmt: skip
        # A task that began after our look: Nova refuses the next one until it is done.
        with asking(f"start {instance.cluster}-{instance.node}", passing=(_CONFLICT,)):
            server = compute.get_server(instance.id)
            if server.task_state:
                return  # it is on its way; our own request, maybe, whose answer was lost
            status = str(server.status)
            if status == "ERROR":
                raise KubekilnError(
                    f"{instance.cluster}-{instance.node} is in state ERROR",
                    where=f"server {instance.id}",
                    hint=f"`openstack server reboot --hard {instance.id}`; `kubekiln destroy` it "
                    "if it is to be made anew",
                )
            if way := ways.get(status):
                way(instance.id)

    def read_console(self, instance: Instance) -> str | None:
        """Read what the hypervisor keeps of the serial console; nothing yet is no error."""
        if instance.id.startswith(_PORTS):
            return None
        with asking(f"read the console of {instance.cluster}-{instance.node}"):
            compute = self._client.compute
            answer = if_ready(lambda: compute.get_server_console_output(instance.id))
        return str((answer or {}).get("output") or "")

    def delete(self, instance: Instance) -> None:
        """Remove the server and wait until it is gone, then its ports and an empty group."""
        name = f"{instance.cluster}-{instance.node}"
        if not instance.id.startswith(_PORTS):
            with asking(f"remove machine {name}"):
                self._client.compute.delete_server(instance.id, ignore_missing=True)
            self._wait_gone(name, instance.id)
        with asking(f"remove the ports of {name}"):
            for port in self._ports(name, instance.cluster, instance.node):
                # One with another server on it is that one's, if there is that.
                if port.device_id in (None, "", instance.id) or self._is_gone(port.device_id):
                    self._client.network.delete_port(port.id, ignore_missing=True)
        self._remove_groups(instance.cluster)

    def _is_gone(self, server_id: str) -> bool:
        return if_there(lambda: self._client.compute.get_server(server_id)) is None

    def _find(self, spec: InstanceSpec) -> Server | None:
        with asking(f"look for machine {spec.name}"):
            # A regular expression to Nova; names of ours have nothing special in them.
            found = [
                server
                for server in self._client.compute.servers(name=f"^{spec.name}$")
                if is_ours(server.metadata or {})
                and identity(server.metadata)[:2] == (spec.cluster, spec.node)
            ]
        if found and identity(found[0].metadata)[2] != spec.payload:
            raise KubekilnError(
                f"{spec.name} is there, made of another image or user-data",
                where=f"server {found[0].id}",
                hint="destroy it first, if it is to be replaced",
            )
        return found[0] if found else None

    def _ports(self, name: str, cluster: str, node: str) -> Sequence[Port]:
        ports = self._client.network.ports(name=name, project_id=self._client.project_id)
        found = [(read_tags(port.description or ""), port) for port in ports]
        return [port for tags, port in found if tags and identity(tags)[:2] == (cluster, node)]

    def _make_ports(self, spec: InstanceSpec) -> Sequence[str]:
        networks = self._lookups.networks
        with asking(f"make the ports of {spec.name}"):
            there = {
                str(port.mac_address).lower(): str(port.id)
                for port in self._ports(spec.name, spec.cluster, spec.node)
            }
        ids = []
        for wanted in port_requests(spec, networks):
            port_id = there.get(wanted["mac_address"].lower())
            if port_id is None:
                with asking(f"make a port with {wanted['mac_address']} for {spec.name}"):
                    port_id = str(self._client.network.create_port(**wanted).id)
            ids.append(port_id)
        return ids

    def _make_group(self, spec: InstanceSpec) -> str | None:
        wanted = group_request(spec, self._settings)
        if wanted is None:
            return None
        with self._group_lock, asking(f"make server group {wanted['name']}"):
            for group in self._client.compute.server_groups():
                if group.name == wanted["name"]:
                    return str(group.id)
            return str(self._client.compute.create_server_group(**wanted).id)

    def _remove_groups(self, cluster: str) -> None:
        if self._settings.anti_affinity == "none":
            return
        names = group_names(cluster)
        with self._group_lock, asking(f"remove the server groups of {cluster}"):
            for group in self._client.compute.server_groups():
                if group.name in names and not group.member_ids:
                    self._client.compute.delete_server_group(group.id, ignore_missing=True)

    def _wait_running(self, spec: InstanceSpec, server_id: str) -> Instance:
        def look() -> Instance | None:
            now = _instance(self._client.compute.get_server(server_id))
            return now if now.state != "starting" else None

        timeout_s = self._settings.wait_s
        now = wait_until(look, what=f"ask for machine {spec.name}", timeout_s=timeout_s)
        if now is None:
            raise KubekilnError(
                f"{spec.name} doesn't run after {timeout_s} s",
                where=f"server {server_id}",
                hint="a larger wait_s gives the cloud more time; it goes on meanwhile",
            )
        if now.state == "failed":
            raise KubekilnError(
                f"{spec.name} could not be made: {now.detail}",
                where=f"server {server_id}",
                hint="`No valid host` means that no host has room for the flavor, or none that "
                "keeps machines apart (anti_affinity)",
            )
        return now

    def _wait_gone(self, name: str, server_id: str) -> None:
        def look() -> bool | None:
            server = if_there(lambda: self._client.compute.get_server(server_id))
            return True if server is None or server.status in _GONE else None

        timeout_s = self._settings.wait_s
        if not wait_until(look, what=f"ask for machine {name}", timeout_s=timeout_s):
            raise KubekilnError(
                f"{name} is still there after {timeout_s} s",
                where=f"server {server_id}",
                hint="if its task doesn't end, an operator can reset its state",
            )


def _instance(server: Server) -> Instance:
    cluster, node, payload = identity(server.metadata)
    status = str(server.status)
    fault = (server.fault or {}).get("message", "")
    networks = (server.addresses or {}).values()
    return Instance(
        id=str(server.id),
        cluster=cluster,
        node=node,
        payload=payload,
        state=_state(server),
        addresses=tuple(str(one["addr"]) for addresses in networks for one in addresses),
        detail=f"{status}: {fault}" if fault else status,
    )


def _state(server: Server) -> InstanceState:
    status = str(server.status)
    if status == "ERROR" and server.launched_at:
        # It ran once, and has disks: nothing to make anew unasked.
        return "stopped"
    return _STATES.get(status, "starting")


def _failed(tags: Mapping[str, str]) -> Instance:
    cluster, node, payload = identity(tags)
    return Instance(
        id=f"{_PORTS}{cluster}/{node}",
        cluster=cluster,
        node=node,
        payload=payload,
        state="failed",
        detail="ports without a server",
    )
