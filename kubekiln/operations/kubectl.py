# SPDX-License-Identifier: Apache-2.0
"""How is a cluster's API used from this host, with the kubectl that was pinned for it?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kubekiln.errors import ConfigError
from kubekiln.paths import Project
from kubekiln.process import Command, exec_replace

KUBECONFIG = "admin.kubeconfig"


def run_kubectl(project: Project, cluster: str | None, arguments: Sequence[str]) -> None:
    """Become kubectl, as the admin of a cluster (of the only one, if none is named)."""
    from cloudinit.rules import load_cluster

    kubeconfig = find_kubeconfig(project, cluster)
    version = load_cluster(kubeconfig.parent.name, project).kubernetes
    kubectl = pinned_kubectl(project, version)
    exec_replace(Command([kubectl, *arguments], env={"KUBECONFIG": str(kubeconfig)}))


def find_kubeconfig(project: Project, cluster: str | None) -> Path:
    """Find the admin's kubeconfig of a cluster; raises ConfigError if there is none or no only one.

    Not handed over as `--kubeconfig`: plugins and `kubectl config` know the variable only.
    """
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


def pinned_kubectl(project: Project, version: str) -> Path:
    raise NotImplementedError
