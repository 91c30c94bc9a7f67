# SPDX-License-Identifier: Apache-2.0
"""Does the disk boot under every kind of firmware?

All machines at once: each has one emulated CPU. (BIOS on Q35 is what every other test's boot is.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest

from kubekiln.process import Command, end, run, spawn
from pipeline.targets.emulation import KERNEL_ARGUMENTS_KEY
from pipeline.targets.qemu import choose_accelerator
from tests.support.firmware import FIRMWARE
from tests.support.waiting import until

# Firmware, GRUB, kernel, initrd and the start of systemd, emulated on a busy host.
BOOT_S = 600.0

pytestmark = [pytest.mark.e2e, pytest.mark.qemu, pytest.mark.alone]


@dataclass(frozen=True)
class Boot:
    """A machine that was switched on."""

    process: Popen[bytes]
    console: Path

    @property
    def said(self) -> str:
        return self.console.read_text(errors="replace") if self.console.is_file() else ""


@pytest.fixture(scope="module")
def boots(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Boot]]:
    """A machine of each firmware, that boots from the baked disk."""
    directory = tmp_path_factory.mktemp("firmware")
    booting = {name: switch_on(image, directory / name, FIRMWARE[name]) for name in FIRMWARE}
    yield booting
    for boot in booting.values():
        end(boot.process.pid)
        boot.process.wait()


def switch_on(image: Path, directory: Path, firmware: list[str]) -> Boot:
    directory.mkdir()
    console, disk = directory / "console.log", directory / "disk.qcow2"
    run(Command(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, disk]))
    words = [
        "qemu-system-x86_64", *firmware, *choose_accelerator(1).arguments,
        "-m", "1024", "-nodefaults", "-display", "none", "-serial", f"file:{console}",
        "-smbios", f"type=11,value={KERNEL_ARGUMENTS_KEY}=loglevel=7 kubekiln.probe",
        "-drive", f"file={disk},if=virtio,cache=unsafe",
    ]  # fmt: skip
    return Boot(spawn(Command(words)), console)


@pytest.mark.parametrize("name", FIRMWARE)
def test_the_kernel_finds_its_root_and_starts_systemd(boots: dict[str, Boot], name: str) -> None:
    boot = boots[name]
    until(
        lambda: boot.process.poll() is not None or "Welcome to " in boot.said,
        what=f"systemd starts under {name}", timeout_s=BOOT_S,
    )  # fmt: skip

    assert "Welcome to " in boot.said
    assert re.search(r"Command line: .* console=ttyS0.* loglevel=7 kubekiln\.probe", boot.said)
    assert ("BdsDxe: starting Boot" in boot.said) == (name != "BIOS")
    assert ("secureboot: Secure boot enabled" in boot.said) == (name == "Secure Boot")
    assert ("Kernel is locked down from EFI Secure Boot" in boot.said) == (name == "Secure Boot")
