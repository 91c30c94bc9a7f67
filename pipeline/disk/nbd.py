# SPDX-License-Identifier: Apache-2.0
"""How is a disk read, whatever format its file has, without a second file that holds it raw?

qemu-nbd opens the file, knows the format, and serves the disk on a socket that nobody else can
reach: it has no name in the file system, and takes one client, which was there before it. It ends
with the connection, so with us, however we end.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import socket
import struct
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from kubekiln.errors import IntegrityError
from kubekiln.process import Command, end, run, spawn
from pipeline.disk.pieces import CHUNK, Piece, cut

Node = Mapping[str, Any]
"""A file with its format, as QEMU's block layer is told it."""

_SERVE = Path(__file__).with_name("serve-disk.sh")
_TIMEOUT_S = 120.0
# Requests on their way: qemu-nbd decompresses ahead while we use what we have.
_DEPTH = 4

# The protocol's numbers: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
_GREETING = struct.Struct(">8s8sH")
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_FIXED_NO_ZEROES = 3
_OPT_GO, _REP_ACK, _REP_INFO, _INFO_EXPORT = 7, 1, 3, 0
_OPTION_REPLY_MAGIC, _REQUEST_MAGIC, _REPLY_MAGIC = 0x3E889045565A9, 0x25609513, 0x67446698
_CMD_READ = 0


class Disk:
    """A disk that is read; made by `open_disk`."""

    def __init__(self, connection: socket.socket, node: Node, said: IO[bytes]) -> None:
        self._connection, self._node, self._said = connection, node, said
        self._lengths: dict[int, int] = {}
        self.size = self._shake_hands()

    def read(self, offset: int, length: int) -> bytes:
        """Read a part of the disk."""
        found = b""
        for at in range(offset, offset + length, CHUNK):
            found += self._read(at, min(CHUNK, offset + length - at))
        return found

    def pieces(self) -> Iterator[Piece]:
        """Read the whole disk, from its first byte to its last."""
        asked: deque[tuple[int, bool]] = deque()
        waiting: dict[int, bytes] = {}
        for start, extent, zero in extents(self._node):
            for offset, length in cut(start, min(start + extent, self.size)):
                if not zero:
                    self._ask(offset, length)
                asked.append((length if zero else offset, zero))
                if len(asked) > _DEPTH:
                    yield self._next(asked, waiting)
        while asked:
            yield self._next(asked, waiting)

    def _next(self, asked: deque[tuple[int, bool]], waiting: dict[int, bytes]) -> Piece:
        """Give the oldest piece that was asked for; answers come in any order."""
        key, zero = asked.popleft()
        if zero:
            return Piece(key, None)
        while key not in waiting:
            offset, data = self._answer()
            waiting[offset] = data
        data = waiting.pop(key)
        return Piece(len(data), data)

    def _read(self, offset: int, length: int) -> bytes:
        self._ask(offset, length)
        return self._answer()[1]

    def _ask(self, offset: int, length: int) -> None:
        self._lengths[offset] = length
        self._send(_REQUEST.pack(_REQUEST_MAGIC, 0, _CMD_READ, offset, offset, length))

    def _answer(self) -> tuple[int, bytes]:
        magic, error, offset = _REPLY.unpack(self._receive(_REPLY.size))
        if magic != _REPLY_MAGIC or error:
            raise self._broken(f"error {error} at byte {offset}")
        return offset, self._receive(self._lengths.pop(offset))

    def _shake_hands(self) -> int:
        """Choose the only export; gives its size."""
        self._receive(_GREETING.size)
        # An export without a name, and no information asked for beyond what always comes.
        choice = _OPTION.pack(b"IHAVEOPT", _OPT_GO, 6) + struct.pack(">IH", 0, 0)
        self._send(struct.pack(">I", _FIXED_NO_ZEROES) + choice)
        size = None
        while True:
            _, _, kind, length = _OPTION_REPLY.unpack(self._receive(_OPTION_REPLY.size))
            data = self._receive(length)
            if kind == _REP_INFO and struct.unpack_from(">H", data)[0] == _INFO_EXPORT:
                size = int(struct.unpack_from(">Q", data, 2)[0])
            elif kind == _REP_ACK and size is not None:
                return size
            elif kind != _REP_INFO:
                raise self._broken(f"qemu-nbd answers {kind:#x}")

    def _send(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise self._broken(str(error)) from error

    def _receive(self, length: int) -> bytes:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            try:
                count = self._connection.recv_into(view)
            except OSError as error:
                raise self._broken(str(error)) from error
            if not count:
                raise self._broken("qemu-nbd ended")
            view = view[count:]
        return bytes(data)

    def _broken(self, how: str) -> IntegrityError:
        """Make an error of what the server said, if it said anything."""
        self._said.seek(0)
        words = self._said.read().decode(errors="replace").strip()
        return IntegrityError(f"cannot read {describe(self._node)}: {words or how}")


@contextlib.contextmanager
def open_disk(node: Node) -> Iterator[Disk]:
    """Serve a disk to ourselves; raises IntegrityError, with qemu-nbd's words, if it is broken."""
    with (
        tempfile.TemporaryFile() as said,
        socket.socket(socket.AF_UNIX) as connection,
        _served(node, connection, said),
    ):
        connection.settimeout(_TIMEOUT_S)
        yield Disk(connection, node, said)


def file_node(path: Path, driver: str) -> Node:
    """Describe a file in one of QEMU's formats."""
    return {"driver": driver, "file": {"driver": "file", "filename": str(path)}}


def part_node(path: Path, driver: str, *, offset: int, size: int) -> Node:
    """Describe a part of a file that is in one of QEMU's formats."""
    part = {"driver": "raw", "offset": offset, "size": size, "file": file_node(path, "raw")["file"]}
    return {"driver": driver, "file": part}


def argument(node: Node) -> str:
    """Write a node as QEMU's tools take it instead of a file's name."""
    return f"json:{json.dumps(node)}"


def describe(node: Node) -> str:
    """Name the file of a node."""
    while "file" in node:
        node = node["file"]
    return str(node["filename"])


def extents(node: Node) -> Iterator[tuple[int, int, bool]]:
    """List offset, length and whether it reads as zeros, from the first byte to the last."""
    told = run(Command(["qemu-img", "map", "--output=json", argument(node)])).stdout
    for extent in json.loads(told):
        yield extent["start"], extent["length"], extent["zero"]


@contextlib.contextmanager
def _served(node: Node, connection: socket.socket, said: IO[bytes]) -> Iterator[None]:
    """Run the server, with our connection in its queue before it is there."""
    # A name in the abstract namespace: there is no file that we could leave behind.
    address = f"\0kubekiln-{secrets.token_hex(16)}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(1)
        connection.connect(address)
        what_for = "to read disks of all formats"
        command = Command([_SERVE, "--read-only", argument(node)], what_for=what_for)
        server = spawn(command, stdin=listener.fileno(), stdout=said)
    try:
        yield
    finally:
        # It only reads, and would first send all that it was asked for.
        end(server.pid, group=True, how=signal.SIGKILL)
        server.wait()
