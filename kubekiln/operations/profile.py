# SPDX-License-Identifier: Apache-2.0
"""How do `up`'s options become a cluster's config, and where is it found again?

One rule: the config of cluster NAME is `configs/clusters/NAME.yaml` if a person wrote one, else
`state/NAME.yaml`, the profile that `up NAME --nodes …` wrote. It lies beside the cluster's keys and
lives as long as they do: `down` and `make clean` leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pydantic
import yaml

from cloudinit.model import Cluster
from cloudinit.rules import findings, load_cluster
from kubekiln.errors import ConfigError, Problem
from kubekiln.files import locked, make_dir, write_atomic
from kubekiln.operations.clusters import known_clusters, machine_dirs
from kubekiln.operations.ranges import free_host_port, free_node_network
from kubekiln.paths import Project, is_path
from pipeline.model import load_image

DEFAULT = "solo"
DEFAULT_PROFILE = "local"
"""The cluster that is meant by options without a name."""
MAX_NODES = 200
_IMAGE = "debian-13"
_FIRST_MASTER, _FIRST_WORKER, _GATEWAY, _QEMU_NAMESERVER = 11, 21, 1, 3


@dataclass(frozen=True)
class Shape:
    """What a person asks of a cluster on the command line; None: nothing was said."""

    nodes: int | None = None
    cpus: int | None = None
    memory_mib: int | None = None
    disk_gib: int | None = None

    @property
    def is_given(self) -> bool:
        """Whether anything was said."""
        return self != Shape()

    def over(self, other: Shape) -> Shape:
        """Give this shape, with what it leaves open taken from the other."""
        mine = {f.name: getattr(self, f.name) for f in fields(self)}
        return Shape(**{k: getattr(other, k) if v is None else v for k, v in mine.items()})

    def machine(self) -> dict[str, int]:
        """Give what was said of each machine, as keys of a node."""
        named = {"cpus": self.cpus, "memory_mib": self.memory_mib, "disk_gib": self.disk_gib}
        return {key: value for key, value in named.items() if value is not None}


@dataclass(frozen=True)
class Profile:
    """A cluster's config as `up` takes it."""

    cluster: Cluster
    path: Path
    text: str | None
    """What is to be written to `path`; None if it is there already."""


def resolve(project: Project, name: str | None, shape: Shape) -> Profile:
    """Find or make the config of a cluster; writes nothing.

    Raises ConfigError if a person's config, or machines that are there, say something else.
    """
    name = name or (DEFAULT_PROFILE if shape.is_given else DEFAULT)
    path = project.profile_path(name)
    try:
        path = project.config_path("clusters", name)
    except ConfigError:
        if not shape.is_given or is_path(name):
            raise _unknown(project, name) from None
        return _made(project, name, shape, old=None)
    cluster = load_cluster(name, project)
    if path != project.profile_path(name):
        _refuse_contradiction(cluster, path, shape)
        return Profile(cluster, path, None)
    old = yaml.safe_load(path.read_text())
    wanted = shape.over(_shape_of(old))
    if wanted == _shape_of(old):
        return Profile(cluster, path, None)
    made = _made(project, name, wanted, old=old)
    if made.cluster != cluster:
        _refuse_change(project, cluster)
    return made


def find_or_make(project: Project, name: str | None, shape: Shape) -> Profile:
    """Find or make the config of a cluster, and write it if it is new or changes.

    Two at once choose networks and ports one after the other.
    """
    # First without the lock, and so without a trace if the options are wrong.
    profile = resolve(project, name, shape)
    if profile.text is None:
        return profile
    make_dir(project.state_dir, mode=0o700)
    with locked(project.state_dir / ".profiles.lock"):
        profile = resolve(project, name, shape)
        if profile.text is not None:
            write_atomic(profile.path, profile.text, mode=0o600)
    return profile


def rewrite(project: Project, path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a profile that is there; `change` is given what it is by then, to be changed."""
    with locked(project.state_dir / ".profiles.lock"):
        data = yaml.safe_load(path.read_text())
        change(data)
        write_atomic(path, _text(data), mode=0o600)


def _made(project: Project, name: str, shape: Shape, *, old: dict[str, Any] | None) -> Profile:
    data = dict(old) if old is not None else _new(project, name)
    network = IPv4Network(data["network"]["node_cidr"])
    data["nodes"] = _nodes(name, shape, network)
    return Profile(_checked(data), project.profile_path(name), _text(data))


def _new(project: Project, name: str) -> dict[str, Any]:
    others = [known for known in known_clusters(project) if known.name != name]
    clusters = [known.cluster for known in others if known.cluster is not None]
    network = free_node_network(project, clusters)
    return {
        "name": name,
        "kubernetes": load_image(_IMAGE, project).kubernetes,
        "image": _IMAGE,
        "network": {
            "node_cidr": str(network),
            "gateway": str(network[_GATEWAY]),
            "nameservers": [str(network[_QEMU_NAMESERVER])],
        },
        "api": {"host_port": free_host_port(project, clusters)},
    }


def _nodes(name: str, shape: Shape, network: IPv4Network) -> list[dict[str, Any]]:
    count, machine = shape.nodes or 1, shape.machine()
    if count == 1:
        first = {"name": f"{name}-1", "role": "single"}
        return [{**first, "address": str(network[_FIRST_MASTER]), **machine}]
    nodes = [(f"{name}-master-1", "master", network[_FIRST_MASTER])]
    nodes += [
        (f"{name}-worker-{number}", "worker", network[_FIRST_WORKER + number - 1])
        for number in range(1, count)
    ]
    return [{"name": n, "role": role, "address": str(a), **machine} for n, role, a in nodes]


def _checked(data: dict[str, Any]) -> Cluster:
    """Check what was made as a person's config would be: a name may be too long, say."""
    try:
        cluster = Cluster.model_validate(data)
    except pydantic.ValidationError as error:
        details = error.errors(include_url=False)[0]
        context = details.get("ctx", {})
        what = context.get("what", details["msg"])
        raise ConfigError(what, hint=context.get("hint") or None) from error
    found = [Problem(f.what, hint=f.hint) for f in findings(cluster)]
    if found:
        raise ConfigError.of(found)
    return cluster


def _text(data: Mapping[str, Any]) -> str:
    head = (
        "# yaml-language-server: $schema=../configs/schema/cluster.schema.json\n"
        "# Written by `kubekiln up` from its options. To make it yours, move it to\n"
        f"# configs/clusters/{data['name']}.yaml and edit it there.\n"
    )
    return head + yaml.safe_dump(dict(data), sort_keys=False)


def _shape_of(data: Mapping[str, Any]) -> Shape:
    first = data["nodes"][0]
    return Shape(
        len(data["nodes"]), first.get("cpus"), first.get("memory_mib"), first.get("disk_gib")
    )


def _refuse_contradiction(cluster: Cluster, path: Path, shape: Shape) -> None:
    said = {"nodes": {len(cluster.nodes)}}
    for key in ("cpus", "memory_mib", "disk_gib"):
        said[key] = {getattr(node, key) for node in cluster.nodes}
    problems = [
        Problem(
            f"{_option(key)} {wanted} is not what the config of {cluster.name} says: "
            f"{' and '.join(map(str, sorted(values)))}",
            where=str(path),
            hint="edit the config, or make a cluster of options alone: give a name that has no "
            f"config yet, for example `kubekiln up {DEFAULT_PROFILE} …`",
        )
        for key, values in said.items()
        if (wanted := getattr(shape, key)) is not None and values != {wanted}
    ]
    if problems:
        raise ConfigError.of(problems)


def _refuse_change(project: Project, cluster: Cluster) -> None:
    if machine_dirs(project, cluster.name):
        raise ConfigError(
            f"cluster {cluster.name} has machines already, which were made otherwise",
            where=str(project.machines_dir / cluster.name),
            hint=f"`kubekiln down {cluster.name}` first; without options they are used as they are",
        )


def _option(key: str) -> str:
    return f"--{key.partition('_')[0]}"


def _unknown(project: Project, name: str) -> ConfigError:
    if is_path(name):
        return ConfigError(f"no such file: {name}")
    there = ", ".join(project.config_names("clusters"))
    return ConfigError(
        f"no cluster named {name!r}",
        where=str(project.configs_dir / "clusters" / f"{name}.yaml"),
        hint=f"there are: {there}; `kubekiln up {name} --nodes 1` makes one of options",
    )
