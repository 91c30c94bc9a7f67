# SPDX-License-Identifier: Apache-2.0
"""Which is faster to Ready on equal machines: units that rendering wrote, or kubeadm?

Boots the masters and the worker of the example `kubeadm` in containers, by each way in turn,
several times, from one image. Prints seconds from power-on until the last node was Ready, as the
nodes' own reports say. Needs root, and what `kubekiln up --target nspawn` needs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

import yaml

from bench.bake import Bench, bench_copy, ready_after_s

WAYS = ("systemd", "kubeadm")


def write_cluster(bench: Bench, way: str, masters: int) -> str:
    """Write the example with this way and number of masters; gives its name."""
    clusters = bench.root / "configs" / "clusters"
    config: dict[str, Any] = yaml.safe_load((clusters / "kubeadm.yaml").read_text())
    name = f"{way}-{masters}"
    config |= {"name": name, "bootstrap": way}
    nodes = [node for node in config["nodes"] if node["role"] == "master"][:masters]
    config["nodes"] = [*nodes, *(n for n in config["nodes"] if n["role"] == "worker")]
    (clusters / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return name


def measure(bench: Bench, masters: int, rounds: int) -> Iterator[tuple[str, list[float]]]:
    """Boot each way as often as asked, in turn, so that a busy moment of the host hits both."""
    names = {way: write_cluster(bench, way, masters) for way in WAYS}
    seen: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, name in names.items():
            seen[way].append(ready_after_s(bench, name))
    yield from seen.items()


def main() -> None:
    """Print a table for one master and for three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    rows = []
    with bench_copy() as bench:
        bench.kubekiln("image", "bake")
        for masters in (1, 3):
            medians = {}
            for way, seconds in measure(bench, masters, rounds):
                medians[way] = statistics.median(seconds)
                spread = f"{min(seconds):.1f} to {max(seconds):.1f} s"
                rows.append(f"| {masters} + 1 | {way} | {medians[way]:.1f} s | {spread} |")
            ratio = medians["kubeadm"] / medians["systemd"]
            rows.append(f"| {masters} + 1 | kubeadm : systemd | {ratio:.2f} | |")
    print("| masters + workers | way | Ready after (median) | of "
          f"{rounds} |\n|---|---|---|---|")  # fmt: skip
    print("\n".join(rows))


if __name__ == "__main__":
    main()
