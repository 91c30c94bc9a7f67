# SPDX-License-Identifier: Apache-2.0
"""Do the QEMU machines of one cluster, and nobody else, get each other's frames?"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from kubekiln.errors import KubekilnError
from kubekiln.process import Command, end, spawn
from pipeline.targets import segment
from pipeline.targets.switch import Port, Switch
from tests.support.machines import make_machine
from tests.support.qemu import option

ALL = b"\xff" * 6
A, B, C = (bytes([0x52, 0x54, 0, 0, 0, n]) for n in (1, 2, 3))


def frame(to: bytes, sender: bytes, payload: bytes = b"hello") -> bytes:
    whole = to + sender + b"\x08\x00" + payload
    return struct.pack(">I", len(whole)) + whole


def tagged(whole: bytes, vlan: int) -> bytes:
    body = whole[4:16] + b"\x81\x00" + struct.pack(">H", vlan) + whole[16:]
    return struct.pack(">I", len(body)) + body


def three_ports() -> tuple[Switch, list[Port]]:
    switch, pair = Switch(), socket.socketpair()
    switch.ports = [Port(pair[0]) for _ in range(3)]
    return switch, switch.ports


def test_what_is_for_all_reaches_all_but_its_sender() -> None:
    switch, (a, b, c) = three_ports()

    assert switch.receivers(a, frame(ALL, A)) == [b, c]


def test_what_is_for_one_reaches_the_one_that_was_seen_with_this_address() -> None:
    switch, (a, b, c) = three_ports()
    switch.receivers(b, frame(ALL, B))

    assert switch.receivers(a, frame(B, A)) == [b]

    switch.receivers(c, frame(ALL, B))
    assert switch.receivers(a, frame(B, A)) == [c], "it moved, as a virtual address does"


def test_what_is_for_somebody_unknown_reaches_nobody() -> None:
    switch, (a, b, _c) = three_ports()
    switch.receivers(b, frame(ALL, B))
    switch.remove(b)

    assert switch.receivers(a, frame(B, A)) == []
    assert switch.receivers(a, frame(C, A)) == []


def test_frames_are_taken_out_of_any_pieces() -> None:
    _, (port, *_) = three_ports()
    one, two = frame(B, A, b"x" * 1400), frame(C, A, b"y" * 9000)
    stream = one + two

    pieces = [stream[i : i + 1000] for i in range(0, len(stream), 1000)]

    assert [f for piece in pieces for f in port.frames(piece)] == [one, two]
    assert not port.received


@pytest.mark.parametrize("length", [0, 13, 1 << 20])
def test_what_is_no_frame_is_refused(length: int) -> None:
    _, (port, *_) = three_ports()

    with pytest.raises(ValueError, match=f"a frame of {length} bytes"):
        list(port.frames(struct.pack(">I", length)))


def test_who_does_not_read_costs_no_memory_without_end() -> None:
    _, (port, *_) = three_ports()
    large = frame(B, A, b"x" * 60000)

    for _ in range(100):
        port.add(large)

    assert len(large) < len(port.waiting) <= 1 << 20
    assert len(port.waiting) % len(large) == 0, "whole frames only"


def test_who_has_an_access_port_knows_nothing_of_tags() -> None:
    access = Port(socket.socketpair()[0], vlan=120)

    assert list(access.frames(frame(ALL, A))) == [tagged(frame(ALL, A), 120)]

    for other in (frame(ALL, B), tagged(frame(ALL, B), 121), tagged(frame(ALL, B), 120)):
        access.add(other)
    assert access.waiting == frame(ALL, B)


def test_a_priority_in_the_tag_makes_no_other_vlan() -> None:
    access = Port(socket.socketpair()[0], vlan=120)

    access.add(tagged(frame(ALL, B), 120 | 5 << 13))

    assert access.waiting == frame(ALL, B)


@contextmanager
def real_switch(directory: Path, vlan: int | None = None) -> Iterator[Path]:
    path = directory / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        command = Command(segment.switch_command(directory, router_vlan=vlan))
        child = spawn(command, stdin=listener.fileno())
    try:
        yield path
    finally:
        end(child.pid)
        child.wait()


@contextmanager
def cable(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as end_of_cable:
        end_of_cable.settimeout(30)
        end_of_cable.connect(str(path))
        yield end_of_cable


def received(plugged: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += plugged.recv(size - len(data))
    return data


@pytest.mark.processes("python")
def test_the_switch_joins_who_connects_and_survives_who_leaves(tmp_path: Path) -> None:
    question, answer = frame(ALL, A), frame(A, B, b"x" * 9000)
    with real_switch(tmp_path) as path, cable(path) as a:
        for _ in range(2):
            with cable(path) as b:
                b.sendall(frame(ALL, B))
                assert received(a, len(question)) == frame(ALL, B)
                a.sendall(question)
                assert received(b, len(question)) == question
                b.sendall(answer * 20)
                assert received(a, 20 * len(answer)) == answer * 20
        with cable(path) as broken:
            broken.sendall(b"\xff" * 8)
            assert broken.recv(1) == b"", "who speaks otherwise is unplugged"


@pytest.mark.processes("python")
def test_the_first_who_connects_is_the_router_of_a_tagged_network(tmp_path: Path) -> None:
    hello, answer = frame(ALL, A), frame(A, B)
    with real_switch(tmp_path, vlan=120) as path, cable(path) as router, cable(path) as machine:
        machine.sendall(frame(ALL, C) + tagged(hello, 120))
        assert received(router, len(hello)) == hello
        router.sendall(answer)
        assert received(machine, len(answer) + 4) == tagged(answer, 120)


def test_the_router_has_the_gateways_address_and_no_machine(tmp_path: Path) -> None:
    command = segment.router_command(make_machine(tmp_path))

    assert option(command, "-machine") == ["none"]
    user, stream, *hub = option(command, "-netdev")
    assert user == "user,id=outside,net=10.80.0.0/24,host=10.80.0.1,ipv6=off"
    assert stream.startswith("stream,id=cable,server=off,addr.type=unix,addr.path=/")
    assert [port.rpartition("=")[2] for port in hub] == ["outside", "cable"]


def test_the_router_of_both_families_has_a_gateway_of_each_and_its_door_leads_to_ipv4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = make_machine(
        tmp_path,
        addresses=(ip_interface("fd00:80::11/64"), ip_interface("10.80.0.11/24")),
        gateways=(ip_address("fd00:80::1"), ip_address("10.80.0.1")),
        api_host_port=free_port(),
    )

    user, *_ = option(segment.router_command(both), "-netdev")
    assert user == (
        "user,id=outside,net=10.80.0.0/24,host=10.80.0.1,"
        "ipv6-prefix=fd00:80::,ipv6-prefixlen=64,ipv6-host=fd00:80::1"
    )
    told = Told(monkeypatch)
    segment.join(both)
    assert told.lines[-1].endswith("-10.80.0.11:6443")


def test_a_comma_in_the_path_of_a_socket_does_not_end_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "socket_path", lambda _d, kind: Path(f"/a,b/{kind}"))

    assert segment.cable_option("c", tmp_path, "switch").endswith("addr.path=/a,,b/switch")


class Told:
    """A network that is there, and takes down what its router is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, answer: str = "") -> None:
        self.lines: list[str] = []
        self.answer = answer
        monkeypatch.setattr(segment, "find_processes", lambda _program, _argument: [1])
        monkeypatch.setattr(segment, "ask_monitor", self.ask)

    def ask(self, _socket: Path, line: str) -> str:
        self.lines.append(line)
        return self.answer if line.startswith("hostfwd_add") else "not found"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_port_of_the_host_leads_to_the_machines_api(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, port = Told(monkeypatch), free_port()

    segment.join(make_machine(tmp_path, api_host_port=port))

    assert told.lines == [
        f"hostfwd_remove outside tcp:127.0.0.1:{port}",
        f"hostfwd_add outside tcp:127.0.0.1:{port}-10.80.0.11:6443",
    ]


def test_a_machine_without_api_listens_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, machine = Told(monkeypatch), make_machine(tmp_path, api_host_port=None)

    segment.join(machine)
    segment.leave(machine)

    assert told.lines == []


def test_a_door_that_does_not_open_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Told(monkeypatch, answer="Could not set up host forwarding rule")

    with pytest.raises(KubekilnError, match="no way to the API of lab-1: Could not"):
        segment.join(make_machine(tmp_path, api_host_port=free_port()))


def test_the_network_goes_with_the_last_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[Path] = []
    monkeypatch.setattr(segment, "stop_network", stopped.append)
    directory = tmp_path / "machines" / "lab"
    machine = directory / "lab-1"
    machine.mkdir(parents=True)
    (directory / "network.log").touch()

    segment.remove_unused(directory)
    assert (stopped, directory.exists()) == ([], True)

    machine.rmdir()
    segment.remove_unused(directory)
    assert (stopped, directory.exists()) == ([directory], False)
