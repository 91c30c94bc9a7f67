# SPDX-License-Identifier: Apache-2.0
"""How long do bakes and boots take on this host, against the figures we hold ourselves to?

Works on a copy of the project with a stage cache of its own; only the component store is shared, so
the user's image and caches stay as they are. Prints a table; asserts nothing (machines are noisy).
What compiles for long is asked for: `--kubernetes VERSION`, `--compile`.
"""

from __future__ import annotations

import argparse
import gzip
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from kubekiln.paths import Project, cache_dir
from kubekiln.process import Command, run

_COPIED = ("kubekiln", "pipeline", "cloudinit", "elements", "configs", "Makefile")
_SHARED = ("store", "toolchains")
_IMAGE = "configs/images/debian-13.yaml"
_CHANGED_ELEMENT = "elements/k8s-base/static/usr/lib/sysctl.d/60-kubekiln.conf"
_MB = 1e6
_READY = re.compile(r"KUBEKILN phase=ready t=([\d.]+)")


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str
    at_most: float

    def row(self) -> str:
        """Lay it out as a line of a Markdown table."""
        verdict = "" if self.value <= self.at_most else " (over)"
        measured = f"{self.value:,.1f} {self.unit}{verdict}"
        return f"| {self.name} | {measured} | {self.at_most:,g} {self.unit} |"


class Bench:
    """A copy of the project whose caches start empty, but for those that it shares."""

    def __init__(self, scratch: Path, project: Project, shared: Sequence[str]) -> None:
        self.root = scratch / "project"
        self.cache = scratch / "cache"
        self.root.mkdir()
        for name in _COPIED:
            source = project.root / name
            if source.is_dir():
                shutil.copytree(source, self.root / name, symlinks=True)
            else:
                shutil.copy2(source, self.root / name)
        (self.cache / "kubekiln").mkdir(parents=True)
        for name in shared:
            (cache_dir() / name).mkdir(parents=True, exist_ok=True)
            (self.cache / "kubekiln" / name).symlink_to(cache_dir() / name)

    def kubekiln(self, *arguments: str) -> float:
        """Run a verb in the copy; gives its wall time in seconds."""
        env = {"XDG_CACHE_HOME": str(self.cache), "PYTHONPATH": str(self.root), "CI": "true"}
        command = Command(
            [sys.executable, "-m", "kubekiln", *arguments], cwd=self.root, env=env, inherit=True
        )
        started = time.monotonic()
        run(command)
        return time.monotonic() - started

    def touch_element(self) -> None:
        """Change one file of one element, in a way that changes its content."""
        path = self.root / _CHANGED_ELEMENT
        path.write_text(path.read_text() + "\n# changed by the bench\n")

    def set_kubernetes(self, version: str) -> None:
        """Have the image take another version of Kubernetes, which the lock must have."""
        path = self.root / _IMAGE
        config = yaml.safe_load(path.read_text())
        config["components"]["kubernetes"] = version
        path.write_text(yaml.safe_dump(config, sort_keys=False))


@contextmanager
def bench_copy(shared: Sequence[str] = _SHARED) -> Iterator[Bench]:
    """Make the copy, which shares these of the user's caches; it is removed at the end."""
    project = Project.find(Path(__file__).parent)
    (project.build_dir / "bench").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=project.build_dir / "bench") as scratch:
        yield Bench(Path(scratch), project, shared)


def bakes(bench: Bench) -> Iterator[Figure]:
    """Measure the bakes of the table."""
    yield Figure("bake, components in the store", bench.kubekiln("image", "bake"), "s", 120)
    yield Figure("bake again, nothing changed", bench.kubekiln("image", "bake"), "s", 2)
    bench.touch_element()
    yield Figure("bake again, an element's file changed", bench.kubekiln("image", "bake"), "s", 60)
    newest = max((bench.root / "build" / "images").glob("*.qcow2"), key=lambda p: p.stat().st_mtime)
    yield Figure("qcow2", newest.resolve().stat().st_size / _MB, "MB", 450)


def other_version(bench: Bench, version: str) -> Iterator[Figure]:
    """Measure a bake with another version of Kubernetes, whose programs are in the store."""
    bench.set_kubernetes(version)
    bench.kubekiln("image", "fetch")
    name = f"bake again, Kubernetes {version} instead"
    yield Figure(name, bench.kubekiln("image", "bake"), "s", 60)


def compilation() -> Iterator[Figure]:
    """Measure how long the components of the default image take where nothing is cached."""
    with bench_copy(shared=()) as bench:
        minutes = bench.kubekiln("image", "fetch") / 60
    yield Figure("components from Go modules, nothing cached", minutes, "min", 25)


def payloads(bench: Bench) -> Iterator[Figure]:
    """Measure what a node gets, and the command's own start."""
    bench.kubekiln("cluster", "render", "solo")
    user_data = bench.root / "build" / "nodes" / "solo" / "solo-1" / "user-data"
    size = len(gzip.compress(user_data.read_bytes(), 9, mtime=0))
    yield Figure("user-data of single, gzip", size, "B", 16384)
    yield Figure("kubekiln --help", min(bench.kubekiln("--help") for _ in range(3)), "s", 0.4)


# Cluster, target, seconds at most, and what is measured. QEMU's begin with the guest's kernel.
_BOOTS = (
    ("solo", "nspawn", 12, "power-on to Ready, nspawn"),
    ("ha-stacked", "nspawn", 90, "power-on to all five Ready, ha-stacked in nspawn"),
    ("solo", "qemu", 150, "kernel's start to Ready, qemu"),
)


def boots(bench: Bench, targets: list[str]) -> Iterator[Figure]:
    """Measure boots as the nodes' own reports give them: until the last one is Ready."""
    for cluster, target, at_most, name in _BOOTS:
        if target in targets:
            yield Figure(name, ready_after_s(bench, cluster, target), "s", at_most)


def ready_after_s(bench: Bench, cluster: str, target: str = "nspawn") -> float:
    """Boot a cluster, and give when the last of its nodes was Ready."""
    bench.kubekiln("up", cluster, "--target", target)
    try:
        consoles = (bench.root / "build" / "machines" / cluster).glob("*/console.log")
        return max(last_ready(console) for console in consoles)
    finally:
        bench.kubekiln("down", cluster)


def last_ready(console: Path) -> float:
    """Read when a node was Ready out of its console."""
    return float(_READY.findall(console.read_text("utf-8", "replace"))[-1])


def main() -> None:
    """Print the table for this host."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="*", default=["nspawn", "qemu"])
    parser.add_argument("--kubernetes", metavar="VERSION", help="bake with this one, too")
    parser.add_argument("--compile", action="store_true", help="compile everything, too")
    asked = parser.parse_args()
    with bench_copy() as bench:
        figures = [*bakes(bench), *payloads(bench), *boots(bench, asked.targets)]
        if asked.kubernetes:
            figures += other_version(bench, asked.kubernetes)
    if asked.compile:
        figures += compilation()
    print("| figure | here | at most |\n|---|---|---|")
    for figure in figures:
        print(figure.row())


if __name__ == "__main__":
    main()
