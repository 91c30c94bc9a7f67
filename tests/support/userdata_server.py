# SPDX-License-Identifier: Apache-2.0
"""A rendered cluster that fetches its user-data, its server, and what both said."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from cloudinit.model import Cluster
from cloudinit.protect import NOTE_PATH
from cloudinit.render import render_cluster
from kubekiln.operations.serve import Store, UserDataServer
from tests.support.clusters import make_cluster, make_project
from tests.support.node_runtime import STATIC_DIR  # noqa: F401 - puts node programs on the path

from kubekiln_node.clock import Clock  # isort: skip
from kubekiln_node.protected import Note, fetch  # isort: skip
from kubekiln_node.waiting import Waiting  # isort: skip


class Site:
    """A rendered cluster, its server, and what both said."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.project = make_project(root)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.log: list[str] = []
        self.console: list[str] = []
        self.render(**changes)

    def render(self, **changes: Any) -> None:
        server = {"protect": "url", "server": f"https://127.0.0.1:{self.port}"}
        userdata = server | changes.pop("userdata", {})
        now = changes.pop("now", datetime.now(UTC))
        self.cluster: Cluster = make_cluster(userdata=userdata, **changes)
        self.made = render_cluster(self.cluster, project=self.project, now=now)

    def note(self, index: int = 0) -> Note:
        document = yaml.safe_load(self.made.nodes[index].user_data.read_bytes())
        entries = {entry["path"]: entry["content"] for entry in document["write_files"]}
        fields = json.loads(entries[NOTE_PATH])
        assert fields.pop("schema") == 1
        return Note(**fields)

    @contextmanager
    def server(self) -> Iterator[UserDataServer]:
        store = Store(self.cluster, self.project)
        with UserDataServer(store, "127.0.0.1", self.port, log=self.log.append) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join()

    def fetch(self, note: Note, *, patience: int = 0) -> bytes:
        """Ask as the node does; gives up where that would go on for ever."""
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) > patience:
                raise TimeoutError

        clock = iter(range(0, 10_000, 30))
        waiting = Waiting(
            note.owner, longest_pause_s=30.0, tell=self.console.append, sleep=pause,
            clock=lambda: next(clock),
        )  # fmt: skip
        return fetch(note, clock=Clock(), tell=self.console.append, waiting=waiting)
