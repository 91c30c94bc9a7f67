# SPDX-License-Identifier: Apache-2.0
"""How is the `go` command run: with which environment, watched, and stopped on request?"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubekiln.errors import CommandFailed
from kubekiln.process import Command, describe_exit, end, run, spawn
from pipeline.sources.provider import Cancelled, Unreachable

_USER_SETTINGS = ("GOPROXY", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOINSECURE",
                  "GOMODCACHE")  # fmt: skip
_POLL_S = 0.5
_GRACE_S = 5.0
_NETWORK_SIGNS = ("403 Forbidden", "404 Not Found", "410 Gone", "dial tcp", "no such host",
                  "i/o timeout", "connection refused", "TLS handshake", "connection reset",
                  "proxyconnect", "certificate")  # fmt: skip


@dataclass(frozen=True)
class Go:
    """A Go toolchain (GOROOT) and where it keeps its build cache."""

    root: Path
    base: Path

    @property
    def program(self) -> Path:
        """The go command."""
        return self.root / "bin" / "go"

    @property
    def build_cache_dir(self) -> Path:
        """Our own build cache: the user's stays as it is, and ours can be thrown away."""
        return self.base / "build"

    def environment(self, architecture: str | None = None) -> dict[str, str]:
        """Give the environment of a reproducible build: nothing of the user's settings in it
        but where modules come from and who vouches for them."""
        env = {
            "GOROOT": str(self.root),
            "GOTOOLCHAIN": "local",
            "GOENV": "off",
            "GOFLAGS": "",
            "GOWORK": "off",
            "GOOS": "linux",
            "CGO_ENABLED": "0",
            "GOAMD64": "v1",
            "GOARM64": "v8.0",
            "GOEXPERIMENT": "",
            "GODEBUG": "",
            "GOCACHE": str(self.build_cache_dir),
            **self._user_settings(),
        }
        return env | ({"GOARCH": architecture} if architecture else {})

    def _user_settings(self) -> dict[str, str]:
        # `go env -w` of a user behind a firewall holds the proxy that works there.
        asked = run(
            Command(
                [self.program, "env", *_USER_SETTINGS],
                env={"GOTOOLCHAIN": "local", "GOROOT": str(self.root)},
            )
        )
        values = asked.stdout.decode().splitlines()
        return {name: value for name, value in zip(_USER_SETTINGS, values, strict=True) if value}

    def prune(self) -> None:
        """Throw the build cache away."""
        run(Command([self.program, "clean", "-cache"], env=self.environment()))

    def unreachable(self, what: str, output: str) -> Unreachable:
        """Make the error of a module that couldn't be had."""
        proxy = self._user_settings().get("GOPROXY", "")
        return Unreachable(
            f"{what}: {output.strip().splitlines()[-1] if output.strip() else 'no answer'}",
            hint=f"modules come through GOPROXY={proxy}; `go env -w GOPROXY=…` or the variable "
            "sets another",
        )


def run_watched(command: Command, *, cancel: threading.Event, note: Callable[[str], None]) -> None:
    """Run a long command that writes a log; stop it when `cancel` is set.

    Raises Cancelled, Unreachable if the log looks like a network fault, else CommandFailed.
    """
    assert command.log is not None
    child = spawn(command)
    try:
        while child.poll() is None:
            if cancel.wait(_POLL_S):
                raise Cancelled(f"{Path(str(command.argv[0])).name} was stopped")
            note(_last_package(command.log))
    except BaseException:
        end(child.pid, group=True)
        deadline = threading.Event()
        for _ in range(int(_GRACE_S / _POLL_S)):
            if child.poll() is not None:
                break
            deadline.wait(_POLL_S)
        with contextlib.suppress(ProcessLookupError):
            end(child.pid, group=True, how=signal.SIGKILL)
        child.wait()
        raise
    if child.returncode != 0:
        raise _failure(command, child.returncode)


def _last_package(log: Path) -> str:
    with log.open("rb") as stream:
        lines = stream.read().splitlines()
    if not lines:
        return "looking at what is there already"
    last = lines[-1].decode(errors="replace")
    if last.startswith("go: downloading"):
        return last.removeprefix("go: ")
    return f"{len(lines)} packages, now {last[-60:]}"


def _failure(command: Command, returncode: int) -> CommandFailed | Unreachable:
    assert command.log is not None
    lines = command.log.read_text(errors="replace").splitlines()
    tail = "".join(f"\n  | {line}" for line in lines[-20:])
    what = f"go failed: {describe_exit(returncode)}\n  $ {command}{tail}"
    if any(sign in line for line in lines[-20:] for sign in _NETWORK_SIGNS):
        return Unreachable(
            what,
            where=f"log {command.log}",
            hint="a Go module proxy didn't give a module: check the network and GOPROXY",
        )
    return CommandFailed(what, where=f"log {command.log}")
