# SPDX-License-Identifier: Apache-2.0
"""What does a client with a retry notice, and lose, when a machine goes that it talks through?"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass

import yaml

from tests.conftest import ROOT
from tests.support.fleet import Fleet

PROGRAM = ROOT / "tests/support/in_pod/write.py"
WATCHER = ROOT / "tests/support/in_pod/watch.py"
# What such a client may notice of it.
BACK_S = 5.0
_CREDENTIAL, _PEER = "/run/writer.pem", "/run/writer-peer"
# Long enough for a connection that is in full use, and for what comes after the loss.
_LOSS_AFTER_S, _SECONDS = 6.0, 20


@dataclass(frozen=True)
class Written:
    """How it went."""

    acknowledged: int
    longest_s: float
    """The longest time without an acknowledged write."""
    refused: list[str]
    """The attempts that failed, at most 20; each was tried again."""
    peers: list[str]
    """The API servers that it was connected to, one after the other."""


def write_beside_a_loss(
    made: Fleet, client: str, way: str, *, name: str, loss: Callable[[str], object]
) -> Written:
    """Write from a machine through `way` (`host:port`), as the cluster's administrator.

    Meanwhile `loss` is told which master's API server the client is connected to. The objects are
    ConfigMaps `<name>-<number>`.
    """
    made.inside(client, "/usr/bin/tee", _CREDENTIAL, stdin=_credential(made))
    timer = threading.Timer(
        _LOSS_AFTER_S, lambda: loss(made.inside(client, "/usr/bin/cat", _PEER).text)
    )
    timer.start()
    words = ("/usr/bin/python3", "-", str(_SECONDS), way, name, _CREDENTIAL, _PEER)
    said = made.inside(client, *words, stdin=PROGRAM.read_bytes())
    timer.join()
    return Written(**json.loads(said.text))


def watch_until_they_end(
    made: Fleet, client: str, way: str, *, masters: int
) -> list[tuple[str, float | None]]:
    """Hold silent watches from a machine through `way`, one of each master's API server at least.

    Gives the master that served each, and when it ended (seconds since the epoch), if it did.
    """
    credential = f"{_CREDENTIAL}-watches"
    made.inside(client, "/usr/bin/tee", credential, stdin=_credential(made))
    words = ("/usr/bin/python3", "-", str(_SECONDS), way, str(masters), credential)
    said = made.inside(client, *words, stdin=WATCHER.read_bytes())
    return [(peer, ended) for peer, ended in json.loads(said.text)]


def _credential(made: Fleet) -> bytes:
    user = yaml.safe_load(made.kubeconfig.read_bytes())["users"][0]["user"]
    keys = ("client-certificate-data", "client-key-data")
    return b"".join(base64.b64decode(user[key]) for key in keys)
