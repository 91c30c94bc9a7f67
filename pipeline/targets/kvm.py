# SPDX-License-Identifier: Apache-2.0
"""Does KVM work on this host? (Not: is /dev/kvm there; a tiny guest is really run.)

/dev/kvm may exist, open and answer its version, and still be unable to run a guest: nested
virtualisation that is switched off below us, or a hypervisor that emulates every instruction.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

from kubekiln.errors import CommandFailed
from kubekiln.files import write_atomic
from kubekiln.paths import cache_dir
from kubekiln.process import Command, find_tool, run

QEMU = "qemu-system-x86_64"
_DEVICE = Path("/dev/kvm")
_DEADLINE_S = 10.0
_NO_HOLDS_S = 60.0

# A boot sector: into protected mode, CPUID, two SSE2 instructions (what a KVM that only emulates
# can't do), 100 million turns of a loop (natively 0.05 s; emulated it misses the deadline), then
# 42 to port 0xF4. tests/unit/test_target_kvm.py holds its assembler source.
BOOT_SECTOR = (
    bytes.fromhex(
        "fa31c08ed80f0116647c0f20c00c010f22c0ea177c080066b810008ed80f20e00d000600000f22e00f20c083e0fb"
        "0f22c031c00fa2660fefc0660ffec0b900e1f5054975fdb02ae6f4f4ebfd0000000000000000ffff0000009acf00"
        "ffff00000092cf0017004c7c0000"
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)
# isa-debug-exit(QEMU): the process ends with (value << 1) | 1.
_EXIT_OF_SUCCESS = (42 << 1) | 1


def kvm_works() -> tuple[bool, str]:
    """Tell whether guests run under KVM, and a sentence why (not).

    The guest is run once per boot of the host and QEMU binary; a yes is then kept, and a no for a
    minute: a busy host may have missed the deadline, and who repairs it asks again.
    """
    qemu = find_tool(QEMU)
    if qemu is None:
        return False, f"{QEMU} is not installed"
    if not _DEVICE.exists():
        return False, f"there is no {_DEVICE}"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return False, f"{_DEVICE} is not ours to use (a group named kvm usually may)"
    return _cached(qemu)


def kvm_fails() -> bool:
    """Tell whether a guest was tried under KVM here in vain; False if we can't try: others may."""
    ours = os.access(_DEVICE, os.R_OK | os.W_OK)
    return ours and find_tool(QEMU) is not None and not kvm_works()[0]


def _cached(qemu: Path) -> tuple[bool, str]:
    asked = {
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "qemu": f"{qemu.resolve()} {qemu.stat().st_mtime_ns}",
        "uid": os.getuid(),
    }
    cache = cache_dir() / "kvm-probe.json"
    try:
        known = json.loads(cache.read_text())
        is_fresh = known["works"] or 0 <= time.time() - known["when"] < _NO_HOLDS_S
        if known["asked"] == asked and is_fresh:
            return bool(known["works"]), str(known["why"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no answer yet, or one that can't be read: ask anew
    works, why = probe(qemu)
    answer = {"asked": asked, "works": works, "why": why, "when": time.time()}
    write_atomic(cache, json.dumps(answer))
    return works, why


def probe(qemu: Path, *, accelerator: str = "kvm", cpu: str = "host") -> tuple[bool, str]:
    """Run the boot sector; tells whether it came to its end in time, and a sentence about it."""
    with tempfile.TemporaryDirectory(prefix="kubekiln-probe-") as scratch:
        disk = Path(scratch) / "boot.img"
        disk.write_bytes(BOOT_SECTOR)
        command = Command(
            [
                qemu, "-accel", accelerator, "-cpu", cpu, "-m", "16", "-no-user-config",
                "-nodefaults", "-display", "none", "-serial", "none",
                "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
                "-drive", f"file={disk},format=raw,if=ide",
            ],
            timeout_s=_DEADLINE_S,
        )  # fmt: skip
        try:
            result = run(command, check=False)
        except CommandFailed:
            return False, f"/dev/kvm is there, but a tiny guest hung for {_DEADLINE_S:g} s"
    if result.returncode == _EXIT_OF_SUCCESS:
        return True, "a tiny guest ran"
    said = result.stderr.decode(errors="replace").strip().splitlines()
    detail = said[0].removeprefix(f"{QEMU}: ") if said else f"QEMU ended with {result.returncode}"
    return False, f"/dev/kvm is there, but can't run a guest: {detail}"
