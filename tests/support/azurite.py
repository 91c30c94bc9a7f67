# SPDX-License-Identifier: Apache-2.0
"""Azurite, Microsoft's own emulator of blob storage, for a test: on 127.0.0.1, with TLS and tokens.

`--disableTelemetry`: without it, it calls home. `--skipApiVersionCheck`: the client library speaks
a newer version of the API than it knows.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubekiln.process import Command, end, spawn
from tests.support.node import node_and_npm, npm_server
from tests.support.tls import Certificate
from tests.support.waiting import until

ACCOUNT = "devstoreaccount1"
# Azurite's own, the same everywhere: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_LISTENING = re.compile(rb"successfully (?:listening|listens) (?:at|on) https://127\.0\.0\.1:(\d+)")
_IN_MEMORY = "--inMemoryPersistence"
_OPTIONS = ("--silent", "--disableTelemetry", "--skipApiVersionCheck", "--oauth", "basic")


@dataclass(frozen=True)
class Azurite:
    """A running one."""

    port: int
    certificate: Certificate

    def url(self, port: int | None = None) -> str:
        """Of the account, on its own port or that of a door to it."""
        return f"https://127.0.0.1:{port or self.port}/{ACCOUNT}"

    def service(self) -> Any:
        """Give a client with the account's key, past every door."""
        from azure.storage.blob import BlobServiceClient

        key = {"account_name": ACCOUNT, "account_key": KEY}
        cert = str(self.certificate.cert)
        return BlobServiceClient(self.url(), credential=key, connection_verify=cert)


@contextlib.contextmanager
def azurite(directory: Path, certificate: Certificate, *more: str) -> Iterator[Azurite]:
    """Run it while the block runs, with its data in a directory."""
    directory.mkdir(exist_ok=True)
    log = directory / "azurite.log"
    place: Sequence[str | Path] = () if _IN_MEMORY in more else ("--location", directory)
    words: Sequence[str | Path] = (
        node_and_npm()[0], npm_server("azurite") / "node_modules" / ".bin" / "azurite-blob",
        *_OPTIONS, *place, "--blobHost", "127.0.0.1", "--blobPort", "0",
        "--cert", certificate.cert, "--key", certificate.key, *more,
    )  # fmt: skip
    process = spawn(Command(words, cwd=directory, log=log))
    try:
        until(
            lambda: _LISTENING.search(log.read_bytes()) or process.poll() is not None,
            what="Azurite listens", timeout_s=60,
        )  # fmt: skip
        found = _LISTENING.search(log.read_bytes())
        assert found, f"Azurite ended: {log.read_text()}"
        yield Azurite(int(found[1]), certificate)
    finally:
        end(process.pid, group=True, how=signal.SIGKILL)
        process.wait()
