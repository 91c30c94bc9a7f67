# SPDX-License-Identifier: Apache-2.0
"""What is applied to the cluster once its API answers? (Part: the add-ons of configs/addons.)"""

from __future__ import annotations

from cloudinit.addon import Addon, addon_view, load_addon
from cloudinit.part import Context, NodeFile, Part, unit

DIRECTORY = "/etc/kubernetes/addons"


def render(context: Context) -> Part:
    """Give the manifests and the unit that applies them in the order of their names."""
    addons = [load_addon(name, context.project) for name in context.cluster.addons]
    if not addons:
        return Part(files=())
    name = "kubekiln-addons.service"
    return Part(files=(*(_manifest(context, addon) for addon in addons), unit(name)), units=(name,))


def _manifest(context: Context, addon: Addon) -> NodeFile:
    view = addon_view(context.cluster, context.versions)
    header = f"# Written by cloud-init from {addon.source}; edit that, not this file.\n"
    return NodeFile(
        f"{DIRECTORY}/{addon.name}.yaml",
        (header + addon.render(view)).encode(),
        addon.source,
        ("addons", "network", "versions"),
        mode=0o600,
    )
