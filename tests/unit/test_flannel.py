# SPDX-License-Identifier: Apache-2.0
"""Is flannel told the backend that the cluster names, and nothing that it doesn't know?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.clusters import render_files


@pytest.mark.parametrize(
    ("flannel", "backend"),
    [
        ({}, {"Type": "vxlan", "Port": 8472}),
        # Of the packets between nodes, of which flannel takes 50 bytes off for those of pods.
        ({"port": 4789, "mtu": 1300}, {"Type": "vxlan", "Port": 4789, "MTU": 1350}),
        ({"backend": "host-gw"}, {"Type": "host-gw"}),
        ({"backend": "udp"}, {"Type": "udp", "Port": 8285}),
        ({"backend": "udp", "port": 8286}, {"Type": "udp", "Port": 8286}),
    ],
)
def test_the_backend_is_as_configured(
    tmp_path: Path, flannel: dict[str, Any], backend: dict[str, Any]
) -> None:
    files = render_files(tmp_path, network={"flannel": flannel})

    told = json.loads(files["/etc/flannel/net-conf.json"].content)

    assert told == {"Network": "10.244.0.0/16", "EnableNFTables": True, "Backend": backend}
