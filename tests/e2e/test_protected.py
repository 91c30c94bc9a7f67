# SPDX-License-Identifier: Apache-2.0
"""Does a node get Ready from user-data that holds no key, by each way that the rest can come?

Also: is nothing of the user-data left on it but what it brought?
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubekiln.process import Command, spawn
from pipeline.targets.netns import ensure_network
from tests.e2e.conftest import BOOT_S, ROOT, Lab
from tests.support.fleet import Fleet, fleet
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.timeout(BOOT_S)
]  # fmt: skip

PORT = 8443
KEY = b"PRIVATE KEY"
PHONE = "http://10.80.0.1:8099/boot"
HEAR = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open(sys.argv[1], "ab") as out:
            out.write(body + bytes([10]))
        self.send_response(204)
        self.end_headers()
http.server.HTTPServer(("10.80.0.1", 8099), Handler).serve_forever()
"""


def cluster(lab: Lab, name: str, userdata: dict[str, Any]) -> str:
    (node,) = lab.add_cluster(name)
    lab.edit_cluster(name, lambda config: config.update(userdata=userdata))
    return node


def test_a_node_opens_what_is_sealed_with_the_key_that_its_host_gives_it(
    lab: Lab, image: Path, tmp_path: Path
) -> None:
    assert image.exists()
    node = cluster(lab, "sealed", {"protect": "age"})
    lab.edit_cluster("sealed", lambda config: config.update(phone_home=PHONE))
    with fleet(lab.project, "sealed") as made, listening(made, tmp_path / "heard") as heard:
        machine = made.machines[node]
        assert KEY not in (machine.seed_dir / "user-data").read_bytes()

        made.boot([node])

        made.wait_ready()
        until(lambda: made.is_complete(node), what="complete", timeout_s=120)
        phases = {("activated", node), ("api", node), ("ready", node), ("addons", node)}
        # The console hears of a phase at once, the URL when somebody takes it.
        until(lambda: phases <= heard_in(heard), what="a call for each phase", timeout_s=60)
        assert made.left_by_cloud_init(node) == []
        left = made.inside(node, "/bin/ls", "/etc/kubekiln").text.split()
        assert not {"protected.json", "user-data.age"} & set(left)


def heard_in(heard: Path) -> set[tuple[str, str]]:
    """Read which phases of which nodes were POSTed so far."""
    said = [json.loads(line) for line in heard.read_text().splitlines()]
    return {(one["phase"], one["node"]) for one in said}


@contextmanager
def listening(made: Fleet, heard: Path) -> Iterator[Path]:
    """Take down, a line each, what machines POST to PHONE."""
    heard.touch()
    network = ensure_network(next(iter(made.machines.values())))
    enter = ["nsenter", f"--net=/proc/{network}/ns/net"]
    child = spawn(Command([*enter, sys.executable, "-c", HEAR, heard]))
    try:
        yield heard
    finally:
        child.terminate()
        child.wait(30)


def test_a_node_without_its_key_stays_off_and_says_so(lab: Lab, image: Path) -> None:
    assert image.exists()
    node = cluster(lab, "keyless", {"protect": "age"})
    with fleet(lab.project, "keyless") as made:
        made.machines[node] = replace(made.machines[node], key_dir=None)

        made.boot([node])

        until(lambda: "gate=closed" in made.console(node), what="a refusal", timeout_s=300)
        assert "this machine has no key to it" in made.console(node)


@contextmanager
def served(lab: Lab, made: Fleet, name: str) -> Iterator[Path]:
    """Run `kubekiln serve` beside the machines; gives the file of what it says."""
    machine = next(iter(made.machines.values()))
    said = lab.root / f"{name}-serve.log"
    enter = ["nsenter", f"--net=/proc/{ensure_network(machine)}/ns/net"]
    words = f"exec {sys.executable} -m kubekiln serve {name} >{said} 2>&1"
    env = {"PYTHONPATH": str(ROOT), "CI": "true"}
    child = spawn(Command([*enter, "/bin/sh", "-c", words], cwd=lab.root, env=env))
    try:
        until(
            lambda: said.is_file() and "listening" in said.read_text(),
            what="kubekiln serve", timeout_s=120,
        )  # fmt: skip
        yield said
    finally:
        child.terminate()
        child.wait(30)


def test_a_node_waits_for_the_server_and_fetches_its_user_data_once(lab: Lab, image: Path) -> None:
    assert image.exists()
    node = cluster(lab, "fetched", {"protect": "url", "server": f"https://10.80.0.1:{PORT}"})
    with fleet(lab.project, "fetched") as made:
        assert KEY not in (made.machines[node].seed_dir / "user-data").read_bytes()
        made.boot([node])
        until(lambda: "KUBEKILN waiting" in made.console(node), what="a word", timeout_s=300)
        with served(lab, made, "fetched") as said:
            made.wait_ready()

        assert f"{node}: given to {made.machines[node].address.ip}" in said.read_text()
        assert "10.80.0.1:8443 does not answer" in made.console(node)
        assert made.left_by_cloud_init(node) == []
