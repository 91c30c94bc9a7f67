# SPDX-License-Identifier: Apache-2.0
"""How does kubekiln say that something is wrong: what, where, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

# What stands before the host in `https://user:token@host/` (RFC 3986, 3.2.1).
_USERINFO = re.compile(r"(?<=://)[^/?#@\s]+(?=@)")


def without_credentials(text: str) -> str:
    """Take user names, passwords and tokens out of the URLs in a text that somebody will read."""
    return _USERINFO.sub("…", text)


@dataclass(frozen=True)
class Problem:
    """One finding: lower-case, no full stop, the offending value in it."""

    what: str
    where: str | None = None
    hint: str | None = None

    def lines(self) -> list[str]:
        """Lay the problem out as `error:`, `at`, `hint:` lines; URLs show no credentials."""
        out = [f"error: {self.what}"]
        if self.where:
            out.append(f"  at {self.where}")
        if self.hint:
            out.append(f"  hint: {self.hint}")
        return [without_credentials(line) for line in out]


class KubekilnError(Exception):
    """Base of everything that a user should read instead of a traceback."""

    exit_code = EXIT_FAILED

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.problems: tuple[Problem, ...] = (Problem(what, where, hint),)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> KubekilnError:
        """Make one error out of several problems, all of which are printed."""
        found = tuple(problems)
        if not found:
            raise ValueError("an error needs at least one problem")
        error = cls(found[0].what, where=found[0].where, hint=found[0].hint)
        error.problems = found
        return error

    def __str__(self) -> str:
        return "\n".join(line for problem in self.problems for line in problem.lines())


class ConfigError(KubekilnError):
    """The user's configuration or arguments are wrong; nothing was written."""

    exit_code = EXIT_USAGE


class ToolMissing(KubekilnError):
    """A program that this host lacks; says what it is for and which package has it."""

    exit_code = EXIT_USAGE


class IntegrityError(KubekilnError):
    """Bytes are not the ones that were pinned; nothing of them was kept."""


class StorageError(KubekilnError):
    """A disk is full, read-only or not ours to write; nothing half-written was kept."""

    exit_code = EXIT_USAGE


class CommandFailed(KubekilnError):
    """A process ended with an error, by a signal, or not in time."""
