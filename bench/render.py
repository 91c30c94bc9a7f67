# SPDX-License-Identifier: Apache-2.0
"""How long does a large cluster take to render, and how much memory?

Three masters, the others workers, in a directory of its own that is removed. Renders twice: the
first time every certificate is made, the second time they all come from the state.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from ipaddress import IPv4Address
from pathlib import Path

import yaml

from cloudinit.pool import default_workers
from cloudinit.render import render_cluster
from cloudinit.rendered import RenderedCluster
from cloudinit.rules import load_cluster
from kubekiln.paths import Project

_MASTERS = 3
_AT_MOST_S = 30.0
_AT_MOST_MB = 1000.0


def write_config(project: Project, nodes: int) -> Path:
    """Write the configuration of a cluster of so many nodes."""
    first = IPv4Address("10.0.0.11")
    document = {
        "name": "large",
        "kubernetes": "1.37.1",
        "network": {
            "node_cidr": "10.0.0.0/16",
            "gateway": "10.0.0.1",
            "pod_cidr": "10.128.0.0/11",
            "service_cidr": "10.96.0.0/16",
        },
        "nodes": [
            {
                "name": f"m-{i + 1}" if i < _MASTERS else f"w-{i - _MASTERS + 1:05}",
                "role": "master" if i < _MASTERS else "worker",
                "address": str(first + i),
            }
            for i in range(nodes)
        ],
    }
    path = project.configs_dir / "clusters" / "large.yaml"
    path.write_text(yaml.dump(document, sort_keys=False))
    return path


def peak_mb(workers: int) -> float:
    """Give the most memory at once, in MB: an upper bound, for shared pages count for each."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    largest_child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (own + (workers * largest_child if workers > 1 else 0)) * 1024 / 1e6


def cpu_s() -> float:
    """Give the CPU time used so far, which others on a busy machine change less than the wall's."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def report(title: str, seconds: float, *, nodes: int, at_most: float) -> None:
    """Print one line of the table."""
    verdict = "" if seconds <= at_most else " (over)"
    rate = f"{nodes / seconds:,.0f} nodes/s"
    print(f"| {title} | {seconds:.1f} s{verdict} | {at_most:g} s | {rate} |")


def measure(project: Project, nodes: int, workers: int) -> RenderedCluster:
    """Load and render, and print what it took."""
    path = write_config(project, nodes)
    print("| figure | here | at most | |\n|---|---|---|---|")
    for title in ("first rendering", "rendering again"):
        started, used = time.monotonic(), cpu_s()
        cluster = load_cluster(str(path), project)
        loaded = time.monotonic()
        rendered = render_cluster(cluster, project=project, workers=workers)
        seconds = time.monotonic() - started
        about = f"{title}, {nodes:,} nodes ({cpu_s() - used:.0f} s of CPU time; "
        about += f"the configuration {loaded - started:.1f} s)"
        report(about, seconds, nodes=nodes, at_most=_AT_MOST_S * nodes / 5000)
    peak = peak_mb(workers)
    verdict = "" if peak <= _AT_MOST_MB else " (over)"
    print(
        f"| peak memory of {workers} processes | {peak:,.0f} MB{verdict} | {_AT_MOST_MB:g} MB | |"
    )
    return rendered


def main() -> None:
    """Print the figures for this host."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--jobs", type=int, default=None)
    arguments = parser.parse_args()
    source = Project.find(Path(__file__).parent)
    workers = arguments.jobs or default_workers(arguments.nodes)
    print(f"load average before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    source.build_dir.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=source.build_dir) as scratch:
        project = Project(Path(scratch))
        shutil.copytree(source.configs_dir, project.configs_dir)
        rendered = measure(project, arguments.nodes, workers)
        state = (rendered.state_directory / "state").stat().st_size
        largest = max(node.size_gzip for node in rendered.nodes)
    print(f"\nstate {state / 1e6:.1f} MB; largest user-data {largest:,} B (gzip)")


if __name__ == "__main__":
    main()
