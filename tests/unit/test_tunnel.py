# SPDX-License-Identifier: Apache-2.0
"""Does a tunnel say where the service is, stay open, and leave nothing when it ends?"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from kubekiln.errors import CommandFailed, ConfigError, KubekilnError
from kubekiln.operations import tunnel
from kubekiln.operations.kubectl import Admin
from kubekiln.operations.tunnel import Forward, Tunnel, choose_forwards, keep_open
from kubekiln.paths import Project
from kubekiln.process import Command, Result, spawn
from tests.support.waiting import until

ROOT = Path(__file__).resolve().parents[2]
OPEN = 'echo "Forwarding from 127.0.0.1:30080 -> 8080"\necho $$ > "$0.pid"\n'


def service(*ports: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web"}, "spec": {"ports": list(ports), **spec}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def engine(tmp_path: Path, script: str) -> Tunnel:
    """A tunnel whose kubectl is a script."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"#!/bin/sh\n{script}")
    kubectl.chmod(0o755)
    admin = Admin("lab", kubectl, tmp_path / "admin.kubeconfig")
    return Tunnel(admin, "shop", "web", (Forward(30080, 80, "http"),))


def is_gone(tmp_path: Path) -> bool:
    pid = int((tmp_path / "kubectl.pid").read_text())
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def nothing(*_anything: object) -> None: ...


def test_each_tcp_port_gets_its_node_port_or_own_number_or_another_one() -> None:
    node, own = free_port(), free_port()
    ports = (
        {"port": 80, "nodePort": node},
        {"port": own, "protocol": "TCP", "name": "metrics"},
        {"port": 53, "protocol": "UDP"},
        {"port": 443, "nodePort": node},
    )

    chosen = choose_forwards(service(*ports), local=None)

    assert [f.port for f in chosen] == [80, own, 443]
    assert chosen[0].url == f"http://127.0.0.1:{node}"
    assert chosen[1].local == own
    assert chosen[2].url.startswith("https://") and chosen[2].local != node
    assert len({f.local for f in chosen}) == 3 and all(f.local > 1023 for f in chosen)


def test_a_port_that_is_asked_for_is_taken_or_refused() -> None:
    asked = free_port()
    assert choose_forwards(service({"port": 80}), local=asked)[0].local == asked

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", asked))
        taken.listen(1)
        with pytest.raises(ConfigError, match=f"--port {asked}: somebody listens"):
            choose_forwards(service({"port": 80}), local=asked)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        pytest.param(service({"port": 53, "protocol": "UDP"}), "has no TCP port", id="udp"),
        pytest.param(service(type="ExternalName", externalName="a.example"), "only a name",
                     id="external"),
        pytest.param(service({"port": 1}, {"port": 2}), "--port names one", id="two-ports"),
    ],
)  # fmt: skip
def test_what_cannot_be_forwarded_is_refused(made: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose_forwards(made, local=free_port())


def test_a_service_that_there_is_not_is_told_in_kubectls_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = Admin("lab", tmp_path / "kubectl", tmp_path / "config")
    failed = Result(1, stderr=b'services "web" not found')
    monkeypatch.setattr(tunnel, "admin_of", lambda *_, **__: admin)
    monkeypatch.setattr(tunnel, "run", lambda *_, **__: failed)

    with pytest.raises(KubekilnError, match='services "web" not found') as error:
        tunnel.find_tunnel(Project(tmp_path), "web", cluster=None, namespace="default", local=None)

    assert "--namespace" in str(error.value)


def test_the_engine_is_the_pinned_kubectl_on_loopback_and_ends_with_us(tmp_path: Path) -> None:
    words = [str(word) for word in engine(tmp_path, "").command().argv]

    assert words[:2] == ["setpriv", "--pdeathsig=TERM"]
    assert words[-5:] == [
        "port-forward", "--address=127.0.0.1", "--namespace=shop", "service/web", "30080:80"
    ]  # fmt: skip


@pytest.mark.processes("setpriv")
def test_an_interrupt_leaves_no_process(tmp_path: Path) -> None:
    way = engine(tmp_path, f"{OPEN}exec sleep 60\n")

    def interrupted() -> None:
        until(lambda: (tmp_path / "kubectl.pid").exists(), what="the engine", timeout_s=20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_open(way, opened=interrupted, lost=nothing)

    assert is_gone(tmp_path)


@pytest.mark.usefixtures("hangup_ends")
@pytest.mark.processes("setpriv", "python")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_however_we_end_the_engine_ends_with_us(tmp_path: Path, how: signal.Signals) -> None:
    engine(tmp_path, f"{OPEN}exec sleep 60\n")
    program = (
        "import sys, signal; from pathlib import Path; from tests.unit.test_tunnel import *\n"
        "from kubekiln import __main__ as main\n"
        "signal.signal(signal.SIGTERM, main._interrupt)\n"
        f"root = Path({str(tmp_path)!r})\n"
        "way = Tunnel(Admin('lab', root / 'kubectl', root), 'shop', 'web', ())\n"
        "keep_open(way, opened=nothing, lost=nothing)\n"
    )
    child = spawn(Command([sys.executable, "-c", program], cwd=ROOT))
    with contextlib.ExitStack() as stack:
        stack.callback(child.kill)
        pid = tmp_path / "kubectl.pid"
        until(lambda: pid.exists() and bool(pid.read_text()), what="the engine", timeout_s=60)

        os.kill(child.pid, how)
        child.wait()

    until(lambda: is_gone(tmp_path), what="the engine's end", timeout_s=20)


@pytest.mark.processes("setpriv")
def test_it_opens_again_when_the_pod_goes_and_is_announced_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "_PAUSE_S", 0)
    monkeypatch.setattr(tunnel, "_TRIES", 3)
    way = engine(tmp_path, f'{OPEN}echo x >> "$0.runs"\necho "lost connection to pod"\nexit 1\n')
    said: list[str] = []

    with pytest.raises(CommandFailed, match="cannot forward service web: exit code 1") as error:
        keep_open(way, opened=lambda: said.append("open"), lost=said.append)

    assert said == ["open", "lost connection to pod", "lost connection to pod"]
    assert (tmp_path / "kubectl.runs").read_text() == "x\nx\nx\n"
    assert "| lost connection to pod" in str(error.value)


@pytest.mark.processes("setpriv")
def test_one_that_never_opens_fails_at_once_with_kubectls_words(tmp_path: Path) -> None:
    way = engine(tmp_path, 'echo "error: pod is not running" >&2\nexit 1\n')

    with pytest.raises(CommandFailed, match="pod is not running") as error:
        keep_open(way, opened=nothing, lost=nothing)

    assert "get pods --namespace shop" in str(error.value)
