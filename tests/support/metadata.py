# SPDX-License-Identifier: Apache-2.0
"""Who answers at a cloud's metadata address, where there is no cloud?"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kubekiln.files import make_dir
from kubekiln.process import Command, run, spawn
from pipeline.targets.netns import network_pid
from tests.conftest import ROOT
from tests.support.fleet import Fleet
from tests.support.waiting import until

ADDRESS = "169.254.169.254"
URL = f"http://{ADDRESS}/user-data"


def lay_down(files: Mapping[str, bytes], directory: Path) -> None:
    """Write files at their paths below a directory."""
    for name, content in files.items():
        path = directory / name
        make_dir(path.parent)
        path.write_bytes(content)


@contextmanager
def metadata_service(fleet: Fleet, directory: Path) -> Iterator[None]:
    """Answer at the metadata address, beside a fleet's machines, until the block ends."""
    (directory / "user-data").write_text("#cloud-config\n")
    rules = directory.with_suffix(".rules.json")
    rules.write_text("{}")
    machine = next(iter(fleet.machines.values()))
    inside = ["nsenter", f"--net=/proc/{network_pid(machine.network_dir)}/ns/net"]
    run(Command([*inside, "ip", "address", "replace", f"{ADDRESS}/32", "dev", "kk0"]))
    serve = [sys.executable, "-m", "tests.support.cloudmetadata", rules, directory]
    child = spawn(Command([*inside, *serve], cwd=ROOT))
    ask = Command(
        [*inside, sys.executable, "-c", f"import urllib.request as r; r.urlopen({URL!r})"]
    )
    try:
        until(lambda: not run(ask, check=False).returncode, what="an answer", timeout_s=30)
        yield
    finally:
        child.kill()
        child.wait(30)
