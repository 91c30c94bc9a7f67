# SPDX-License-Identifier: Apache-2.0
"""How is a cluster's API used from this host, with the kubectl that was pinned for it?"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kubekiln.errors import ConfigError
from kubekiln.paths import Project
from kubekiln.process import Command, exec_replace

if TYPE_CHECKING:
    from pipeline.lock import Architecture

KUBECONFIG = "admin.kubeconfig"


def run_kubectl(project: Project, cluster: str | None, arguments: Sequence[str]) -> None:
    """Become kubectl, as the admin of a cluster (of the only one, if none is named)."""
    from cloudinit.rules import load_cluster

    kubeconfig = find_kubeconfig(project, cluster)
    made = load_cluster(kubeconfig.parent.name, project)
    kubectl = pinned_kubectl(project, image=made.image, version=made.kubernetes)
    # Not as `--kubeconfig`: plugins and `kubectl config` know the variable only.
    exec_replace(Command([kubectl, *arguments], env={"KUBECONFIG": str(kubeconfig)}))


def find_kubeconfig(project: Project, cluster: str | None) -> Path:
    """Find the admin's kubeconfig of a cluster; raises ConfigError if it can't be told which."""
    known = {path.parent.name: path for path in sorted(project.state_dir.glob(f"*/{KUBECONFIG}"))}
    if cluster is None and len(known) == 1:
        return next(iter(known.values()))
    if cluster in known:
        return known[cluster]
    names = ", ".join(known)
    if cluster is None and known:
        raise ConfigError("which cluster?", hint=f"kubekiln kubectl --on CLUSTER …, of: {names}")
    hint = f"there are: {names}" if known else "`kubekiln up` makes one"
    raise ConfigError(f"no cluster named {cluster!r} was rendered" if cluster else "no cluster yet",
                      hint=hint)  # fmt: skip


def pinned_kubectl(project: Project, *, image: str, version: str) -> Path:
    """Give the kubectl of a cluster's own version, by the name `kubectl`; fetched if need be."""
    link = project.build_dir / "bin" / version / "kubectl"
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(_fetch(project, image, version))
    return link


def _fetch(project: Project, image_name: str, version: str) -> Path:
    from pipeline.lock import load_lock, lock_path
    from pipeline.model import load_image
    from pipeline.stages.fetch import fetch_components
    from pipeline.store import Store

    image = load_image(image_name, project)
    fetched = fetch_components(
        load_lock(lock_path(project.configs_dir)),
        {"kubernetes": version},
        architecture=host_architecture(),
        providers=image.providers,
        store=Store.default(),
        mirror=image.component_mirror,
    )
    return fetched["kubernetes"].files["kubectl"]


def host_architecture() -> Architecture:
    """Name this host's architecture as the lock does; raises ConfigError for others."""
    machine = platform.machine()
    if machine == "x86_64":
        return "amd64"
    if machine == "aarch64":
        return "arm64"
    raise ConfigError(f"no kubectl is locked for {machine}", hint="use one of your own")
