# SPDX-License-Identifier: Apache-2.0
"""How is a service of the cluster reached from this host, whatever its type?

The pinned `kubectl port-forward` does the work, so it needs no route, no root and no door into the
machines; it goes by way of the API. TCP only: the API forwards nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kubekiln.errors import CommandFailed, ConfigError, KubekilnError
from kubekiln.operations.kubectl import Admin, admin_of
from kubekiln.paths import Project
from kubekiln.process import Command, describe_exit, end, run, spawn
from pipeline.targets.ports import is_free

_LISTENING = "Forwarding from"
_TAIL_LINES = 5
# One that ends sooner did not work at all: its pod isn't there, or the port is taken.
_SHORT_S = 5.0
_TRIES = 5
_PAUSE_S = 1.0
_FREE_PORTS = range(30000, 32768)


@dataclass(frozen=True)
class Forward:
    """One port of the service and where it is on this host."""

    local: int
    port: int
    scheme: str

    @property
    def url(self) -> str:
        """Give what to open."""
        return f"{self.scheme}://127.0.0.1:{self.local}"


@dataclass(frozen=True)
class Tunnel:
    """A way to a service that is not open yet."""

    admin: Admin
    namespace: str
    service: str
    forwards: tuple[Forward, ...]

    def command(self) -> Command:
        """Describe the engine; it ends with us, also if we are killed (prctl(2))."""
        pairs = [f"{f.local}:{f.port}" for f in self.forwards]
        forward = self.admin.command(
            ["port-forward", "--address=127.0.0.1", f"--namespace={self.namespace}",
             f"service/{self.service}", *pairs],
        )  # fmt: skip
        return Command(["setpriv", "--pdeathsig=TERM", *forward.argv])


def find_tunnel(
    project: Project, service: str, *, cluster: str | None, namespace: str, local: int | None
) -> Tunnel:
    """Look the service up and choose ports of this host; raises KubekilnError if it isn't there."""
    admin = admin_of(project, cluster, usage="kubekiln tunnel SERVICE --on CLUSTER")
    words = ["get", "service", service, f"--namespace={namespace}", "--output=json"]
    result = run(admin.command(words), check=False)
    if result.returncode != 0:
        said = result.stderr.decode(errors="replace").strip()
        raise KubekilnError(
            f"cannot find service {service} in namespace {namespace} of {admin.cluster}: {said}",
            hint=f"`kubekiln kubectl --on {admin.cluster} get services -A` lists them; "
            "--namespace names another one",
        )
    forwards = choose_forwards(json.loads(result.stdout), local=local)
    return Tunnel(admin, namespace, service, forwards)


def choose_forwards(service: dict[str, Any], *, local: int | None) -> tuple[Forward, ...]:
    """Choose a port of this host for each TCP port of a Service object."""
    name = service["metadata"]["name"]
    if service["spec"].get("type") == "ExternalName":
        raise ConfigError(
            f"service {name} is only a name for {service['spec'].get('externalName')}",
            hint="open that",
        )
    ports = [p for p in service["spec"].get("ports", []) if p.get("protocol", "TCP") == "TCP"]
    if not ports:
        raise ConfigError(
            f"service {name} has no TCP port", hint="the API server forwards TCP only"
        )
    if local is not None:
        if len(ports) > 1:
            shown = ", ".join(str(p["port"]) for p in ports)
            raise ConfigError(
                f"service {name} has {len(ports)} ports ({shown}), --port names one",
                hint="leave --port out: each gets a port of this host",
            )
        if not is_free(local):
            raise ConfigError(
                f"--port {local}: somebody listens on 127.0.0.1:{local}, or that needs root",
                hint="name another one, above 1023",
            )
    chosen: list[Forward] = []
    for port in ports:
        taken = {forward.local for forward in chosen}
        chosen.append(Forward(local or _local_port(port, taken), port["port"], _scheme(port)))
    return tuple(chosen)


def keep_open(tunnel: Tunnel, *, opened: Callable[[], None], lost: Callable[[str], None]) -> None:
    """Forward until an interrupt (KeyboardInterrupt is raised), again when a pod goes.

    Raises CommandFailed if it fails several times in a row; whatever happens, nothing is left.
    """
    failures, announced = 0, False
    with _hangup_interrupts():
        while True:
            started = time.monotonic()
            announce = opened if not announced else _silence
            code, was_open, tail = _forward(tunnel.command(), announce)
            announced = announced or was_open
            lasted = was_open and time.monotonic() - started >= _SHORT_S
            failures = 0 if lasted else failures + 1
            why = tail[-1] if tail else describe_exit(code)
            if failures >= _TRIES or not announced:
                lines = "".join(f"\n  | {line}" for line in tail)
                raise CommandFailed(
                    f"cannot forward service {tunnel.service}: {describe_exit(code)}{lines}",
                    hint=f"has it a pod that is Ready? `kubekiln kubectl --on "
                    f"{tunnel.admin.cluster} get pods --namespace {tunnel.namespace}`",
                )
            lost(why)
            time.sleep(_PAUSE_S)


def _forward(command: Command, opened: Callable[[], None]) -> tuple[int, bool, list[str]]:
    """Run the engine to its end; tells how it ended, whether it listened, and its last words."""
    reading, writing = os.pipe()
    tail: list[str] = []
    was_open = False
    with os.fdopen(reading, "r", errors="replace") as lines:
        try:
            child = spawn(command, stdout=writing)
        finally:
            os.close(writing)
        try:
            for line in lines:
                if line.startswith(_LISTENING):
                    if not was_open:
                        opened()
                    was_open = True
                elif not line.startswith("Handling connection"):
                    tail = [*tail, line.rstrip()][-_TAIL_LINES:]
            return child.wait(), was_open, tail
        finally:
            if child.poll() is None:
                end(child.pid, group=True)
                child.wait()


def _local_port(port: dict[str, Any], taken: set[int]) -> int:
    """Take the service's own number where it can be had, its NodePort's first."""
    wanted = [port.get("nodePort", 0), port["port"], port["port"] + 8000, *_FREE_PORTS]
    for number in wanted:
        if 1023 < number < 65536 and number not in taken and is_free(number):
            return int(number)
    raise KubekilnError("no port of 127.0.0.1 is free")


def _scheme(port: dict[str, Any]) -> str:
    said = f"{port.get('appProtocol', '')} {port.get('name', '')}"
    if "https" in said or port["port"] in (443, 8443):
        return "https"
    return "http"


@contextlib.contextmanager
def _hangup_interrupts() -> Iterator[None]:
    """Let a terminal that is closed end the tunnel as Ctrl-C does."""

    def interrupt(_signum: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGHUP)
    # Ignored: somebody wants it to go on without the terminal (nohup(1)).
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _silence() -> None: ...
