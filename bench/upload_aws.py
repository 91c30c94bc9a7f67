# SPDX-License-Identifier: Apache-2.0
"""How fast do images get into EBS, and how much of that is ours?

Ours against the shortest loops that boto3 allows, on one server, one after the other in turn: the
loops send the same blocks with the same checksums, and do nothing else (no journal, no reading
back, no AMI). The server is whatever the target's file names; the loops' snapshots are removed.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3

from kubekiln.config import load_model
from kubekiln.files import sha256_file
from pipeline.targets.aws import AwsPlatform
from pipeline.targets.aws_settings import Settings
from pipeline.targets.platform import DiskImage

_BLOCK = 512 << 10


def bare_loop(ebs: Any, path: Path, threads: int) -> str:
    """Put a disk's blocks with nothing but boto3; gives the snapshot's id."""
    size = path.stat().st_size
    snapshot = str(ebs.start_snapshot(VolumeSize=-(-size // (1 << 30)))["SnapshotId"])
    sums: dict[int, bytes] = {}

    def put(index: int) -> None:
        block = os.pread(disk.fileno(), _BLOCK, index * _BLOCK)
        if block.count(0) == len(block):
            return
        sums[index] = hashlib.sha256(block).digest()
        ebs.put_snapshot_block(
            SnapshotId=snapshot,
            BlockIndex=index,
            BlockData=block,
            DataLength=_BLOCK,
            Checksum=base64.b64encode(sums[index]).decode(),
            ChecksumAlgorithm="SHA256",
        )

    with path.open("rb") as disk, ThreadPoolExecutor(threads) as pool:
        list(pool.map(put, range(size // _BLOCK)))
    whole = hashlib.sha256(b"".join(sums[index] for index in sorted(sums))).digest()
    ebs.complete_snapshot(
        SnapshotId=snapshot,
        ChangedBlocksCount=len(sums),
        Checksum=base64.b64encode(whole).decode(),
        ChecksumAlgorithm="SHA256",
        ChecksumAggregationMethod="LINEAR",
    )
    return snapshot


def measure(settings: Settings, path: Path, rounds: int) -> None:
    """Print MB/s of what isn't zeros: of both loops and of ours, best of some rounds."""
    session = boto3.Session(profile_name=settings.profile, region_name=settings.region)
    ebs, ec2 = (session.client(s, endpoint_url=settings.endpoint) for s in ("ebs", "ec2"))
    digest = sha256_file(path)
    image = DiskImage("bench", digest, path, "raw", digest, path.stat().st_size)
    platform, threads = AwsPlatform(settings), settings.upload_threads
    platform.find_image(image)  # clients are made before the clock runs
    best: dict[str, float] = {}

    def run_ours() -> None:
        platform.delete_image(platform.upload(image, lambda _n: None))

    def run_bare(count: int) -> None:
        ec2.delete_snapshot(SnapshotId=bare_loop(ebs, path, count))

    runs = {
        "boto3, one block at a time": lambda: run_bare(1),
        f"boto3, {threads} threads": lambda: run_bare(threads),
        f"kubekiln, {threads} threads, with reading back and AMI": run_ours,
    }
    for _ in range(rounds):
        for title, act in runs.items():
            started = time.monotonic()
            act()
            best[title] = min(best.get(title, float("inf")), time.monotonic() - started)
    sent = sent_bytes(path) / 1e6
    print(f"| {sent:,.0f} MB that aren't zeros | MB/s | |\n|---|---|---|")
    first = best[f"boto3, {threads} threads"]
    for title, seconds in best.items():
        print(f"| {title} | {sent / seconds:.1f} | {first / seconds:.2f} |")


def sent_bytes(path: Path) -> int:
    """Count the bytes of blocks that aren't all zeros."""
    with path.open("rb") as disk:
        blocks = iter(lambda: disk.read(_BLOCK), b"")
        return sum(len(block) for block in blocks if any(block))


def main() -> None:
    """Print the figures for a target and a raw image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="a file of configs/targets")
    parser.add_argument("image", type=Path, help="a raw disk")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    measure(load_model(Settings, arguments.target), arguments.image, arguments.rounds)


if __name__ == "__main__":
    main()
