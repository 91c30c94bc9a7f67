# SPDX-License-Identifier: Apache-2.0
"""How is a libvirt daemon asked, and what does it mean when it refuses?

The only module that imports libvirt's own, and the only one that catches its errors.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from kubekiln.errors import KubekilnError, ToolMissing
from pipeline.targets.platform import TransientError

T = TypeVar("T")

# A daemon that is silent for half a minute is gone: without this, a connection whose other end lost
# its power is waited for for ever. libvirtd itself asks its clients at the same pace.
_ALIVE_INTERVAL_S = 5
_ALIVE_MISSES = 6

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_HINT = "free some room in the storage pool, or name another one as `pool`"
_PASSING_ERRNOS = (errno.EAGAIN, errno.EBUSY)
_PASSING_CODES = ("VIR_ERR_OPERATION_TIMEOUT", "VIR_ERR_RESOURCE_BUSY", "VIR_ERR_RPC")
LOG_HINT = "the daemon's log on its host says more"
"""What to do about a refusal if nothing better is known."""
# What libvirt says → what to do about it.
_HINTS = {
    "VIR_ERR_AUTH_FAILED": "libvirt looks for user and password in its auth.conf: see "
    "https://libvirt.org/auth.html",
    "VIR_ERR_AUTH_CANCELLED": "the user and password that the daemon asks for belong into "
    "libvirt's auth.conf: see https://libvirt.org/auth.html",
    "VIR_ERR_AUTH_UNAVAILABLE": "join the group `libvirt` of that host (and log in anew)",
    "VIR_ERR_ACCESS_DENIED": "its access control does not let you: ask whoever keeps it",
    "VIR_ERR_OPERATION_DENIED": "the connection is read-only",
}


@functools.cache
def libvirt_module() -> Any:
    """Give libvirt's Python binding, quiet and with a thread that keeps connections alive.

    Raises ToolMissing if it isn't installed.
    """
    try:
        module = importlib.import_module("libvirt")
    except ImportError as error:
        raise ToolMissing(
            "the Python package libvirt-python is missing (needed to talk to libvirt)",
            hint="`apt-get install libvirt-dev pkg-config gcc python3-dev`, of which it is built, "
            "then `pip install 'kubekiln[libvirt]'`",
        ) from error
    # It prints every error, also those that are an answer (no such volume).
    module.registerErrorHandler(lambda _context, _error: None, None)
    module.virEventRegisterDefaultImpl()
    threading.Thread(target=_run_events, args=(module,), name="libvirt", daemon=True).start()
    return module


def _run_events(module: Any) -> None:
    while True:
        with contextlib.suppress(module.libvirtError):
            module.virEventRunDefaultImpl()


class Connection:
    """A connection to one daemon, for all threads; opened when needed, and anew if it broke."""

    def __init__(self, uri: str | None) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._open: Any = None

    @contextlib.contextmanager
    def asked(self, to: str, *, hint: str = LOG_HINT) -> Iterator[Any]:
        """Give libvirt's `virConnect`; whatever it refuses becomes a KubekilnError.

        `to` says what is done ("upload x"), `hint` what to do if nothing better is known. Raises
        TransientError where asking again may help.
        """
        module = libvirt_module()
        connection = self._opened(module)
        try:
            yield connection
        except module.libvirtError as error:
            broken = None if _lives(connection) else "the connection broke"
            raise _refusal(module, error, f"cannot {to}", broken, hint) from error

    def _opened(self, module: Any) -> Any:
        with self._lock:
            if self._open is None or not _lives(self._open):
                self._open = None
                try:
                    self._open = module.open(self._uri)
                except module.libvirtError as error:
                    where = self._uri or "libvirt (no `uri`, so libvirt's own default)"
                    option = f"--connect {self._uri} " if self._uri else ""
                    hint = f"does `virsh {option}version` answer? See `uri` of the target"
                    refusal = _refusal(module, error, f"cannot connect to {where}", hint)
                    raise refusal from error
                with contextlib.suppress(module.libvirtError):  # a driver without a connection
                    self._open.setKeepAlive(_ALIVE_INTERVAL_S, _ALIVE_MISSES)
            return self._open


def none_if(codes: tuple[str, ...], ask: Callable[[], T]) -> T | None:
    """Ask libvirt something, and take these of its errors (`VIR_ERR_NO_DOMAIN`) for an answer."""
    module = libvirt_module()
    try:
        return ask()
    except module.libvirtError as error:
        if error.get_error_code() not in {getattr(module, code) for code in codes}:
            raise
        return None


def undo_if_not(ask: Callable[[], object], undo: Callable[[], object]) -> None:
    """Ask libvirt for something, and for something else if it refuses."""
    try:
        ask()
    except libvirt_module().libvirtError:
        try_to(undo)
        raise


def try_to(ask: Callable[[], object]) -> None:
    """Ask libvirt for something on the way out of a failure, which is what will be told."""
    with contextlib.suppress(libvirt_module().libvirtError):
        ask()


def _lives(connection: Any) -> bool:
    module = libvirt_module()
    try:
        return bool(connection.isAlive())
    except module.libvirtError:
        return False


def _refusal(
    module: Any, error: Any, what: str, if_broken: str | None, hint: str = LOG_HINT
) -> KubekilnError:
    code, number = error.get_error_code(), error.get_int1()
    said = f"{what}: {str(error.get_error_message()).rstrip('.').strip()}"
    if code == module.VIR_ERR_SYSTEM_ERROR and number in _FULL or os.strerror(errno.ENOSPC) in said:
        return KubekilnError(said, hint=_FULL_HINT)
    for name, known in _HINTS.items():
        if code == getattr(module, name):
            return KubekilnError(said, hint=known)
    passing = {getattr(module, name) for name in _PASSING_CODES}
    by_errno = code == module.VIR_ERR_SYSTEM_ERROR and number in _PASSING_ERRNOS
    if if_broken or by_errno or code in passing:
        return TransientError(said, hint=if_broken)
    return KubekilnError(said, hint=hint)
