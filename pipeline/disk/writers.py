# SPDX-License-Identifier: Apache-2.0
"""How is a disk written in each format, and how is that read back?

A writer makes one file at the place that it is given, and nothing else: so a conversion never needs
room for more than its result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from kubekiln.process import Command, run
from pipeline.disk.gce import read_gce, write_gce
from pipeline.disk.nbd import Node, argument, file_node, open_disk, part_node
from pipeline.disk.ova import check_ova, read_ova, write_ova
from pipeline.disk.ovf import Appliance
from pipeline.disk.pieces import Piece, padded, require_same
from pipeline.disk.roottar import check_root_tar, write_root_tar
from pipeline.disk.vhd import settle_footer
from pipeline.disk.vmdk import GRAIN, write_vmdk
from pipeline.targets.platform import FormatName

MIB, GIB = 1 << 20, 1 << 30
_SECTOR = 512


@dataclass(frozen=True)
class Source:
    """The disk that is converted."""

    node: Node
    name: str
    """What its files are called, without a suffix."""
    size: int
    """Of the disk, in bytes, as it is to be: zeros follow what the file has."""
    architecture: str

    @contextlib.contextmanager
    def pieces(self) -> Iterator[Iterator[Piece]]:
        """Read it, with the zeros."""
        with open_disk(self.node) as disk:
            yield padded(disk.pieces(), self.size)


@dataclass(frozen=True)
class Writer:
    """One format."""

    suffix: str
    unit: int
    """The disk's size must be a multiple of this many bytes."""
    write: Callable[[Source, Path], None]
    check: Callable[[Source, Path], None]
    """Read back; raises IntegrityError."""


def _write_raw(source: Source, out: Path) -> None:
    _convert(source, out, "raw")


def _write_vmdk(source: Source, out: Path) -> None:
    with source.pieces() as pieces:
        write_vmdk(pieces, source.size, out, name=source.name)


def _write_ova(source: Source, out: Path) -> None:
    # In one place: the vmdk becomes the OVA.
    _write_vmdk(source, out)
    write_ova(out, out, Appliance(source.name, source.size, source.architecture))


def _write_vhd(source: Source, out: Path) -> None:
    # force_size: the size as it is, not the next one that cylinders, heads and sectors can say.
    options = ["-f", "vpc", "-o", "subformat=fixed,force_size=on"]
    _run("qemu-img", "create", "-q", *options, out, str(source.size))
    _convert(source, out, "vpc", "-n", "--target-is-zero")
    settle_footer(out, source.name)


def _write_gce(source: Source, out: Path) -> None:
    with source.pieces() as pieces:
        write_gce(pieces, source.size, out)


def _write_tar(source: Source, out: Path) -> None:
    with open_disk(source.node) as disk:
        write_root_tar(disk, out)


def _check_ova(source: Source, path: Path) -> None:
    check_ova(path)
    _check_disk(_ova_node)(source, path)


def _check_gce(source: Source, path: Path) -> None:
    with source.pieces() as pieces:
        require_same(pieces, read_gce(path), name=path.name)


def _check_tar(source: Source, path: Path) -> None:
    with open_disk(source.node) as disk:
        check_root_tar(disk, path)


def _check_disk(node_of: Callable[[Path], Node]) -> Callable[[Source, Path], None]:
    def check(source: Source, path: Path) -> None:
        with source.pieces() as pieces, open_disk(node_of(path)) as disk:
            require_same(pieces, disk.pieces(), name=path.name)

    return check


def _ova_node(path: Path) -> Node:
    ova = read_ova(path)
    return part_node(path, "vmdk", offset=ova.disk_offset, size=ova.disk_size)


WRITERS: Mapping[FormatName, Writer] = MappingProxyType(
    {
        "raw": Writer("raw", _SECTOR, _write_raw, _check_disk(lambda p: file_node(p, "raw"))),
        "vmdk": Writer("vmdk", GRAIN, _write_vmdk, _check_disk(lambda p: file_node(p, "vmdk"))),
        "ova": Writer("ova", GRAIN, _write_ova, _check_ova),
        # Azure's sizes: https://learn.microsoft.com/azure/virtual-machines/linux/create-upload-generic
        "vhd": Writer("vhd", MIB, _write_vhd, _check_disk(lambda p: file_node(p, "vpc"))),
        "gce": Writer("tar.gz", GIB, _write_gce, _check_gce),
        "tar": Writer("tar", 1, _write_tar, _check_tar),
    }
)
"""All that are made of the qcow2, which a bake makes itself."""


def _convert(source: Source, out: Path, to: str, *options: str) -> None:
    """Have qemu-img write a format."""
    _run("qemu-img", "convert", "-O", to, *options, argument(source.node), out)


def _run(*words: str | Path) -> None:
    """Run a tool that ends when we are killed: nobody would wait for what it writes."""
    run(Command(["setpriv", "--pdeathsig", "KILL", *words], what_for="to convert images"))
