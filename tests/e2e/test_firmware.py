# SPDX-License-Identifier: Apache-2.0
"""Does the disk boot under both kinds of firmware?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kubekiln.process import Command, end, run, spawn
from pipeline.targets.emulation import KERNEL_ARGUMENTS_KEY
from pipeline.targets.qemu import choose_accelerator
from tests.support.waiting import until

OVMF = "/usr/share/ovmf/OVMF.fd"
# Firmware, GRUB, kernel, initrd and the start of systemd, emulated on a busy host.
BOOT_S = 600.0

pytestmark = [pytest.mark.e2e, pytest.mark.qemu]


@pytest.mark.parametrize(
    ("firmware", "machine", "proof"),
    [([], "pc", "BIOS"), ([], "q35", "BIOS"), (["-bios", OVMF], "q35", "UEFI")],
    ids=["BIOS, i440FX", "BIOS, Q35", "UEFI"],
)
def test_the_kernel_finds_its_root_and_starts_systemd(
    image: Path, tmp_path: Path, firmware: list[str], machine: str, proof: str
) -> None:
    console, disk = tmp_path / "console.log", tmp_path / "disk.qcow2"
    run(Command(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, disk]))
    qemu = spawn(
        Command(
            ["qemu-system-x86_64", "-machine", machine, *choose_accelerator(1).arguments, *firmware,
             "-m", "1024", "-nodefaults", "-display", "none", "-serial", f"file:{console}",
             "-smbios", f"type=11,value={KERNEL_ARGUMENTS_KEY}=loglevel=7 kubekiln.probe",
             "-drive", f"file={disk},if=virtio,cache=unsafe"]
        )
    )  # fmt: skip
    try:
        until(
            lambda: qemu.poll() is not None or "Welcome to " in said(console),
            what=f"systemd starts under {proof}", timeout_s=BOOT_S,
        )  # fmt: skip
    finally:
        end(qemu.pid)
        qemu.wait()

    assert "Welcome to " in said(console)
    assert re.search(r"Command line: .* console=ttyS0.* loglevel=7 kubekiln\.probe", said(console))
    assert ("BdsDxe: starting Boot" in said(console)) == (proof == "UEFI")


def said(console: Path) -> str:
    return console.read_text(errors="replace") if console.is_file() else ""
