# SPDX-License-Identifier: Apache-2.0
"""Which rules does a cluster's configuration have to keep that look at several fields?

Each rule is a function that gives its findings; all rules run, so all findings come at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cloudinit.bootstraprules import BOOTSTRAP_RULES
from cloudinit.datasource import DATASOURCE_RULES
from cloudinit.etcdrules import ETCD_RULES
from cloudinit.finding import Finding, Rule
from cloudinit.flannelbackends import FLANNEL_RULES
from cloudinit.labels import LABEL_RULES
from cloudinit.model import Cluster
from cloudinit.namerules import NAME_RULES
from cloudinit.networkrules import NETWORK_RULES
from cloudinit.nicrules import NIC_RULES
from cloudinit.poolrules import POOL_RULES
from cloudinit.portrules import PORT_RULES
from cloudinit.protectrules import PROTECT_RULES
from kubekiln.config import Source, load_model
from kubekiln.contract import KubernetesContract
from kubekiln.errors import ConfigError, Problem
from kubekiln.paths import Project


def a_single_node_is_alone(cluster: Cluster) -> Iterator[Finding]:
    """Role `single` is a whole cluster: a second node would be a second cluster."""
    for index, node in enumerate(cluster.nodes):
        if node.role == "single" and len(cluster.nodes) > 1:
            yield Finding(
                ("nodes", index, "role"),
                f"node {node.name} has role single, but the cluster has {len(cluster.nodes)} nodes",
                "make a cluster file for each single node",
            )


def there_is_a_control_plane(cluster: Cluster) -> Iterator[Finding]:
    """A cluster without an API server is none."""
    if not cluster.masters:
        yield Finding(
            ("nodes",),
            "no node has role single or master",
            "give one node (or three) role: master",
        )


def addons_have_names_of_their_own(cluster: Cluster) -> Iterator[Finding]:
    """A node has each in a file of that name."""
    first: dict[str, str] = {}
    for index, addon in enumerate(cluster.addons):
        stem = Path(addon).stem
        if stem in first:
            yield Finding(
                ("addons", index),
                f"add-ons {first[stem]} and {addon} have the same name",
                "give one of the files another name, or leave one out",
            )
        first[stem] = addon


def the_version_is_supported(cluster: Cluster) -> Iterator[Finding]:
    """Only versions whose differences we know."""
    try:
        KubernetesContract.of(cluster.kubernetes)
    except ConfigError as error:
        problem = error.problems[0]
        yield Finding(("kubernetes",), problem.what, problem.hint)


RULES: tuple[Rule, ...] = (
    the_version_is_supported,
    *NAME_RULES,
    *NETWORK_RULES,
    *DATASOURCE_RULES,
    *FLANNEL_RULES,
    a_single_node_is_alone,
    there_is_a_control_plane,
    addons_have_names_of_their_own,
    *LABEL_RULES,
    *ETCD_RULES,
    *PORT_RULES,
    *NIC_RULES,
    *POOL_RULES,
    *BOOTSTRAP_RULES,
    *PROTECT_RULES,
)


def findings(cluster: Cluster) -> list[Finding]:
    """Apply every rule."""
    return [finding for rule in RULES for finding in rule(cluster)]


def load_cluster(name_or_path: str, project: Project) -> Cluster:
    """Read configs/clusters/NAME.yaml (or a path) and check it whole.

    Raises ConfigError with every problem at once.
    """
    path = project.config_path("clusters", name_or_path)
    cluster = load_model(Cluster, path, extra={"name": path.stem})
    found = [*_misnamed(cluster, path, project), *findings(cluster)]
    problems = located(found, path)
    if problems:
        raise ConfigError.of(problems)
    return cluster


def _misnamed(cluster: Cluster, path: Path, project: Project) -> Iterator[Finding]:
    """A config that is found by its file's name has that name: it is what verbs are told.

    Otherwise a copy of solo.yaml would work on the machines and keys of solo.
    """
    places = (project.configs_dir / "clusters", project.state_dir)
    is_found_by_name = path.resolve().parent in [place.resolve() for place in places]
    if is_found_by_name and cluster.name != path.stem:
        yield Finding(
            ("name",),
            f"name {cluster.name} is not that of the file, {path.stem}",
            f"write name: {path.stem}, or leave the key out",
        )


def located(found: list[Finding], path: Path) -> list[Problem]:
    """Give findings the lines of their keys, in order; without them if there is no such file."""
    if not found or not path.is_file():
        return [Problem(f.what, hint=f.hint) for f in found]
    source = Source(path)
    ordered = sorted(found, key=lambda f: source.line(source.present(f.at)))
    return [Problem(f.what, source.where(source.present(f.at)), f.hint) for f in ordered]
