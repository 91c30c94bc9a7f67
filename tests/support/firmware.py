# SPDX-License-Identifier: Apache-2.0
"""What is QEMU told for each kind of firmware?"""

from __future__ import annotations

OVMF = "/usr/share/OVMF"
FIRMWARE: dict[str, list[str]] = {
    "BIOS": ["-machine", "pc"],
    "UEFI": ["-machine", "q35", "-bios", "/usr/share/ovmf/OVMF.fd"],
    # As it is sold: its variables hold Microsoft's keys, and only what is signed by them starts.
    "Secure Boot": [
        "-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on",
        "-drive", f"if=pflash,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.secboot.fd",
        "-drive", f"if=pflash,format=raw,snapshot=on,file={OVMF}/OVMF_VARS_4M.ms.fd",
    ],
}  # fmt: skip
