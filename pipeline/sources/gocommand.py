# SPDX-License-Identifier: Apache-2.0
"""How is the `go` command run: with which environment, watched, and stopped on request?"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kubekiln.errors import CommandFailed
from kubekiln.process import Command, run
from pipeline.sources.provider import Unreachable
from pipeline.sources.watched import run_watched

_USER_SETTINGS = ("GOPROXY", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOINSECURE",
                  "GOMODCACHE")  # fmt: skip
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


def run_go(command: Command, *, cancel: threading.Event, note: Callable[[str], None]) -> None:
    """Run a build that writes a log. Raises Unreachable if the log looks like a network fault."""
    log = command.log
    assert log is not None
    try:
        run_watched(command, cancel=cancel, tick=lambda: note(_last_package(log)))
    except CommandFailed as error:
        tail = log.read_text(errors="replace").splitlines()[-20:]
        if not any(sign in line for line in tail for sign in _NETWORK_SIGNS):
            raise
        problem = error.problems[0]
        raise Unreachable(
            problem.what,
            where=problem.where,
            hint="a Go module proxy didn't give a module: check the network and GOPROXY",
        ) from error


def _last_package(log: Path) -> str:
    with log.open("rb") as stream:
        lines = stream.read().splitlines()
    if not lines:
        return "looking at what is there already"
    last = lines[-1].decode(errors="replace")
    if last.startswith("go: downloading"):
        return last.removeprefix("go: ")
    return f"{len(lines)} packages, now {last[-60:]}"
