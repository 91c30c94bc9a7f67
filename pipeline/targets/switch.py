# SPDX-License-Identifier: Apache-2.0
"""What joins the QEMU machines of one cluster? (An Ethernet switch; its ports are unix sockets.)

A process of its own, with nothing but Python's library: `switch.py NAME [VLAN]`, by whose name it
is found, and the listening socket as its standard input. Who connects speaks as QEMU's `-netdev
stream` does: before each frame its length.

With a VLAN, who connects first (the router) has an access port of it: what comes from there is
tagged (IEEE 802.1Q), and there goes what has this tag, without it. All other ports are trunks.
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
_TAG = struct.Struct(">HH")
_TAGGED = 0x8100
_VLAN_BITS = 0xFFF
# In a frame with its length before it: two addresses of 6 bytes, and what its kind stands after.
_KIND = _LENGTH.size + 12
_READ, _BOTH = selectors.EVENT_READ, selectors.EVENT_READ | selectors.EVENT_WRITE


class Port:
    """One machine's cable; with a VLAN one whose end knows nothing of tags."""

    def __init__(self, connection: socket.socket, vlan: int | None = None) -> None:
        self.connection = connection
        self.vlan = vlan
        self.received = bytearray()
        self.waiting = bytearray()

    def frames(self, data: bytes) -> Iterator[bytes]:
        """Give the frames that are complete by now, as trunks carry them, their length before each.

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
            frame = bytes(self.received[start:end])
            yield frame if self.vlan is None else tag(frame, self.vlan)
            start = end
        del self.received[:start]

    def add(self, frame: bytes) -> None:
        """Queue a frame, if it is of the port's VLAN and there is room."""
        if self.vlan is not None:
            if vlan_of(frame) != self.vlan:
                return
            frame = untag(frame)
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


def tag(frame: bytes, vlan: int) -> bytes:
    """Put a VLAN's tag into a frame."""
    length = _LENGTH.pack(len(frame) - _LENGTH.size + _TAG.size)
    return length + frame[_LENGTH.size : _KIND] + _TAG.pack(_TAGGED, vlan) + frame[_KIND:]


def untag(frame: bytes) -> bytes:
    """Take the tag out of a frame that has one."""
    length = _LENGTH.pack(len(frame) - _LENGTH.size - _TAG.size)
    return length + frame[_LENGTH.size : _KIND] + frame[_KIND + _TAG.size :]


def vlan_of(frame: bytes) -> int | None:
    """Tell which VLAN's tag a frame has; None without any."""
    if len(frame) < _KIND + _TAG.size:
        return None
    kind, tagged = _TAG.unpack_from(frame, _KIND)
    return tagged & _VLAN_BITS if kind == _TAGGED else None


def serve(listener: socket.socket, first_vlan: int | None = None) -> None:
    """Join whoever connects, for ever; the first one has an access port of the VLAN."""
    switch, vlan = Switch(), first_vlan
    with selectors.DefaultSelector() as selector:
        selector.register(listener, _READ)
        while True:
            for key, events in selector.select():
                if key.data is None:
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    switch.ports.append(Port(connection, vlan))
                    vlan = None
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
    serve(socket.socket(fileno=sys.stdin.fileno()), *map(int, sys.argv[2:]))
