# SPDX-License-Identifier: Apache-2.0
"""What joins the QEMU machines of one cluster? (An Ethernet switch; its ports are unix sockets.)

A process of its own, with nothing but Python's library: `switch.py NETWORK_DIR`, by which it is
found, and the listening socket as its standard input. Who connects speaks as QEMU's `-netdev
stream` does: before each frame its length.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import sys
from collections.abc import Iterator

_LENGTH = struct.Struct(">I")
# QEMU's NET_BUFSIZE: more is no frame of its.
_MAX_FRAME = 4096 + 65536
# A machine that doesn't read loses what comes then, as behind any switch.
_MAX_WAITING = 1 << 20
_CHUNK = 1 << 18
_READ, _BOTH = selectors.EVENT_READ, selectors.EVENT_READ | selectors.EVENT_WRITE


class Port:
    """One machine's cable."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = bytearray()
        self.waiting = bytearray()

    def frames(self, data: bytes) -> Iterator[bytes]:
        """Give the frames that are complete by now, each with its length before it.

        Raises ValueError at what can't be one.
        """
        self.received += data
        start = 0
        while len(self.received) >= start + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self.received, start)
            if not 14 <= length <= _MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes")
            end = start + _LENGTH.size + length
            if len(self.received) < end:
                break
            yield bytes(self.received[start:end])
            start = end
        del self.received[:start]

    def add(self, frame: bytes) -> None:
        """Queue a frame, if there is room."""
        if len(self.waiting) + len(frame) <= _MAX_WAITING:
            self.waiting += frame

    def flush(self) -> None:
        """Send of the queue what can be sent now."""
        with contextlib.suppress(BlockingIOError):
            while self.waiting:
                del self.waiting[: self.connection.send(self.waiting)]


class Switch:
    """The ports, and behind which of them an address was seen last."""

    def __init__(self) -> None:
        self.ports: list[Port] = []
        self.behind: dict[bytes, Port] = {}

    def receivers(self, source: Port, frame: bytes) -> list[Port]:
        """Learn where the sender is, and tell who gets the frame.

        One to an address that nobody was seen with goes to nobody: QEMU's user network answers for
        the whole world, whoever a frame is addressed to. Who is there has been seen: it has
        answered ARP or neighbour discovery, which go to all.
        """
        to, sender = frame[4:10], frame[10:16]
        self.behind[sender] = source
        if to[0] & 1:
            return [port for port in self.ports if port is not source]
        port = self.behind.get(to)
        return [] if port is None or port is source else [port]

    def remove(self, port: Port) -> None:
        """Forget a port and who was behind it."""
        self.ports.remove(port)
        self.behind = {mac: p for mac, p in self.behind.items() if p is not port}


def serve(listener: socket.socket) -> None:
    """Join whoever connects, for ever."""
    switch = Switch()
    with selectors.DefaultSelector() as selector:
        selector.register(listener, _READ)
        while True:
            for key, events in selector.select():
                if key.data is None:
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    switch.ports.append(Port(connection))
                    selector.register(connection, _READ, switch.ports[-1])
                elif key.data in switch.ports:
                    _handle(switch, key.data, events, selector)


def _handle(switch: Switch, port: Port, events: int, selector: selectors.BaseSelector) -> None:
    touched = [port]
    try:
        if events & _READ:
            data = port.connection.recv(_CHUNK)
            if not data:
                raise EOFError
            for frame in port.frames(data):
                for receiver in switch.receivers(port, frame):
                    receiver.add(frame)
                    touched.append(receiver)
    except (OSError, EOFError, ValueError):
        _unplug(switch, port, selector)
    for one in dict.fromkeys(touched):
        if one not in switch.ports:
            continue
        try:
            one.flush()
            selector.modify(one.connection, _BOTH if one.waiting else _READ, one)
        except OSError:
            _unplug(switch, one, selector)


def _unplug(switch: Switch, port: Port, selector: selectors.BaseSelector) -> None:
    selector.unregister(port.connection)
    port.connection.close()
    switch.remove(port)


if __name__ == "__main__":
    serve(socket.socket(fileno=sys.stdin.fileno()))
