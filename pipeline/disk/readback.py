# SPDX-License-Identifier: Apache-2.0
"""What is on a finished disk? (Read back with sfdisk, debugfs and mtools: nothing is mounted.)"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubekiln.process import Command, Runner
from pipeline.disk.layout import SECTOR

_STAT = re.compile(r"Mode:\s+(\d+).*?User:\s+(\d+)\s+Group:\s+(\d+)", re.DOTALL)


@dataclass(frozen=True)
class Owner:
    """Mode and owner of a file on the disk."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class DiskReader:
    """A raw disk file and where its root file system starts."""

    raw: Path
    scratch: Path
    runner: Runner

    def table(self) -> dict[str, Any]:
        """Read the partition table as sfdisk tells it."""
        result = self.runner.run(Command(["sfdisk", "--json", self.raw]))
        table: dict[str, Any] = json.loads(result.stdout)["partitiontable"]
        return table

    def root_offset(self) -> int:
        """Find the root's first byte."""
        root = next(p for p in self.table()["partitions"] if p["name"] == "root")
        return int(root["start"]) * SECTOR

    def extract(self, paths: Iterable[str], into: Path) -> None:
        """Copy files and directories of the root below `into`, at their own places."""
        lines = []
        for path in paths:
            parent = (into / path.lstrip("/")).parent
            parent.mkdir(parents=True, exist_ok=True)
            lines.append(f"rdump {path} {parent}")
        self._debugfs(lines)

    def owners(self, paths: Iterable[str]) -> dict[str, Owner | None]:
        """Look up modes and owners; None for what isn't there."""
        found: dict[str, Owner | None] = {}
        for path in paths:
            seen = _STAT.search(self._debugfs([f"stat {path}"]))
            found[path] = Owner(int(seen[1], 8), int(seen[2]), int(seen[3])) if seen else None
        return found

    def esp_files(self) -> set[str]:
        """List the files of the EFI system partition, in upper case as FAT compares them."""
        esp = next(p for p in self.table()["partitions"] if p["name"] == "esp")
        image = f"{self.raw}@@{int(esp['start']) * SECTOR}"
        listing = self.runner.run(Command(["mdir", "-/", "-b", "-i", image, "::/"])).text
        return {line.removeprefix("::").upper() for line in listing.splitlines()}

    def _debugfs(self, lines: Iterable[str]) -> str:
        script = self.scratch / "debugfs.commands"
        script.write_text("\n".join(lines) + "\n")
        disk = f"{self.raw}?offset={self.root_offset()}"
        return self.runner.run(Command(["debugfs", "-f", script, disk])).text
