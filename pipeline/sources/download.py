# SPDX-License-Identifier: Apache-2.0
"""How does a file come over HTTP whole: resumed, retried with back-off, and verified?

An unfinished file stays beside the store as `partial/<digest>` and is gone on with next time; it
gets out of there only with the pinned hash.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from kubekiln import progress
from kubekiln.errors import IntegrityError
from kubekiln.files import locked, storage_errors
from pipeline.sources.provider import Context, Unreachable

_CHUNK_BYTES = 64 * 1024
_TIMEOUT_S = (10.0, 60.0)
_RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class Patience:
    """How often to try, and how long to wait between."""

    attempts: int = 5
    connect_attempts: int = 2
    """For a host that gives no connection at all: most often there is no way out of here."""
    first_pause_s: float = 1.0
    sleep: Callable[[float], object] = time.sleep

    def wait(self, attempt: int, *, asked_for_s: float | None = None) -> None:
        """Wait before the next attempt: twice as long each time, a bit random, or as told."""
        pause = self.first_pause_s * 2**attempt * random.uniform(0.8, 1.2)
        self.sleep(min(asked_for_s or pause, 60.0))


class _Passing(Exception):
    """A fault that may pass."""

    def __init__(self, what: str, *, after_s: float | None = None, connect: bool = False) -> None:
        super().__init__(what)
        self.after_s = after_s
        self.connect = connect


def download(
    url: str,
    target: Path,
    *,
    digest: tuple[str, str],
    context: Context,
    title: str,
    patience: Patience | None = None,
) -> None:
    """Get `url` into `target`; it exists afterwards only with the pinned hash.

    Raises Unreachable when the server can't be reached or lacks the file, IntegrityError for bytes
    that aren't the pinned ones, StorageError for a full or read-only disk.
    """
    algorithm, wanted = digest
    partial = context.store.partial_path(wanted)
    wait = progress.waits(f"{title} is being downloaded already", context.check_cancelled)
    with locked(partial.with_suffix(".lock"), waiting=wait), storage_errors(partial):
        if not (partial.is_file() and _hash_file(partial, algorithm) == wanted):
            _complete(url, partial, digest, context, title, patience or Patience())
        shutil.move(partial, target)


def _complete(
    url: str,
    partial: Path,
    digest: tuple[str, str],
    context: Context,
    title: str,
    patience: Patience,
) -> None:
    resumed = partial.is_file()
    _attempt_all(url, partial, context, title, patience)
    try:
        _check(partial, url, digest)
    except IntegrityError:
        if not resumed:
            raise
        # What an earlier run left may have been bad, or the file was replaced since: once anew.
        _attempt_all(url, partial, context, title, patience)
        _check(partial, url, digest)


def _attempt_all(url: str, partial: Path, context: Context, title: str, patience: Patience) -> None:
    host = urlsplit(url).netloc
    if host in context.unreachable:
        raise Unreachable(f"cannot reach {host}", where=url)
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=0))
    session.mount("https://", HTTPAdapter(max_retries=0))
    failures, kept = 0, _size(partial)
    while True:
        context.check_cancelled()
        try:
            return _transfer(session, url, partial, context, title)
        except _Passing as fault:
            # A line that breaks every minute still gets the file: only standing still counts.
            failures = 1 if _size(partial) > kept else failures + 1
            kept = _size(partial)
            if failures >= (patience.connect_attempts if fault.connect else patience.attempts):
                if fault.connect:
                    context.unreachable.add(host)
                raise Unreachable(
                    f"cannot get {url}: {fault}",
                    hint="check the network or a proxy setting, or use another provider "
                    "(gomod, or a mirror made by `kubekiln lock mirror`)",
                ) from None
            patience.wait(failures - 1, asked_for_s=fault.after_s)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _transfer(
    session: requests.Session, url: str, partial: Path, context: Context, title: str
) -> None:
    have = _size(partial)
    # No transparent compression: the hash is that of the file, and a resumed gzip stream is lost.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
            if have and response.status_code == _RANGE_NOT_SATISFIABLE:
                partial.unlink()
                raise _Passing("the server has fewer bytes than we kept; starting anew")
            _check_status(response, url)
            resumed = response.status_code == _PARTIAL_CONTENT
            _receive(response, partial, have if resumed else 0, context, title)
    except requests.exceptions.SSLError as error:
        raise Unreachable(f"no trusted TLS connection to {url}: {error}") from error
    except (requests.ConnectTimeout, requests.exceptions.ProxyError) as error:
        raise _Passing(reason(error), connect=True) from error
    except requests.exceptions.ChunkedEncodingError as error:
        raise _Passing(f"the connection ended after {_size(partial)} bytes") from error
    except requests.ConnectionError as error:
        # Also a reading time-out in the middle; then bytes came, and the host is there.
        raise _Passing(reason(error), connect="Max retries" in str(error)) from error
    except requests.RequestException as error:
        raise _Passing(reason(error)) from error


def reason(error: Exception) -> str:
    """Say in a few words why a request failed."""
    cause = error.args[0] if error.args else error
    return str(getattr(cause, "reason", cause)).split(": ", 1)[-1]


def _check_status(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status in _RETRY_STATUS:
        after = response.headers.get("Retry-After", "")
        raise _Passing(f"HTTP {status}", after_s=float(after) if after.isdigit() else None)
    if not response.ok:
        raise Unreachable(
            f"{url} answers HTTP {status}",
            hint="the file may be gone, or a mirror may not have it",
        )


def _receive(
    response: requests.Response, partial: Path, have: int, context: Context, title: str
) -> None:
    announced = response.headers.get("Content-Length", "")
    total = have + int(announced) if announced.isdigit() else None
    done = have
    with (
        partial.open("r+b" if have else "wb") as out,
        progress.transfer(title, total) as advance,
    ):
        out.seek(have)
        out.truncate()
        advance(have)
        for chunk in _chunks(response):
            context.check_cancelled()
            out.write(chunk)
            done += len(chunk)
            advance(len(chunk))
    if total is not None and done < total:
        raise _Passing(f"the connection ended after {done} of {total} bytes")


def _chunks(response: requests.Response) -> Iterator[bytes]:
    chunks: Iterator[bytes] = response.iter_content(_CHUNK_BYTES)
    return chunks


def _hash_file(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _check(partial: Path, url: str, digest: tuple[str, str]) -> None:
    algorithm, wanted = digest
    actual = _hash_file(partial, algorithm)
    if actual == wanted:
        return
    size = partial.stat().st_size
    with partial.open("rb") as stream:
        head = stream.read(512).lstrip().lower()
    partial.unlink()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise IntegrityError(
            f"{url} gave a web page instead of the file",
            hint="a proxy or a login page answers in place of the server",
        )
    raise IntegrityError(
        f"{url} gave {size} bytes whose {algorithm} is {actual}",
        hint=f"pinned is {wanted}; nothing was kept. Truncated or changed on the way: try again, "
        "or another provider",
    )
