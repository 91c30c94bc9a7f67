# SPDX-License-Identifier: Apache-2.0
"""A machine that is activated below a directory, and what that did to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.node_runtime import Node, make_node

from kubekiln_node.activate import activate  # isort: skip


START = "systemctl start --no-block kubekiln.target"
COPY = "/var/lib/cloud/instances/i-1/user-data.txt"


class Machine:
    """A fake root and what activation did to it."""

    def __init__(self, root: Path) -> None:
        self.node: Node = make_node(root)
        self.commands: list[str] = []
        self.console: list[str] = []
        self.exit_statuses: dict[str, int] = {}
        self.owner = "root:root"
        self.status_at_start: dict[str, Any] = {}
        self.left_at_sync: list[tuple[bool, bool]] = []

    def activate(self, host_name: str = "solo-1") -> int:
        def run(command: Sequence[str]) -> int:
            self.commands.append(" ".join(command))
            if self.commands[-1] == START:
                self.status_at_start = self.status()
            return self.exit_statuses.get(self.commands[-1], 0)

        return activate(
            run=run,
            host_name=host_name,
            owner_of=lambda _uid, _gid: self.owner,
            root=str(self.node.root),
            now=lambda: 12.34,
            tell=self.console.append,
            sync=lambda: self.left_at_sync.append((self.is_marked(), self.has_copy())),
        )

    def is_marked(self) -> bool:
        return self.node.path("/etc/cloud/cloud-init.disabled").exists()

    def has_copy(self) -> bool:
        return self.node.path(COPY).exists()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.node.path("/run/kubekiln/status.json").read_text())
        return found
