"""Runs in a pod: does every place answer? Arguments: JSON of what to ask; prints what did not."""

import json
import socket
import sys
import time
import urllib.request

TRIES = 30


def http(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def echo(host, size):
    data = bytes(size)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.settimeout(2)
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


ASK = {"http": http, "echo": echo, "resolve": resolve, "reverse": reverse}


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
