# SPDX-License-Identifier: Apache-2.0
"""What goes to a platform: an image in its format, and each node of a cluster as a machine?"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudinit.datasource import exposure
from cloudinit.links import further_macs
from cloudinit.model import Cluster
from cloudinit.rendered import RenderedCluster
from kubekiln.channel import DatasourceName
from kubekiln.config import Source
from kubekiln.errors import ConfigError
from kubekiln.files import sha256_file
from kubekiln.operations.delivery import Delivery
from kubekiln.operations.prepare import Plan, key_dir_of, load, render
from kubekiln.paths import Project
from kubekiln.progress import say
from pipeline.bake import bake
from pipeline.disk.formats import as_format
from pipeline.targets.catalog import connect, load_settings
from pipeline.targets.platform import DiskImage, FormatName, Instance, InstanceSpec

_DIGEST_SHOWN = 16
# By which channel a platform gives user-data to machines; one that isn't here takes any.
_CHANNEL_OF: Mapping[str, DatasourceName] = {
    "aws": "ec2",
    "azure": "azure",
    "kubevirt": "nocloud",
    "libvirt": "nocloud",
    "openstack": "openstack",
    "proxmox": "nocloud",
    "vsphere": "vsphere",
}

# Platforms that give a machine its key to encrypted user-data, by another way than that.
_CARRY_KEYS = frozenset({"libvirt"})


@dataclass(frozen=True)
class PlatformDestination:
    """A platform of configs/targets, as the verbs ask for it."""

    delivery: Delivery

    @property
    def name(self) -> str:
        """Of the target."""
        return self.delivery.name

    def upload(self, cluster: str) -> str:
        """Bake the image, write it in the platform's format, and send it unless it is there."""
        return self.delivery.upload(self._image(self._plan(cluster))).id

    def boot(self, cluster: str, nodes: Collection[str] = ()) -> Sequence[Instance]:
        """Make the machines, with the image and their user-data."""
        plan = self._plan(cluster)
        image = self._image(plan)
        specs = specs_of(self.delivery.project, plan, image, nodes)
        self.delivery.check_nodes(specs, image)
        if note := exposure(plan.cluster):
            say(note)
        if note := self._left_to_do(plan.cluster):
            say(note)
        return self.delivery.boot(specs, self.delivery.upload(image))

    def instances(self, cluster: str | None = None) -> Sequence[Instance]:
        """Ask the platform."""
        return self.delivery.instances(cluster)

    def console(self, instance: Instance) -> str | None:
        """Ask the platform."""
        return self.delivery.console(instance)

    def forget(self, cluster: str, nodes: Collection[str] = ()) -> Sequence[str]:
        """Have the platform forget user-data."""
        return self.delivery.forget(cluster, nodes)

    def destroy(self, cluster: str, nodes: Collection[str] = ()) -> Sequence[str]:
        """Remove machines, also those whose making nobody heard of."""
        return self.delivery.destroy(cluster, nodes)

    def _left_to_do(self, cluster: Cluster) -> str | None:
        """Say what `boot` doesn't do for machines whose user-data is encrypted, if anything."""
        platform = self.delivery.platform.type
        if cluster.userdata.protect != "age" or platform in _CARRY_KEYS:
            return None
        keys = self.delivery.project.keys_dir / cluster.name
        return (
            f"note: {platform} doesn't carry the keys to the user-data. Attach {keys}/NODE/key.iso "
            "to each machine as a CD and start it again: until then it stays off (docs/secrets.md)"
        )

    def _plan(self, cluster: str) -> Plan:
        plan = plan_of(self.delivery.project, cluster, self.delivery)
        self.delivery.check()
        return plan

    def _image(self, plan: Plan) -> DiskImage:
        return image_in(self.delivery.project, plan, self.delivery.platform.format)


def delivery_to(project: Project, target: str) -> Delivery:
    """Open a target; it isn't asked for anything yet."""
    settings = load_settings(target, project)
    name = project.config_path("targets", target).stem
    return Delivery(name, connect(settings), project, settings.parallel)


def plan_of(project: Project, cluster: str, to: Delivery) -> Plan:
    """Read a cluster's configuration, with that of its image, for a target.

    Raises ConfigError if the cluster expects its user-data by another way than the target's.
    """
    plan, path = load(project, cluster), project.config_path("clusters", cluster)
    given = _CHANNEL_OF.get(to.platform.type, plan.cluster.datasource)
    refuse_channel(plan, path, given, who=f"target {to.name}")
    return plan


def refuse_channel(plan: Plan, path: Path, given: DatasourceName, *, who: str) -> None:
    """Raise ConfigError if a cluster expects its user-data by another way than it is given."""
    if given == plan.cluster.datasource:
        return
    source = Source(path)
    raise ConfigError(
        f"{who} attaches user-data as datasource {given}, the cluster has "
        f"{plan.cluster.datasource}",
        where=source.where(("datasource",) if source.has(("datasource",)) else ()),
        hint=f"write `datasource: {given}`, and an image that looks there",
    )


def image_in(project: Project, plan: Plan, wanted: FormatName) -> DiskImage:
    """Bake the cluster's image (from the cache), and write it in a platform's format."""
    baked = bake(plan.image, project=project, lock=plan.lock)
    return as_format(baked.manifest, wanted)


def specs_of(
    project: Project, plan: Plan, image: DiskImage, nodes: Collection[str] = ()
) -> list[InstanceSpec]:
    """Render the cluster, and describe each node (or those named) as a machine.

    Raises ConfigError for a name that is no node of it.
    """
    refuse_unknown(plan.cluster, nodes)
    rendered = render(project, plan)
    wanted = set(nodes) or {node.name for node in plan.cluster.nodes}
    return list(_specs(project, plan.cluster, rendered, image, wanted))


def refuse_unknown(cluster: Cluster, nodes: Collection[str]) -> None:
    """Raise ConfigError for a name that is no node of a cluster."""
    names = [node.name for node in cluster.nodes]
    unknown = sorted(set(nodes) - set(names))
    if unknown:
        raise ConfigError(
            f"{cluster.name} has no node {unknown[0]!r}", hint=f"there are: {', '.join(names)}"
        )


def _specs(
    project: Project,
    cluster: Cluster,
    rendered: RenderedCluster,
    image: DiskImage,
    wanted: Collection[str],
) -> Iterator[InstanceSpec]:
    seeds = {node.name: node for node in rendered.nodes}
    for node in cluster.nodes:
        if node.name not in wanted:
            continue
        seed = seeds[node.name]
        user_data_sha256 = sha256_file(seed.user_data)
        content = f"{image.digest} {user_data_sha256}"
        yield InstanceSpec(
            cluster=cluster.name,
            node=node.name,
            role=node.role,
            seed_dir=seed.directory,
            seed_iso=seed.seed_iso,
            payload=hashlib.sha256(content.encode()).hexdigest()[:_DIGEST_SHOWN],
            macs=(seed.mac, *further_macs(cluster, node)),
            addresses=tuple(str(interface.ip) for interface in cluster.interfaces_of(node)),
            cpus=node.cpus,
            memory_mib=node.memory_mib,
            disk_gib=node.disk_gib,
            etcd_disk_gib=cluster.etcd_disk_gib_of(node),
            key_dir=key_dir_of(project, cluster, node.name),
            user_data_sha256=user_data_sha256,
        )
