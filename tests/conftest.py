# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: fast ones start no process and reach no network but loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# No deadline: on a busy machine any single example may take long, and that says nothing.
hypothesis.settings.register_profile("kubekiln", deadline=None, database=None)
hypothesis.settings.load_profile("kubekiln")

ROOT = Path(__file__).resolve().parent.parent
FAST = ("unit", "golden", "elements", "house")


class Fence(BaseException):
    """A test did what it didn't declare; not an Exception, so that no handler swallows it."""


def pytest_configure() -> None:
    # A shell that starts the tests in the background ignores interrupts, and they and all that they
    # start would inherit that: those that wait for one would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-update", action="store_true", help="rewrite golden files, then fail")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.get_closest_marker(name) for name in ("root", "nspawn")) and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: mounts, namespaces, chroot"))
    # Begun last they would have the CPUs idle at the end; a stable sort keeps files together.
    items.sort(key=lambda item: item.get_closest_marker("waits") is None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show how a boot failed that passed at its second try: that is somebody's fault too."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"{report.nodeid} failed at its first try")
        terminalreporter.write_line(report.longreprtext)


@pytest.fixture
def golden_update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--golden-update"))


@pytest.fixture
def hangup_ends() -> Iterator[None]:
    """Have SIGHUP end what a test starts, also under nohup, which keeps it from all below it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(autouse=True)
def fence(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse processes that aren't named by `@pytest.mark.processes`, and any outside address."""
    kind = request.path.relative_to(ROOT / "tests").parts[0]
    if kind not in FAST:
        yield
        return
    marker = request.node.get_closest_marker("processes")
    allowed = set(marker.args) if marker else set()
    real_popen, real_connect = subprocess.Popen.__init__, socket.socket.connect

    def popen(self: Any, args: Any, *rest: Any, **more: Any) -> None:
        tool = Path(str(args if isinstance(args, str) else args[0])).name
        if tool not in allowed and not tool.startswith("python"):
            raise Fence(f"{request.node.nodeid} started {tool!r} without declaring it")
        if tool.startswith("python") and "python" not in allowed:
            raise Fence(f"{request.node.nodeid} started {tool!r} without declaring 'python'")
        real_popen(self, args, *rest, **more)

    def connect(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "unix"
        if host not in ("127.0.0.1", "::1", "localhost", "unix"):
            raise Fence(f"{request.node.nodeid} connects to {host}")
        real_connect(self, address)

    monkeypatch.setattr(subprocess.Popen, "__init__", popen)
    monkeypatch.setattr(socket.socket, "connect", connect)
    yield
