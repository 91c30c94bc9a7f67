# SPDX-License-Identifier: Apache-2.0
"""Is a finished disk what it should be? (Read back from the qcow2 that is handed out.)"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubekiln.errors import ConfigError, KubekilnError, Problem
from kubekiln.files import make_dir, sha256_file
from kubekiln.process import Command, RealRunner, Runner
from pipeline.cache import scratch_dir
from pipeline.checks import CHECKS, EXTRACTED, OWNED, Facts
from pipeline.disk.readback import DiskReader


@dataclass(frozen=True)
class Finding:
    """The answer to one question about the disk."""

    check: str
    promise: str
    problems: tuple[str, ...]

    @property
    def good(self) -> bool:
        return not self.problems


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest; raises ConfigError if it isn't one."""
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        if manifest["format"] != 1:
            raise ValueError(f"format {manifest['format']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"cannot read the manifest of the image: {error}",
            where=str(path),
            hint="`kubekiln image list` names the images; an image's manifest lies beside it",
        ) from error
    return manifest


def inspect_disk(qcow2: Path, manifest: Mapping[str, Any]) -> list[Finding]:
    """Check a qcow2 against its manifest."""
    runner = RealRunner()
    findings = [_container(qcow2, manifest, runner)]
    if not findings[0].good:
        return findings
    with scratch_dir("inspect") as scratch:
        facts = read_back(qcow2, manifest, scratch=scratch, runner=runner)
        for name, check in CHECKS.items():
            promise = (check.__doc__ or "").splitlines()[0]
            findings.append(Finding(name, promise, tuple(check(facts))))
    return findings


def read_back(qcow2: Path, manifest: Mapping[str, Any], *, scratch: Path, runner: Runner) -> Facts:
    """Read from a qcow2 what the checks look at."""
    raw, tree = scratch / "disk.raw", make_dir(scratch / "tree")
    runner.run(
        Command(["qemu-img", "convert", "-W", "-m", "8", "-f", "qcow2", "-O", "raw", qcow2, raw])
    )
    reader = DiskReader(raw, scratch, runner)
    reader.extract(EXTRACTED, tree)
    return Facts(
        raw=raw,
        tree=tree,
        table=reader.table(),
        esp_files=reader.esp_files(),
        owners=reader.owners(OWNED),
        manifest=manifest,
    )


def accept(qcow2: Path, manifest: Mapping[str, Any]) -> None:
    """Raise KubekilnError with everything that is wrong with a disk."""
    problems = [
        Problem(f"{finding.check}: {problem}")
        for finding in inspect_disk(qcow2, manifest)
        for problem in finding.problems
    ]
    if problems:
        raise KubekilnError.of([Problem("the finished image is not as it must be"), *problems])


def _container(qcow2: Path, manifest: Mapping[str, Any], runner: Runner) -> Finding:
    """Check the file as such."""
    problems = []
    if sha256_file(qcow2) != manifest["qcow2"]["sha256"]:
        problems.append("sha256 is not the one of the manifest")
    checked = runner.run(Command(["qemu-img", "check", "-q", "-f", "qcow2", qcow2]), check=False)
    if checked.returncode != 0:
        problems.append(f"qemu-img check: {checked.text or checked.stderr.decode()}")
    return Finding("qcow2", "The file is whole.", tuple(problems))
