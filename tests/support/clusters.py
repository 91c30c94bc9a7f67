# SPDX-License-Identifier: Apache-2.0
"""How do tests make a cluster and render it without repeating what they don't care about?"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from cloudinit.model import Cluster, Pki
from cloudinit.part import NodeFile
from cloudinit.render import RenderedCluster, render_cluster, render_payloads
from cloudinit.rules import load_cluster
from cloudinit.state import State
from kubekiln.paths import Project

NOW = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
CONFIGS = Path(__file__).resolve().parents[2] / "configs"

MINIMAL: dict[str, Any] = {
    "name": "lab",
    "kubernetes": "1.37.1",
    "network": {"node_cidr": "10.80.0.0/24", "gateway": "10.80.0.1"},
    "nodes": [{"name": "lab-1", "role": "single", "address": "10.80.0.11"}],
}
MASTER = {"name": "m-1", "role": "master", "address": "10.80.0.11"}
BATCH = {"name": "batch", "addresses": "10.80.0.128/25", "max_nodes": 50}
WEB = {"name": "web", "addresses": "10.80.0.64/26", "max_nodes": 20}


def cluster_data(**changes: Any) -> dict[str, Any]:
    """The data of a small valid cluster; `network={…}` is merged, other keys are replaced."""
    data = yaml.safe_load(yaml.safe_dump(MINIMAL))
    data["network"].update(changes.pop("network", {}))
    return {**data, **changes}


def node(**changes: Any) -> dict[str, Any]:
    """A node of its own, lab-2."""
    return {"name": "lab-2", "role": "single", "address": "10.80.0.12", **changes}


def masters(*roles: str, **changes: Any) -> dict[str, Any]:
    """A cluster of as many masters as one needs, and nodes of other roles."""
    return {
        "nodes": [
            {"name": f"n-{index}", "role": role, "address": f"10.80.0.{20 + index}"}
            for index, role in enumerate(roles)
        ],
        **changes,
    }


def dual(*, nodes: list[dict[str, Any]] | None = None, **network: Any) -> dict[str, Any]:
    """A single node of both families."""
    both = {"node_cidr": ["10.80.0.0/24", "fd00:80::/64"], "gateway": ["10.80.0.1", "fd00:80::1"]}
    one = [node(address=["10.80.0.11", "fd00:80::11"])]
    return {"network": {**both, **network}, "nodes": nodes or one}


def pools(*changes: dict[str, Any], **cluster: Any) -> dict[str, Any]:
    """A cluster of one master and of pools, each `batch` but for its changes."""
    return {"nodes": [MASTER], "pools": [BATCH | change for change in changes], **cluster}


def only_ipv6(config: dict[str, Any]) -> None:
    """Leave a dual-stack configuration its IPv6 half."""
    network, api = config["network"], config.get("api", {})
    for settings in (network, api, *config["nodes"]):
        for key, value in settings.items():
            if isinstance(value, list) and any(":" in str(v) for v in value):
                settings[key] = next(v for v in value if ":" in str(v))
    network["nameservers"] = [network["gateway"]]


def make_cluster(**changes: Any) -> Cluster:
    return Cluster.model_validate(cluster_data(**changes))


def make_project(root: Path) -> Project:
    """A project of its own below `root`, with the repository's configurations."""
    if not (root / "configs").exists():
        shutil.copytree(CONFIGS, root / "configs")
    return Project(root)


def write_cluster(project: Project, data: dict[str, Any], name: str = "lab") -> Path:
    path = project.configs_dir / "clusters" / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def make_state(root: Path, *, now: datetime = NOW, **pki: Any) -> State:
    return State.open(root / "state" / "lab", cluster="lab", config=Pki(**pki), now=now)


def render_files(root: Path, **changes: Any) -> dict[str, NodeFile]:
    """Render the first node in memory and give its files by path."""
    cluster, project = make_cluster(**changes), make_project(root)
    state = State.open(root / "state" / "lab", cluster="lab", config=cluster.pki, now=NOW)
    payload = render_payloads(cluster, state=state, project=project)[0]
    return {file.path: file for file in payload.files}


def render_example(root: Path, name: str) -> dict[str, dict[str, NodeFile]]:
    """Render an example of configs/clusters in memory and give each node's files by path."""
    project = make_project(root)
    cluster = load_cluster(name, project)
    state = State.open(root / "state" / name, cluster=name, config=cluster.pki, now=NOW)
    return {
        payload.context.owner.name: {file.path: file for file in payload.files}
        for payload in render_payloads(cluster, state=state, project=project)
    }


def render(root: Path, *, now: datetime = NOW, **changes: Any) -> RenderedCluster:
    """Render to disk below `root`."""
    return render_cluster(make_cluster(**changes), project=make_project(root), now=now)


def snapshot(root: Path) -> dict[str, bytes]:
    """All files below `root` with their content."""
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }
