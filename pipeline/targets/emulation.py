# SPDX-License-Identifier: Apache-2.0
"""What must an emulated x86 machine (TCG) be told, and what must it not have, to run well?"""

from __future__ import annotations

# systemd-stub(7): kernel arguments by SMBIOS; the image's boot loader reads them too.
KERNEL_ARGUMENTS_KEY = "io.systemd.stub.kernel-cmdline-extra"
# TCG's counter of time is sound but can't say so, and Linux then asks an emulated device for the
# time, thousands of times a second. Nor can emulated code be speculated in.
_KERNEL_ARGUMENTS = "tsc=reliable mitigations=off"
# Translated code of a whole Kubernetes node doesn't fit into the default cache.
TRANSLATION_CACHE_MIB = 1024

# Before, TCG's CMPXCHG16B breaks Linux now and then: it panics in its allocator, whose fast path
# has the instruction without LOCK (seen with 7.2 and Linux 6.12, with any number of CPUs;
# docs/targets.md). Between 7.2 and 10 nothing was tried; without it Linux is hardly slower. Only
# Linux is told (its admin-guide/kernel-parameters, clearcpuid): programs use it without asking, and
# haproxy, which has it with LOCK, would be ended by SIGILL if the CPU had none.
_SOUND_CMPXCHG16B_SINCE = 10
_WITHOUT_CMPXCHG16B = "clearcpuid=cx16"
# What a guest would use because it is there, and which makes it slower where it is emulated: a
# fifth level of page tables, a switch around each access to user memory, nested virtualisation.
SLOW_FEATURES = ("la57", "smap", "svm", "vmx")


def kernel_arguments(qemu_major: int) -> str:
    """Give what the kernel of a guest of this QEMU must be told."""
    if qemu_major >= _SOUND_CMPXCHG16B_SINCE:
        return _KERNEL_ARGUMENTS
    return f"{_KERNEL_ARGUMENTS} {_WITHOUT_CMPXCHG16B}"


def patience_s(qemu_major: int, machines: int) -> float:
    """Say how many seconds emulated machines may take until all of them are Ready.

    Seen with QEMU 10 on two CPUs, on a day on which the host emulated slowly: 280 s for one, 335 s
    for two, which share the CPUs. 7.2 took a sixth longer than 10 on two other CPUs; earlier, three
    times as long.
    """
    slower = 1.0 if qemu_major >= _SOUND_CMPXCHG16B_SINCE else 1.5
    return 900.0 * (machines + 1) * slower
