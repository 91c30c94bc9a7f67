# SPDX-License-Identifier: Apache-2.0
"""A small disk with a root file system on it that has files of every kind."""

from __future__ import annotations

import os
import random
from pathlib import Path

from kubekiln.process import Command, RealRunner, run
from pipeline.disk.layout import MIB, make_layout, write_table
from tests.support.disks import publish

XATTR = b"\x01\x00\xff value"


def make_tree(tree: Path) -> None:
    """Make files of every kind that a user may make."""
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/os-release").write_text("ID=test\n")
    (tree / "etc/empty").touch()
    (tree / "etc/closed").mkdir(mode=0o700)
    (tree / "etc/s\u00e9curit\u00e9").write_text("name beyond ASCII\n")
    (tree / "etc/setuid").write_bytes(b"#!/bin/sh\n")
    (tree / "etc/setuid").chmod(0o4755)
    (tree / "etc/short").symlink_to("os-release")
    (tree / "etc/long").symlink_to("/" + "a-long-way/" * 20)
    (tree / "etc/again").hardlink_to(tree / "etc/os-release")
    os.mkfifo(tree / "etc/fifo")
    os.setxattr(tree / "etc/os-release", "user.note", XATTR)
    os.setxattr(tree / "etc/os-release", "user.large", b"x" * 900)
    deep = tree / "srv" / "/".join(["a-directory-with-a-name"] * 8)
    deep.mkdir(parents=True)
    (deep / ("n" * 200)).write_text("a path of more than 255 bytes\n")
    (tree / "many").mkdir()
    for number in range(700):
        (tree / "many" / f"file-with-a-long-name-{number:04}").write_text(f"{number}\n")
    noise = random.Random(3)
    with (tree / "srv/sparse").open("wb") as out:
        for at_mib in range(0, 30, 2):
            out.seek(at_mib * MIB + 100)
            out.write(noise.randbytes(70_000))
        out.truncate(31 * MIB)
    (tree / "srv/large").write_bytes(noise.randbytes(9 * MIB + 1))


def publish_root_disk(tmp_path: Path, directory: Path, *, noise_mib: int = 0) -> Path:
    """Publish a disk with a root file system, made as the pipeline makes it."""
    tree, raw = tmp_path / "tree", tmp_path / "source.raw"
    make_tree(tree)
    (tree / "noise").write_bytes(random.Random(2).randbytes(noise_mib * MIB))
    layout = make_layout(size_mib=160, architecture="amd64", seed="x")
    write_table(raw, layout, runner=RealRunner())
    offset = f"offset={layout.root.start},lazy_itable_init=1"
    run(
        Command(["mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, "-J", "size=4", "-E", offset, raw,
                 f"{layout.root.size // 1024}k"])
    )  # fmt: skip
    commands = tmp_path / "commands"
    commands.write_text("cd /etc\nmknod disk b 8 17\nmknod whiteout c 0 0\nmknod far c 300 60000\n"
                        "sif os-release uid 1234567\nsif os-release gid 98765\n")  # fmt: skip
    run(Command(["debugfs", "-w", "-f", commands, f"{raw}?offset={layout.root.start}"]))
    return publish(raw, directory)
