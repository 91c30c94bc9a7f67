# SPDX-License-Identifier: Apache-2.0
"""How are add-ons switched on and off in a cluster that runs, and how is that remembered?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from cloudinit.addon import Addon, addon_view, load_addon
from cloudinit.model import Cluster
from cloudinit.rules import load_cluster
from cloudinit.versions import component_versions
from kubekiln.errors import ConfigError
from kubekiln.operations.clusters import config_named, machine_dirs, which_cluster
from kubekiln.operations.kubectl import Admin, admin_for
from kubekiln.operations.profile import DEFAULT, rewrite
from kubekiln.paths import Project, is_path
from kubekiln.process import run

_USAGE = "--on CLUSTER"
Switch = Callable[[list[str]], list[str]]
"""Gives the add-ons that are wanted, of those that are."""


@dataclass(frozen=True)
class Listed:
    """An add-on that there is."""

    name: str
    is_enabled: bool
    kinds: str


@dataclass(frozen=True)
class Switched:
    """An add-on that was switched on or off."""

    cluster: str
    was_running: bool
    said: str
    """What kubectl said."""
    to_write: str | None
    """What a person has to write into their own config; None if it was recorded."""
    config: Path


def list_addons(project: Project, cluster: str | None) -> tuple[str, list[Listed]]:
    """List the add-ons there are, and which of them a cluster's config has."""
    made, _ = _cluster(project, cluster)
    names = [p.stem for p in sorted((project.configs_dir / "addons").glob("*.yaml"))]
    names += [name for name in made.addons if name not in names]
    return made.name, [
        Listed(name, name in made.addons, _kinds(load_addon(name, project))) for name in names
    ]


def enable(project: Project, name: str, cluster: str | None) -> Switched:
    """Apply an add-on to the cluster if it runs, with its values, and record it."""
    made, config = _cluster(project, cluster)
    addon = load_addon(name, project)
    known = _known_as(addon, made, project)
    if known is None:
        _refuse_another(addon, made)
    text = addon.render(addon_view(made, component_versions(made, project)))
    said = _told(project, made, lambda admin: admin.apply(text.encode()))
    kept = known or _kept_name(name, addon)
    return _recorded(
        project, made, config, lambda there: there if kept in there else [*there, kept], said
    )


def disable(project: Project, name: str, cluster: str | None) -> Switched:
    """Delete an add-on's objects from the cluster if it runs, and record that it is off."""
    made, config = _cluster(project, cluster)
    addon = load_addon(name, project)
    known = _known_as(addon, made, project)
    if known is None:
        raise ConfigError(
            f"add-on {name} is not enabled in {made.name}",
            hint=f"enabled: {', '.join(made.addons) or 'none'}",
        )
    text = addon.render(addon_view(made, component_versions(made, project)))
    delete = ["delete", "--ignore-not-found", "--filename=-"]
    said = _told(project, made, lambda admin: run(admin.command(delete, stdin=text.encode())).text)
    return _recorded(project, made, config, lambda there: [a for a in there if a != known], said)


def _cluster(project: Project, cluster: str | None) -> tuple[Cluster, Path]:
    """Read the config of a cluster; gives also where it lies."""
    name = which_cluster(project, cluster, usage=_USAGE) or DEFAULT
    config = project.config_path("clusters", config_named(cluster, name))
    return load_cluster(str(config), project), config


def _kinds(addon: Addon) -> str:
    return ", ".join(dict.fromkeys(str(document["kind"]) for document in addon.documents))


def _kept_name(name: str, addon: Addon) -> str:
    """Name an add-on so that it is found from anywhere: a path is kept as an absolute one."""
    return str(addon.path.resolve()) if is_path(name) else name


def _known_as(addon: Addon, made: Cluster, project: Project) -> str | None:
    """Give the name by which a cluster's config has an add-on: there, a path may be relative."""
    path = addon.path.resolve()
    return next((n for n in made.addons if load_addon(n, project).path.resolve() == path), None)


def _refuse_another(addon: Addon, made: Cluster) -> None:
    """Raise ConfigError if an add-on of this name is enabled: a node has one file of it."""
    others = [n for n in made.addons if Path(n).stem == addon.name]
    if others:
        raise ConfigError(
            f"another add-on named {addon.name} is enabled in {made.name}: {others[0]}",
            where=str(addon.path),
            hint=f"`kubekiln addons disable {others[0]}` first, or give the file another name",
        )


def _told(project: Project, cluster: Cluster, tell: Callable[[Admin], str]) -> str | None:
    """Tell the cluster as its admin; None if it has no machines."""
    if not machine_dirs(project, cluster.name):
        return None
    return tell(admin_for(project, cluster, usage=_USAGE))


def _recorded(
    project: Project, cluster: Cluster, path: Path, switch: Switch, said: str | None
) -> Switched:
    to_write, before = None, list(cluster.addons)
    if (addons := switch(before)) != before:
        if path == project.profile_path(cluster.name):
            # Somebody else may have switched another one meanwhile.
            rewrite(
                project, path, lambda data: data.update(addons=switch(data.get("addons", before)))
            )
        else:
            to_write = yaml.safe_dump({"addons": addons}, default_flow_style=True, width=1000)
            to_write = to_write.strip().removeprefix("{").removesuffix("}")
    return Switched(cluster.name, said is not None, said or "", to_write, path)
