# SPDX-License-Identifier: Apache-2.0
"""How does kubekiln start other programs? (The only module that may import subprocess.)"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from kubekiln.errors import CommandFailed, ToolMissing

_TAIL_LINES = 20
_TERM_GRACE_S = 10.0

_PROXIES = (
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip
# What a child gets of our environment: enough to find tools, temporary space, proxies and the
# certificates of this host; nothing that could change what is built.
_PASSED_ON = (
    "HOME", "PATH", "TERM", "TMPDIR", "USER", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR",
    *_PROXIES,
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT",
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE",
    "GOPROXY", "GONOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOINSECURE", "GOMODCACHE",
)  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A process to be started, as a value: argv, never a shell string.

    A secret goes through `stdin` or a file: argv is there for all to read in /proc.
    """

    argv: Sequence[str | Path]
    cwd: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes | None = None
    stdin_file: Path | None = None
    """Read by the process as its standard input, for what doesn't fit into memory."""
    timeout_s: float | None = None
    log: Path | None = None
    """Append stdout and stderr to this file instead of capturing them."""
    as_root: bool = False
    """Run through `sudo -n` unless we are root."""
    what_for: str = ""
    """Said when the tool is missing: "to read disk images"."""
    inherit: bool = False
    """Give the child our own stdin, stdout and stderr (for interactive programs)."""

    def real_argv(self) -> list[str]:
        """Give the argv to execute, with sudo in front where needed."""
        words = [str(a) for a in self.argv]
        if self.as_root and os.geteuid() != 0:
            kept = [f"{key}={value}" for key, value in self.env.items()]
            # By name: a proxy's address may have a password in it, and argv is there for all.
            proxies = ",".join(name for name in _PROXIES if name in os.environ)
            keep = [f"--preserve-env={proxies}"] if proxies else []
            return ["sudo", "-n", *keep, *(["env", *kept] if kept else []), *words]
        return words

    def __str__(self) -> str:
        shown = " ".join(shlex.quote(str(a)) for a in self.argv)
        return f"sudo {shown}" if self.as_root and os.geteuid() != 0 else shown


@dataclass(frozen=True)
class Result:
    """What a finished process left."""

    returncode: int
    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def text(self) -> str:
        """Standard output as text, without the last line end."""
        return self.stdout.decode(errors="replace").rstrip("\n")


class Runner(Protocol):
    """Whoever runs commands: the real one, or a recorder for dry runs and tests."""

    def run(self, command: Command, *, check: bool = True) -> Result: ...


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Build a child's environment anew; C.UTF-8 and UTC so that output doesn't depend on a user."""
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    env.update(LANG="C.UTF-8", LC_ALL="C.UTF-8", TZ="UTC")
    env.update(extra)
    return env


def find_tool(name: str, *, path: str | None = None) -> Path | None:
    """Look a program up in PATH and in the system directories that a user's PATH may lack."""
    search = (path or os.environ.get("PATH", "")) + ":/usr/local/sbin:/usr/sbin:/sbin"
    found = shutil.which(name, path=search)
    return Path(found) if found else None


def spawn(
    command: Command, *, stdin: IO[bytes] | int | None = None, stdout: IO[bytes] | int | None = None
) -> subprocess.Popen[bytes]:
    """Start a process of its own session and return; it outlives us unless somebody ends it."""
    argv = _resolved(command)
    with contextlib.ExitStack() as stack:
        out: IO[bytes] | int = subprocess.DEVNULL if stdout is None else stdout
        if command.log:
            command.log.parent.mkdir(parents=True, exist_ok=True)
            out = stack.enter_context(command.log.open("ab"))
        return subprocess.Popen(
            argv,
            cwd=command.cwd,
            env=environment(command.env),
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run(command: Command, *, check: bool = True) -> Result:
    """Run a process to its end.

    Raises ToolMissing, or CommandFailed (if `check`) with the command, how it ended, the last 20
    lines and the log's path. An interrupt ends the child's whole process group first.
    """
    argv = _resolved(command)
    by_sudo = Path(argv[0]).name == "sudo"
    with contextlib.ExitStack() as stack:
        sink: IO[bytes] | int | None = None if command.inherit else subprocess.PIPE
        if command.log:
            command.log.parent.mkdir(parents=True, exist_ok=True)
            sink = stack.enter_context(command.log.open("ab"))
        child = subprocess.Popen(
            argv,
            cwd=command.cwd,
            env=environment(command.env),
            stdin=_stdin(command, stack),
            stdout=sink,
            stderr=subprocess.STDOUT if command.log else sink,
            # A session for what must not stop at our terminal: a program that reads it from a group
            # in the background waits for ever. But sudo finds the ticket of `sudo -v` by its
            # terminal, which a new session doesn't have; it gives its command one of its own.
            start_new_session=not command.inherit and not by_sudo,
            process_group=0 if by_sudo and not command.inherit else None,
        )
        with _ended_with_us(child, own_group=not command.inherit):
            try:
                stdout, stderr = child.communicate(command.stdin, command.timeout_s)
            except subprocess.TimeoutExpired as error:
                raise _failure(command, f"not finished after {command.timeout_s:g} s") from error
    result = Result(child.returncode, stdout or b"", stderr or b"")
    if check and result.returncode != 0:
        raise _failure(command, describe_exit(result.returncode), result)
    return result


def _stdin(command: Command, stack: contextlib.ExitStack) -> IO[bytes] | int | None:
    if command.inherit:
        return None
    if command.stdin_file is not None:
        return stack.enter_context(command.stdin_file.open("rb"))
    return subprocess.PIPE if command.stdin is not None else subprocess.DEVNULL


class RealRunner:
    """Runs commands on this host."""

    def run(self, command: Command, *, check: bool = True) -> Result:
        return run(command, check=check)


@dataclass
class RecordingRunner:
    """Runs nothing: keeps the commands, answers from `answers` by the tool's name."""

    answers: Mapping[str, Result] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)

    def run(self, command: Command, *, check: bool = True) -> Result:
        self.commands.append(command)
        return self.answers.get(Path(str(command.argv[0])).name, Result(0))


def exec_replace(command: Command) -> None:
    """Become the command (execve(2)): for pass-through to an interactive program."""
    argv = _resolved(command)
    os.execve(argv[0], argv, {**os.environ, **command.env})  # noqa: S606


def describe_exit(returncode: int) -> str:
    """Name how a process ended: `exit code 3` or `killed by SIGKILL`."""
    if returncode < 0:
        return f"killed by {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"


def _resolved(command: Command) -> list[str]:
    argv = command.real_argv()
    tool = find_tool(argv[0], path=command.env.get("PATH"))
    if tool is None:
        purpose = f" (needed {command.what_for})" if command.what_for else ""
        raise ToolMissing(
            f"program {argv[0]!r} not found{purpose}",
            hint="`make setup` installs what is missing; `kubekiln doctor` says what that is",
        )
    return [str(tool), *argv[1:]]


@contextlib.contextmanager
def _ended_with_us(child: subprocess.Popen[bytes], *, own_group: bool) -> Iterator[None]:
    try:
        yield
    except BaseException:
        end(child.pid, group=own_group)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_TERM_GRACE_S)
        if child.poll() is None:
            end(child.pid, group=own_group, how=signal.SIGKILL)
            child.wait()
        raise


def end(pid: int, *, group: bool = False, how: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal to a process we started (or its group); one that is gone is fine."""
    with contextlib.suppress(ProcessLookupError):
        try:
            if group:
                os.killpg(pid, how)
            else:
                os.kill(pid, how)
        except PermissionError:  # it runs as root, and so does only what root says
            whom = f"-{pid}" if group else str(pid)
            subprocess.run(
                ["sudo", "-n", "kill", f"-{how.value}", "--", whom],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                check=False,
            )  # fmt: skip


def _failure(command: Command, how: str, result: Result | None = None) -> CommandFailed:
    if command.log and command.log.is_file():
        output = command.log.read_bytes()[-65536:]
    else:
        output = (result.stdout + result.stderr) if result else b""
    tail = output.decode(errors="replace").rstrip().splitlines()[-_TAIL_LINES:]
    detail = "".join(f"\n  | {line}" for line in tail)
    return CommandFailed(
        f"{Path(str(command.argv[0])).name} failed: {how}\n  $ {command}{detail}",
        where=f"log {command.log}" if command.log else None,
    )
