# SPDX-License-Identifier: Apache-2.0
"""How do tests read QEMU's command, and with which accelerator is it made?"""

from __future__ import annotations

from pathlib import Path

from pipeline.targets.qemu import Accelerator

KVM = Accelerator("kvm", 2, ("-accel", "kvm", "-cpu", "host"))


def option(command: list[str | Path], name: str) -> list[str]:
    """List what is given with an option, each time that it is."""
    words = [str(word) for word in command]
    return [words[i + 1] for i, word in enumerate(words) if word == name]
