# SPDX-License-Identifier: Apache-2.0
"""How does a line reach the machine's console without ever holding up the boot?"""

from __future__ import annotations

import os
import sys
import time

CONSOLE = "/dev/console"
CONTAINER_MARK = "/run/systemd/container"


def say(line: str, *, console: str = CONSOLE) -> None:
    """Write one line to the journal (stdout) and to the console; a lost console is no error."""
    print(line, flush=True)
    data = f"{line}\n".encode()
    try:
        # A serial console with flow control may never take the bytes: don't wait for it.
        fd = os.open(console, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        for _ in range(20):
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                pass
            except OSError:
                return
            if not data:
                return
            time.sleep(0.05)
    finally:
        os.close(fd)


def quote(text: str) -> str:
    """Put text on one line between double quotes, so that a reader may split on them."""
    flat = " ".join(text.split()).replace("\\", "/").replace('"', "'")
    return f'"{flat}"'


def machine_seconds() -> float:
    """Seconds since the kernel started; in a container machine since its pid 1 started."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    if not os.path.exists(CONTAINER_MARK):
        return now
    with open("/proc/1/stat", encoding="ascii") as stat:
        after_name = stat.read().rpartition(")")[2].split()
    # proc(5): starttime is field 22; the split starts at field 3.
    return now - int(after_name[19]) / os.sysconf("SC_CLK_TCK")


def fail(line: str) -> int:
    """Say why on stderr; the exit status to return."""
    print(line, file=sys.stderr, flush=True)
    return 1
