# SPDX-License-Identifier: Apache-2.0
"""Does `up`, with nothing else said, end with what the README promises?

The example `solo` in QEMU: the role `single`, as it is shipped. (test_cluster.py: what machines
can do, with etcd on one of its own.)
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.conftest import BOOT_S, Lab, free_port

pytestmark = [
    pytest.mark.e2e, pytest.mark.qemu, pytest.mark.alone, pytest.mark.timeout(2 * BOOT_S)
]  # fmt: skip


def test_up_alone_gives_a_ready_cluster_and_says_how_to_use_it(lab: Lab) -> None:
    lab.set_host_port("solo", free_port())

    said = lab.kubekiln("up", "--timeout", str(BOOT_S)).text
    try:
        (kubeconfig,) = re.findall(r"export KUBECONFIG=(\S+)", said)
        assert Path(kubeconfig).is_file()
        (node,) = lab.kubekiln("kubectl", "get", "nodes", "--no-headers").text.splitlines()
        assert node.split()[:2] == ["solo-1", "Ready"]
    finally:
        lab.kubekiln("down")
