# SPDX-License-Identifier: Apache-2.0
"""How does the raw disk become the file that is handed out?"""

from __future__ import annotations

from pathlib import Path

from kubekiln.process import Command, Runner


def write_qcow2(raw: Path, qcow2: Path, *, runner: Runner) -> None:
    """Compress a raw disk into a qcow2 with zstd, on all CPUs.

    Clusters of 256 KiB instead of 64: 5 % smaller and a third faster to make.
    """
    runner.run(
        Command(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-W", "-m", "8",
                 "-o", "compression_type=zstd,cluster_size=256k", raw, qcow2])
    )  # fmt: skip
