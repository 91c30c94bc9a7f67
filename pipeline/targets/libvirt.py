# SPDX-License-Identifier: Apache-2.0
"""How does a node run as a QEMU machine of a libvirt daemon, here or elsewhere?

Everything goes over libvirt's connection. A machine is a domain `<cluster>-<node>` with our tags in
its metadata, defined last, and its volumes `kubekiln_<cluster>_<node>_…`, by whose names what was
half made is found.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.libvirt_checks import find_problems, host_of, refusals
from pipeline.targets.libvirt_connection import LOG_HINT, Connection, libvirt_module, none_if
from pipeline.targets.libvirt_domain import (
    KEY_DRIVE,
    SEED_DRIVE,
    Files,
    domain_xml,
    empty_drive_xml,
)
from pipeline.targets.libvirt_images import drop_image, find_image, image_volume, upload_image
from pipeline.targets.libvirt_machines import (
    CONSOLE,
    DISK,
    ETCD_DISK,
    KEY,
    SEED,
    change,
    drop_volumes,
    end,
    find_domain,
    find_made,
    half_made,
    instance_of,
    power_on,
    start_new,
    volume_prefix,
)
from pipeline.targets.libvirt_settings import Settings as Settings
from pipeline.targets.libvirt_volumes import (
    drop_volume,
    find_volume,
    make_disk,
    make_empty,
    make_layer,
    read_bytes,
    refresh,
    send_bytes,
    volume_names,
)
from pipeline.targets.platform import (
    Advance,
    DiskImage,
    FormatName,
    Instance,
    InstanceSpec,
    RemoteImage,
    TransientError,
)

_GIB = 1 << 30
_MACHINE_LOG = (
    "QEMU's own words are in {}.log on the daemon's host, below /var/log/libvirt/qemu or, of a "
    "session, ~/.cache/libvirt/qemu/log"
)


class LibvirtPlatform:
    """Machines of one daemon; disks, seeds and consoles in one of its storage pools."""

    type = "libvirt"
    format: FormatName = "qcow2"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._link = Connection(settings.uri)

    def problems(self) -> list[Problem]:
        """Say whether there is no daemon, no pool of files, or not one of the networks."""
        try:
            with self._link.asked("look at the daemon") as connection:
                return list(find_problems(connection, self._settings))
        except TransientError:
            raise
        except KubekilnError as error:
            return list(error.problems)

    def find_image(self, image: DiskImage) -> RemoteImage | None:
        """Look for an image that was read back whole."""
        with self._pool(f"look for {image.remote_name}") as (connection, pool):
            return find_image(connection, pool, image)

    def upload(self, image: DiskImage, advance: Advance) -> RemoteImage:
        """Send the image, going on where an earlier upload ended; then read it back.

        What was sent stays for the next attempt if that may get further, else it is removed.
        """
        try:
            with self._pool(f"upload {image.remote_name}") as (connection, pool):
                return upload_image(connection, pool, image, advance)
        except TransientError:
            raise
        except KubekilnError:
            with contextlib.suppress(KubekilnError), self._pool("clear up") as (_, pool):
                drop_volume(pool, image_volume(image))
            raise

    def delete_image(self, image: RemoteImage) -> None:
        """Remove an image on which no machine's disk is a layer."""
        with self._pool(f"remove {image.name}") as (_, pool):
            drop_image(pool, image.id)

    def refusals(self, specs: Sequence[InstanceSpec], image: DiskImage) -> list[Problem]:
        """Hold cards, addresses and disks against settings and image."""
        return [p for spec in specs for p in refusals(spec, image, self._settings)]

    def list_instances(self, cluster: str | None = None) -> Sequence[Instance]:
        """List the domains with our tags, and volumes of ours that have no domain."""
        with self._pool("list machines") as (connection, pool):
            refresh(pool)
            domains = [one for one in map(instance_of, connection.listAllDomains(0)) if one]
            made = {(one.cluster, one.node) for one in domains}
            halves = [one for one in half_made(pool) if (one.cluster, one.node) not in made]
        found = [one for one in (*domains, *halves) if cluster in (None, one.cluster)]
        return sorted(found, key=lambda one: (one.cluster, one.node, one.id))

    def create(self, spec: InstanceSpec, image: RemoteImage) -> Instance:
        """Make disk, seed and domain, in that order, and start it; or start the one that is there.

        A domain that can't be started at first is undefined again: its definition may be why.
        """
        hint = _MACHINE_LOG.format(spec.name)
        with self._pool(f"make {spec.name}", hint=hint) as (connection, pool):
            domain = find_made(connection, spec)
            if domain is None:
                domain = self._define(connection, pool, spec, image)
                start_new(domain)
            power_on(domain)
            made = instance_of(domain)
        if made is None:
            raise TransientError(f"{spec.name} went while it was made")
        return made

    def start(self, instance: Instance) -> None:
        """Start, resume or wake the domain."""
        hint = _MACHINE_LOG.format(instance.id)
        with self._link.asked(f"start {instance.id}", hint=hint) as connection:
            power_on(connection.lookupByName(instance.id))

    def read_console(self, instance: Instance) -> str | None:
        """Read the machine's console since it was last started."""
        first = volume_prefix(instance.cluster, instance.node) + CONSOLE
        with self._pool(f"read the console of {instance.id}", instance) as (connection, pool):
            names = sorted((n for n in volume_names(pool) if n.startswith(first)), reverse=True)
            volumes = [find_volume(pool, name) for name in names]
            parts = [read_bytes(connection, volume) for volume in volumes if volume]
        return b"".join(parts).decode(errors="replace")

    def forget_user_data(self, instance: Instance) -> None:
        """Take the seed, and the key to it, out of their drives, and remove them."""
        with self._pool(f"take the seed out of {instance.id}", instance) as (connection, pool):
            domain = find_domain(connection, instance.cluster, instance.node, instance.id)
            drives = (SEED_DRIVE, KEY_DRIVE) if "key_pool" in instance.extra else (SEED_DRIVE,)
            for drive in drives if domain is not None else ():
                change(domain, empty_drive_xml(drive))
            self._drop_key(connection, instance.cluster, instance.node, instance)
            drop_volume(pool, volume_prefix(instance.cluster, instance.node) + SEED)

    def delete(self, instance: Instance) -> None:
        """Remove the domain, with its firmware's variables, and then its volumes."""
        with self._pool(f"remove {instance.id}", instance) as (connection, pool):
            domain = find_domain(connection, instance.cluster, instance.node, instance.id)
            if domain is not None:
                end(domain)
            # A clone by hand has the same tags, under another name, and other volumes.
            if instance.id == f"{instance.cluster}-{instance.node}":
                self._drop_key(connection, instance.cluster, instance.node, instance)
                drop_volumes(pool, instance.cluster, instance.node)

    @contextlib.contextmanager
    def _pool(
        self, to: str, of: Instance | None = None, *, hint: str = LOG_HINT
    ) -> Iterator[tuple[Any, Any]]:
        name = of.extra.get("pool", self._settings.pool) if of else self._settings.pool
        with self._link.asked(to, hint=hint) as connection:
            yield connection, connection.storagePoolLookupByName(name)

    def _define(self, connection: Any, pool: Any, spec: InstanceSpec, image: RemoteImage) -> Any:
        base = find_volume(pool, image.id)
        if base is None:
            raise KubekilnError(
                f"{image.id} is not in storage pool {pool.name()} any more",
                hint="`kubekiln upload` brings it there",
            )
        self._drop_key(connection, spec.cluster, spec.node)
        drop_volumes(pool, spec.cluster, spec.node)
        prefix = volume_prefix(spec.cluster, spec.node)
        disk = make_layer(pool, prefix + DISK, on=base, size=spec.disk_gib * _GIB)
        seed = make_empty(pool, prefix + SEED)
        send_bytes(connection, seed, spec.seed_iso.read_bytes())
        console = make_empty(pool, prefix + CONSOLE)
        files = Files(disk.path(), seed.path(), console.path())
        if spec.etcd_disk_gib:
            second = make_disk(pool, prefix + ETCD_DISK, size=spec.etcd_disk_gib * _GIB)
            files = replace(files, etcd_disk=second.path())
        tags = {
            "cluster": spec.cluster, "node": spec.node, "payload": spec.payload,
            "image": image.name, "pool": pool.name(), "addresses": " ".join(spec.addresses),
        }  # fmt: skip
        if spec.key_dir:
            files = replace(files, key=self._send_key(connection, prefix, spec.key_dir))
            tags["key_pool"] = self._settings.pool_of_keys
        xml = domain_xml(spec, self._settings, files, host_of(connection, self._settings), tags)
        domain = connection.defineXMLFlags(xml, libvirt_module().VIR_DOMAIN_DEFINE_VALIDATE)
        if self._settings.autostart:
            domain.setAutostart(1)
        return domain

    def _send_key(self, connection: Any, prefix: str, key_dir: Path) -> str:
        """Put the CD with a machine's key into its pool: after what is in the other one, by which
        a half-made machine is found."""
        keys = connection.storagePoolLookupByName(self._settings.pool_of_keys)
        key = make_empty(keys, prefix + KEY)
        send_bytes(connection, key, (key_dir / "key.iso").read_bytes())
        return str(key.path())

    def _drop_key(
        self, connection: Any, cluster: str, node: str, of: Instance | None = None
    ) -> None:
        """Remove the CD with a machine's key; fine if it, or its pool, is gone."""
        name = (of.extra if of else {}).get("key_pool", self._settings.pool_of_keys)
        missing = ("VIR_ERR_NO_STORAGE_POOL",)
        keys = none_if(missing, lambda: connection.storagePoolLookupByName(name))
        if keys is not None:
            drop_volume(keys, volume_prefix(cluster, node) + KEY)


def connect(settings: Settings) -> LibvirtPlatform:
    """Make the platform of these settings."""
    return LibvirtPlatform(settings)
