# SPDX-License-Identifier: Apache-2.0
"""Runs in a pod: does every place answer? Arguments: JSON of what to ask; prints what did not."""

import json
import pathlib
import socket
import struct
import sys
import time
import urllib.request

TRIES = 30


def http(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


# linux/in.h; Python has no names for them.
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2


def whole(host, size):
    """Send one datagram (IPv4) that nobody may take apart."""
    echo(host, size, may_be_cut=False)


def echo(host, size, may_be_cut=True):
    data = bytes(size)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.settimeout(2)
        if not may_be_cut:
            udp.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        udp.sendto(data, (host, 8080))
        if udp.recv(65535) != data:
            raise OSError("came back changed")


def resolve(name, version):
    family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
    socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)


def reverse(address, name):
    found = socket.gethostbyaddr(address)[0]
    if found != name:
        raise OSError(f"is called {found}")


def name(host, address):
    found = {item[4][0] for item in socket.getaddrinfo(host, 80, proto=socket.IPPROTO_TCP)}
    if found != {address}:
        raise OSError(f"is {found}")


def absent(host):
    begun = time.monotonic()
    try:
        socket.getaddrinfo(host, 80)
    except socket.gaierror as error:
        # Not "try again", after which programs do.
        if error.errno != socket.EAI_NONAME or time.monotonic() - begun > 2:
            raise OSError(f"{error} after {time.monotonic() - begun:.1f} s") from error
    else:
        raise OSError("there is such a name")


def dns(server, host, address):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in host.split("."))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(5)
        head = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0)
        udp.sendto(head + labels + struct.pack("!B2H", 0, 1, 1), (server, 53))
        if not udp.recv(512).endswith(socket.inet_aton(address)):
            raise OSError("another answer")


def holds(path, text):
    content = pathlib.Path(path).read_text().strip()
    if content != text:
        raise OSError(f"holds {content!r}")


ASK = {
    "http": http, "echo": echo, "resolve": resolve, "reverse": reverse, "name": name,
    "absent": absent, "dns": dns, "holds": holds, "whole": whole,
}  # fmt: skip


def attempt(question):
    kind, *words = question
    # Proxies and DNS follow a Service within a moment, not at once.
    for left in reversed(range(TRIES)):
        try:
            return ASK[kind](*words)
        except OSError as error:
            last = error
            if left:
                time.sleep(0.5)
    return f"FAILED {last}"


failed = []
for question in json.loads(sys.argv[1]):
    said = attempt(question)
    if said is not None and said.startswith("FAILED"):
        failed.append([*question, said])
print(json.dumps(failed))
