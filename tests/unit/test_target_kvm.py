# SPDX-License-Identifier: Apache-2.0
"""Is KVM believed only when a guest really ran?"""

from __future__ import annotations

from pathlib import Path

import pytest

from kubekiln.errors import CommandFailed
from kubekiln.process import Command, Result
from pipeline.targets import kvm

# What kvm.BOOT_SECTOR is assembled from: see the test below for how.
SOURCE = """
.code16
.globl _start
_start: cli
        xor %ax, %ax
        mov %ax, %ds
        lgdt gdtr
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmp $8, $protected
.code32
protected:
        mov $16, %ax
        mov %ax, %ds
        mov %cr4, %eax
        or $0x600, %eax         # OSFXSR, OSXMMEXCPT: SSE may be used
        mov %eax, %cr4
        mov %cr0, %eax
        and $0xfffffffb, %eax   # EM off
        mov %eax, %cr0
        xor %eax, %eax
        cpuid
        pxor %xmm0, %xmm0
        paddd %xmm0, %xmm0
        mov $100000000, %ecx
turn:   dec %ecx
        jnz turn
        mov $0x2a, %al
        out %al, $0xf4
rest:   hlt
        jmp rest
.align 4
gdt:    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdtr:   .word 23
        .long gdt
.org 510
.word 0xaa55
"""


def answer(result: Result | Exception, asked: list[Command]) -> object:
    def run(command: Command, *, check: bool = True) -> Result:
        asked.append(command)
        if isinstance(result, Exception):
            raise result
        return result

    return run


@pytest.mark.processes("as", "ld")
def test_the_boot_sector_is_what_its_source_says(tmp_path: Path) -> None:
    from kubekiln.process import find_tool, run

    if not find_tool("as"):
        pytest.skip("no assembler on this host (binutils)")
    (tmp_path / "boot.s").write_text(SOURCE)

    run(Command(["as", "--32", "boot.s", "-o", "boot.o"], cwd=tmp_path))
    run(Command(["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary", "boot.o",
                 "-o", "boot.bin"], cwd=tmp_path))  # fmt: skip

    assert (tmp_path / "boot.bin").read_bytes() == kvm.BOOT_SECTOR
    assert len(kvm.BOOT_SECTOR) == 512


@pytest.mark.parametrize(
    ("result", "works", "why"),
    [
        pytest.param(Result(85), True, "a tiny guest ran", id="ran"),
        pytest.param(
            Result(-6, b"", b"qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69\n"),
            False, "failed to set MSR 0x10a", id="qemu-aborts",
        ),
        pytest.param(CommandFailed("not finished"), False, "hung for 10 s", id="guest-hangs"),
        pytest.param(Result(1), False, "QEMU ended with 1", id="silent"),
    ],
)  # fmt: skip
def test_the_probe_believes_only_a_guest_that_came_to_its_end(
    monkeypatch: pytest.MonkeyPatch, result: Result | Exception, works: bool, why: str
) -> None:
    asked: list[Command] = []
    monkeypatch.setattr(kvm, "run", answer(result, asked))

    verdict, reason = kvm.probe(Path("/usr/bin/qemu-system-x86_64"))

    assert verdict is works
    assert why in reason
    assert "kvm" in asked[0].argv


def test_the_answer_is_kept_for_this_boot_of_the_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Command] = []
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kvm, "_DEVICE", qemu)
    monkeypatch.setattr(kvm, "find_tool", lambda _name: qemu)
    monkeypatch.setattr(kvm, "run", answer(Result(85), asked))

    answers = [kvm.kvm_works(), kvm.kvm_works()]

    assert answers == [(True, "a tiny guest ran")] * 2
    assert len(asked) == 1


@pytest.mark.parametrize(("code", "probes"), [(85, 1), (1, 2)], ids=["yes", "no"])
def test_a_no_is_asked_again_after_a_minute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, probes: int
) -> None:
    asked: list[Command] = []
    now = 1000.0
    qemu = tmp_path / "qemu-system-x86_64"
    qemu.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kvm, "_DEVICE", qemu)
    monkeypatch.setattr(kvm, "find_tool", lambda _name: qemu)
    monkeypatch.setattr(kvm, "run", answer(Result(code), asked))
    monkeypatch.setattr(kvm.time, "time", lambda: now)

    kvm.kvm_works()
    now += 59
    kvm.kvm_works()
    assert len(asked) == 1

    now += 2
    kvm.kvm_works()
    assert len(asked) == probes


def test_another_qemu_is_asked_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Command] = []
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch()
    new.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kvm, "_DEVICE", old)
    monkeypatch.setattr(kvm, "run", answer(Result(85), asked))

    for qemu in (old, new):
        monkeypatch.setattr(kvm, "find_tool", lambda _name, found=qemu: found)
        kvm.kvm_works()

    assert len(asked) == 2


def test_no_device_means_no_guest_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Command] = []
    monkeypatch.setattr(kvm, "find_tool", lambda _name: tmp_path / "qemu")
    monkeypatch.setattr(kvm, "_DEVICE", tmp_path / "absent")
    monkeypatch.setattr(kvm, "run", answer(Result(85), asked))

    assert kvm.kvm_works() == (False, f"there is no {tmp_path / 'absent'}")
    assert asked == []
