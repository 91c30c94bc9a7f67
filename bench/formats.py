# SPDX-License-Identifier: Apache-2.0
"""How long does a conversion take, in each format, against the tool that one would use by hand?

Of a disk made for it, half of which compresses, or of a baked image. Ours includes reading back and
checksums; the tool alone only writes. Prints a table; asserts nothing (machines are noisy). CPU
time is that of all processes: it says more than the clock where others work, too.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kubekiln.paths import Project
from kubekiln.process import Command, run
from pipeline.disk.formats import as_format
from pipeline.disk.nbd import extents, file_node
from pipeline.targets.platform import FormatName
from tests.support.disks import publish

_MIB = 1 << 20
_WORDS = [word.encode() for word in __doc__.split()]


def make_disk(path: Path, *, data_mib: int) -> Path:
    """Write a disk of which a third is data, in turn noise and text."""
    chance = random.Random(1)
    # No format looks further back than a cluster: it may be the same text each time.
    text = b" ".join(chance.choices(_WORDS, k=_MIB // 8))[: _MIB // 2]
    with path.open("wb") as out:
        out.truncate(3 * data_mib * _MIB)
        for at_mib in range(data_mib):
            out.seek(3 * at_mib * _MIB)
            out.write(chance.randbytes(_MIB // 2) + text)
    return path


def _convert(qcow2: Path, out: Path, *options: str) -> None:
    run(Command(["qemu-img", "convert", "-f", "qcow2", *options, qcow2, out]))


def _vmdk_in_tar(qcow2: Path, out: Path) -> None:
    vmdk = out.with_suffix(".vmdk")
    _convert(qcow2, vmdk, "-O", "vmdk", "-o", "subformat=streamOptimized")
    run(Command(["tar", "--format=ustar", "-cf", out, vmdk.name], cwd=out.parent))
    vmdk.unlink()


def _raw_in_tar(qcow2: Path, out: Path) -> None:
    raw = out.with_name("disk.raw")
    _convert(qcow2, raw, "-O", "raw")
    run(Command(["tar", "--format=oldgnu", "-Sczf", out, raw.name], cwd=out.parent))
    raw.unlink()


_BY_HAND: Mapping[FormatName, tuple[str, Callable[[Path, Path], None]]] = {
    "raw": ("qemu-img", lambda qcow2, out: _convert(qcow2, out, "-O", "raw")),
    "vmdk": (
        "qemu-img",
        lambda qcow2, out: _convert(qcow2, out, "-O", "vmdk", "-o", "subformat=streamOptimized"),
    ),
    "ova": ("qemu-img, tar", _vmdk_in_tar),
    "vhd": (
        "qemu-img",
        lambda qcow2, out: _convert(qcow2, out, "-O", "vpc", "-o", "subformat=fixed,force_size=on"),
    ),
    "gce": ("qemu-img, tar", _raw_in_tar),
}


@dataclass(frozen=True)
class Effort:
    """What some work took."""

    seconds: float
    cpu_seconds: float

    @classmethod
    def of(cls, work: Callable[[], object]) -> Effort:
        """Do the work, and tell."""
        started, cpu = time.monotonic(), _cpu_seconds()
        work()
        return cls(time.monotonic() - started, _cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def measure(manifest: Path, formats: list[FormatName]) -> Iterator[str]:
    """Convert in each format, ours and by hand in turn; gives lines of a Markdown table."""
    qcow2 = manifest.with_suffix(".qcow2")
    data = sum(length for _, length, zero in extents(file_node(qcow2, "qcow2")) if not zero)
    for form in formats:
        ours = Effort.of(functools.partial(as_format, manifest, form))
        path = as_format(manifest, form).path
        size = path.stat().st_blocks * 512
        for made in (path, path.with_name(f"{path.name}.json")):
            made.unlink()
        row = (
            f"| {form} | {ours.seconds:.1f} s | {data / ours.seconds / 1e6:,.0f} MB/s "
            f"| {ours.cpu_seconds:.1f} s | {size / data:.2f} |"
        )
        if form in _BY_HAND:
            tool, work = _BY_HAND[form]
            out = qcow2.with_name("by-hand")
            theirs = Effort.of(functools.partial(work, qcow2, out))
            out.unlink()
            row += (
                f" {tool} | {theirs.seconds:.1f} s | {theirs.cpu_seconds:.1f} s "
                f"| {ours.seconds / theirs.seconds:.2f} |"
            )
        yield row


def main() -> None:
    """Print the table for this host."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=Path, help="manifest of a baked image")
    parser.add_argument("--data-mib", type=int, default=200)
    parser.add_argument("--formats", nargs="*", default=["raw", "vmdk", "ova", "vhd", "gce"])
    arguments = parser.parse_args()
    scratch_dir = Project.find(Path(__file__).parent).build_dir / "bench"
    scratch_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch_dir) as name:
        scratch = Path(name)
        if arguments.image:
            manifest = Path(shutil.copy(arguments.image.resolve(), scratch))
            shutil.copy(arguments.image.resolve().with_suffix(".qcow2"), scratch)
        else:
            raw = make_disk(scratch / "source", data_mib=arguments.data_mib)
            manifest = publish(raw, scratch)
            raw.unlink()
        print("| format | ours | of the data | CPU | file / data | by hand | took | CPU | ratio |")
        print("|---|---|---|---|---|---|---|---|---|")
        for line in measure(manifest, arguments.formats):
            print(line, flush=True)


if __name__ == "__main__":
    main()
