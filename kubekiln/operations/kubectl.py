# SPDX-License-Identifier: Apache-2.0
"""How is a cluster's API used from this host, with the kubectl that was pinned for it?"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kubekiln.errors import ConfigError
from kubekiln.files import make_dir
from kubekiln.operations.clusters import config_named, find_kubeconfig
from kubekiln.paths import Project
from kubekiln.process import Command, exec_replace, run
from kubekiln.secret import Secret

if TYPE_CHECKING:
    from cloudinit.model import Cluster
    from pipeline.lock import Architecture

_TIMEOUT_S = 120.0


def run_kubectl(project: Project, cluster: str | None, arguments: Sequence[str]) -> None:
    """Become kubectl, as the admin of a cluster (of the only one, if none is named)."""
    admin = admin_of(project, cluster, usage="kubekiln kubectl --on CLUSTER …")
    # Not as `--kubeconfig`: plugins and `kubectl config` know the variable only.
    exec_replace(Command([admin.kubectl, *arguments], env={"KUBECONFIG": str(admin.kubeconfig)}))


@dataclass(frozen=True)
class Admin:
    """The pinned kubectl and whom it acts as."""

    cluster: str
    kubectl: Path
    kubeconfig: Path

    def command(self, arguments: Sequence[str], *, stdin: bytes | None = None) -> Command:
        """Describe a call of kubectl; arguments carry no secret."""
        words: list[str | Path] = [self.kubectl, f"--kubeconfig={self.kubeconfig}", *arguments]
        return Command(words, stdin=stdin, timeout_s=_TIMEOUT_S)

    def apply(self, manifest: Secret | bytes) -> str:
        """Apply objects as the masters' own unit does; gives what kubectl says, a line each.

        That unit applies some of them at its next boot, and must not meet another's fields.
        """
        words = ["apply", "--server-side", "--force-conflicts", "--field-manager=kubekiln",
                 "--filename=-"]  # fmt: skip
        stdin = manifest.reveal() if isinstance(manifest, Secret) else manifest
        return run(self.command(words, stdin=stdin)).text


def admin_of(project: Project, cluster: str | None, *, usage: str) -> Admin:
    """Find the admin's kubeconfig and kubectl of a cluster (of the only one, if none is named).

    It is given by its name or by the path of its config.
    """
    from cloudinit.rules import load_cluster

    kubeconfig = find_kubeconfig(project, cluster, usage=usage)
    config = config_named(cluster, kubeconfig.parent.name)
    return _admin(project, load_cluster(config, project), kubeconfig)


def admin_for(project: Project, made: Cluster, *, usage: str) -> Admin:
    """Find the admin's kubeconfig and kubectl of a cluster whose config was read."""
    return _admin(project, made, find_kubeconfig(project, made.name, usage=usage))


def _admin(project: Project, made: Cluster, kubeconfig: Path) -> Admin:
    kubectl = pinned_kubectl(project, image=made.image, version=made.kubernetes)
    return Admin(made.name, kubectl, kubeconfig)


def pinned_kubectl(project: Project, *, image: str, version: str) -> Path:
    """Give the kubectl of a cluster's own version, by the name `kubectl`; fetched if need be."""
    link = project.build_dir / "bin" / version / "kubectl"
    if not link.exists():
        program = _fetch(project, image, version)
        # Another kubekiln may do the same now.
        with tempfile.TemporaryDirectory(dir=make_dir(link.parent)) as scratch:
            new = Path(scratch) / link.name
            new.symlink_to(program)
            new.replace(link)
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
