# SPDX-License-Identifier: Apache-2.0
"""Do the host's ways to a cluster lead where it is reached?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.clusters import render


def test_the_host_kubeconfig_leads_to_the_forwarded_port(tmp_path: Path) -> None:
    made = render(tmp_path, api={"host_port": 16443})

    document = yaml.safe_load(made.admin_kubeconfig.read_text())

    assert document["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:16443"
    assert document["current-context"] == "lab"
    # Of each way to the API its authority; of the user a certificate and a key.
    assert json.dumps(document).count("-data") == 4


@pytest.mark.parametrize(
    ("changes", "server"),
    [
        ({}, "https://10.80.0.11:6443"),
        ({"api": {"port": 8443, "extra_sans": ["api.lab.example"]}}, "https://api.lab.example:8443"),
        (
            {"api": {"vip": "10.80.0.9"}, "nodes": [{"name": "m", "role": "master",
                                                     "address": "10.80.0.12"}]},
            "https://10.80.0.9:6443",
        ),
        (
            {"nodes": [{"name": "m", "role": "master", "address": "10.80.0.12"},
                       {"name": "b", "role": "lb", "address": "10.80.0.13"}]},
            "https://10.80.0.13:6443",
        ),
    ],
)  # fmt: skip
def test_the_host_kubeconfig_also_leads_through_the_nodes_network(
    tmp_path: Path, changes: dict[str, Any], server: str
) -> None:
    document = yaml.safe_load(render(tmp_path, **changes).admin_kubeconfig.read_text())

    assert document["clusters"][1] == {
        "name": "lab-network",
        "cluster": {**document["clusters"][0]["cluster"], "server": server},
    }
    assert document["contexts"][1]["name"] == "lab-network"
