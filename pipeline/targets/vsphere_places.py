# SPDX-License-Identifier: Apache-2.0
"""Where in a vCenter's inventory do images and machines go?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pyVmomi import vim

from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.vsphere_session import Session

if TYPE_CHECKING:
    from pipeline.targets.vsphere import Settings

Thing = TypeVar("Thing", bound=vim.ManagedEntity)
Backing = vim.vm.device.VirtualDevice.BackingInfo


@dataclass(frozen=True)
class Home:
    """Where a target's machines are; all that must be there for them to be removed."""

    datacenter: vim.Datacenter
    folder: vim.Folder
    cluster: vim.ClusterComputeResource | None


@dataclass(frozen=True)
class Places(Home):
    """What a target's file names, as the vCenter knows it."""

    pool: vim.ResourcePool
    template_folder: vim.Folder
    datastore: vim.Datastore
    networks: tuple[vim.Network, ...]

    def backings(self) -> list[Backing]:
        """Say how a network card is plugged into each of the networks."""
        return [backing_of(network) for network in self.networks]


def find_places(session: Session, settings: Settings) -> Places:
    """Look up all that the settings name; raises KubekilnError with all that isn't there."""
    search = _Search(session)
    at = f"/{settings.datacenter}"
    datacenter = search.find(at, vim.Datacenter, "datacenter")
    if datacenter is None:
        raise KubekilnError.of(search.problems)
    resource = search.find(f"{at}/host/{settings.cluster}", vim.ComputeResource, "cluster")
    inside = f"{at}/host/{settings.cluster}/Resources/{settings.resource_pool}".rstrip("/")
    pool = search.find(inside, vim.ResourcePool, "resource_pool") if resource else None
    folder = search.find(f"{at}/vm/{settings.folder}", vim.Folder, "folder")
    templates = search.find(
        f"{at}/vm/{settings.folder_of_templates}", vim.Folder, "template_folder"
    )
    datastore = search.find(f"{at}/datastore/{settings.datastore}", vim.Datastore, "datastore")
    networks = [
        search.find(f"{at}/network/{name}", vim.Network, f"networks[{index}]")
        for index, name in enumerate(settings.networks)
    ]
    if search.problems:
        raise KubekilnError.of(search.problems)
    assert pool and folder and templates and datastore
    return Places(
        datacenter, folder, resource if isinstance(resource, vim.ClusterComputeResource) else None,
        pool, templates, datastore, tuple(network for network in networks if network),
    )  # fmt: skip


def find_home(session: Session, settings: Settings) -> Home:
    """Look up what machines are removed from; a cluster that is gone has no rules any more.

    Raises KubekilnError if datacenter or folder aren't there.
    """
    search = _Search(session)
    at = f"/{settings.datacenter}"
    datacenter = search.find(at, vim.Datacenter, "datacenter")
    folder = search.find(f"{at}/vm/{settings.folder}", vim.Folder, "folder")
    if datacenter is None or folder is None:
        raise KubekilnError.of(search.problems)
    path = f"{at}/host/{settings.cluster}"
    return Home(datacenter, folder, search.find(path, vim.ClusterComputeResource, "cluster"))


def pick_host(session: Session, places: Places) -> vim.HostSystem | None:
    """Choose the host with the fewest machines, where DRS doesn't choose; None where it does.

    Raises KubekilnError if no host of the cluster is in service and reaches the datastore.
    """
    if places.cluster is None or _has_drs(session, places.cluster):
        return None
    wanted = ["runtime.connectionState", "runtime.inMaintenanceMode", "datastore", "vm"]
    hosts = [(host, session.properties(host, wanted)) for host in places.cluster.host]
    usable = [
        (len(about.get("vm", ())), host)
        for host, about in hosts
        if about["runtime.connectionState"] == vim.HostSystem.ConnectionState.connected
        and not about["runtime.inMaintenanceMode"]
        and places.datastore in about.get("datastore", ())
    ]
    if not usable:
        raise KubekilnError(
            f"{places.cluster.name} has no host in service that reaches {places.datastore.name}",
            where=session.access.host,
            hint="end a host's maintenance mode, or name another datastore",
        )
    return min(usable, key=lambda counted: counted[0])[1]


def _has_drs(session: Session, cluster: vim.ClusterComputeResource) -> bool:
    config = session.properties(cluster, ["configurationEx"]).get("configurationEx")
    drs = config.drsConfig if isinstance(config, vim.cluster.ConfigInfoEx) else None
    return bool(drs and drs.enabled)


def find_folder(session: Session, settings: Settings, name: str) -> vim.Folder:
    """Look up one of the folders alone; raises KubekilnError if it isn't there."""
    search = _Search(session)
    folder = search.find(f"/{settings.datacenter}/vm/{name}", vim.Folder, "folder")
    if folder is None:
        raise KubekilnError.of(search.problems)
    return folder


class _Search:
    """Finds by inventory path, and keeps what it doesn't find."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.problems: list[Problem] = []

    def find(self, path: str, kind: type[Thing], key: str) -> Thing | None:
        """Find a thing of a kind; None, and a problem, if there is none."""
        path = path.rstrip("/")
        found = self._session.search.FindByInventoryPath(path.lstrip("/"))
        if isinstance(found, kind):
            return found
        what = f"{self._session.access.host} has no {kind.__name__.rpartition('.')[2]} {path}"
        parent = path.rpartition("/")[0] or "/"
        self.problems.append(Problem(what, key, f"`govc ls -l {parent}` shows what is there"))
        return None


def backing_of(network: vim.Network) -> Backing:
    """Say how a network card is plugged into a port group, a switch's own network or NSX's."""
    if isinstance(network, vim.dvs.DistributedVirtualPortgroup):
        switch = network.config.distributedVirtualSwitch
        assert switch is not None
        return vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(
            port=vim.dvs.PortConnection(portgroupKey=network.key, switchUuid=switch.uuid)
        )
    if isinstance(network, vim.OpaqueNetwork):
        summary = network.summary
        assert isinstance(summary, vim.OpaqueNetwork.Summary)
        return vim.vm.device.VirtualEthernetCard.OpaqueNetworkBackingInfo(
            opaqueNetworkId=summary.opaqueNetworkId, opaqueNetworkType=summary.opaqueNetworkType
        )
    return vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(
        deviceName=network.name, network=network
    )
