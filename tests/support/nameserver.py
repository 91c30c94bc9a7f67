# SPDX-License-Identifier: Apache-2.0
"""Who answers for names outside of a cluster, where there is no Internet?

Also a program: `python -m tests.support.nameserver ADDRESS NAME IPV4` answers for one name, and
that there is no other.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kubekiln.process import Command, run, spawn
from pipeline.targets.netns import network_pid
from tests.support.fleet import Fleet

ROOT = Path(__file__).resolve().parents[2]
NAME = "outside.example"
# RFC 5737: nobody's.
ADDRESS = "192.0.2.7"
_ANSWERED, _NO_SUCH_NAME = 0x8180, 0x8183


@contextmanager
def nameserver(fleet: Fleet) -> Iterator[None]:
    """Answer at the address of a fleet's name server, beside its machines, for NAME alone."""
    machine = next(iter(fleet.machines.values()))
    own = fleet.plan.cluster.network.nameservers[0]
    inside = ["nsenter", f"--net=/proc/{network_pid(machine.network_dir)}/ns/net"]
    run(Command([*inside, "ip", "address", "replace", f"{own}/32", "dev", "kk0"]))
    program = [sys.executable, "-m", "tests.support.nameserver", str(own), NAME, ADDRESS]
    child = spawn(Command([*inside, *program], cwd=ROOT))
    try:
        yield
    finally:
        child.kill()
        child.wait(30)


def answer(query: bytes, name: str, address: str) -> bytes:
    """Give the reply to one question."""
    end = query.index(b"\0", 12) + 1
    asked, kind = query[12:end], query[end : end + 4]
    wanted = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    known, is_ipv4 = asked.lower() == wanted, kind == struct.pack("!2H", 1, 1)
    record = struct.pack("!3HIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(address)
    found = record if known and is_ipv4 else b""
    flags = _ANSWERED if known else _NO_SUCH_NAME
    head = query[:2] + struct.pack("!5H", flags, 1, bool(found), 0, 0)
    return head + asked + kind + found


def serve(own: str, name: str, address: str) -> None:
    """Answer for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((own, 53))
        while True:
            query, sender = udp.recvfrom(1500)
            udp.sendto(answer(query, name, address), sender)


if __name__ == "__main__":
    serve(*sys.argv[1:])
