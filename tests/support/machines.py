# SPDX-License-Identifier: Apache-2.0
"""How do tests make a machine without repeating what they don't care about?"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

from pipeline.targets.machine import BootImage, Machine


def make_machine(root: Path, **changes: Any) -> Machine:
    """A machine whose files are all below `root`; the seed is written."""
    seed = root / "seed"
    seed.mkdir(parents=True, exist_ok=True)
    for name in ("user-data", "meta-data", "network-config"):
        (seed / name).write_text(f"{name}\n")
    (root / "seed.iso").write_bytes(b"iso")
    (root / "image.qcow2").write_bytes(b"qcow2")
    machine = Machine(
        cluster="lab",
        name="lab-1",
        role="single",
        image=BootImage("debian-13", "d1", root / "image.qcow2", root / "root.tar"),
        seed_dir=seed,
        seed_iso=root / "seed.iso",
        mac="52:54:00:aa:bb:cc",
        addresses=(ip_interface("10.80.0.11/24"),),
        gateways=(ip_address("10.80.0.1"),),
        run_dir=root / "machines" / "lab" / "lab-1",
        api_host_port=16443,
    )
    return replace(machine, **changes)
