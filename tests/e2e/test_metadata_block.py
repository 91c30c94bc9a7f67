# SPDX-License-Identifier: Apache-2.0
"""Can pods ask the platform who their machine is? Only those in its own network can.

One node, beside which somebody answers at the metadata address; the tests only look.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubekiln.process import Result
from tests.e2e.conftest import BOOT_S, ROOT, Lab
from tests.support.fleet import Fleet, fleet
from tests.support.metadata import URL, metadata_service
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.timeout(BOOT_S)
]  # fmt: skip

NAME, NODE = "meta", "meta-1"
ASK = """\
import json, sys, time, urllib.request
began = time.monotonic()
try:
    said = urllib.request.urlopen(sys.argv[1], timeout=10).read().decode()
except OSError as error:
    said = f"no: {error}"
print(json.dumps([said, time.monotonic() - began]))
"""


@pytest.fixture(scope="module")
def node(lab: Lab, image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A node that is Ready, with its pods."""
    assert image.exists()
    lab.add_cluster(NAME)
    with fleet(lab.project, NAME) as made:
        made.boot([NODE])
        made.wait_ready()
        with metadata_service(made, tmp_path_factory.mktemp("metadata")):
            manifest = ROOT / "tests/e2e/manifests/metadata.yaml"
            apply = ("apply", "--filename", str(manifest))
            # A pod that is nobody's is made once its namespace has a service account.
            until(
                lambda: made.kubectl(*apply, check=False).returncode == 0,
                what="the pods are taken", timeout_s=120,
            )  # fmt: skip
            wait = ("wait", "--for=condition=Ready", "pod", "--all", "-n=e2e", "--timeout=120s")
            made.kubectl(*wait)
            yield made


def heard(asked: Result) -> tuple[str, float]:
    said, seconds = json.loads(asked.stdout)
    return str(said), float(seconds)


def in_pod(node: Fleet, pod: str, url: str) -> tuple[str, float]:
    ask = ("exec", "-n=e2e", pod, "--", "/usr/bin/python3", "-c", ASK, url)
    return heard(node.kubectl(*ask))


def test_a_pod_is_refused_at_once(node: Fleet) -> None:
    said, seconds = in_pod(node, "usual", URL)

    assert said.startswith("no: ")
    # Dropped, it would have waited for ten.
    assert seconds < 5


def test_a_pod_reaches_everything_else(node: Fleet) -> None:
    gateway = node.machines[NODE].gateways[0]

    said, _ = in_pod(node, "usual", f"https://{node.machines[NODE].address.ip}:6443/readyz")
    refused, _ = in_pod(node, "usual", f"http://{gateway}:81/")

    # Who speaks TLS there isn't known to the pod; that somebody does, is enough.
    assert "CERTIFICATE_VERIFY_FAILED" in said
    # Nothing listens there: the answer is the host's own, not the rule's.
    assert "Connection refused" in refused


def test_the_machine_and_pods_in_its_network_may_ask(node: Fleet) -> None:
    asked = node.inside(NODE, "/usr/bin/python3", "-c", ASK, URL)

    assert heard(asked)[0] == "#cloud-config\n"
    assert in_pod(node, "in-host-network", URL)[0] == "#cloud-config\n"


def test_no_copy_of_the_user_data_is_left(node: Fleet) -> None:
    seed = "/var/lib/cloud/seed/nocloud/user-data"
    search = "grep -rl 'PRIVATE KEY' /var/lib/cloud /run/cloud-init || true"

    found = node.inside(NODE, "/bin/sh", "-c", search).text.split()

    # Bound read-only by the machine's host.
    assert set(found) <= {seed}
    assert node.inside(NODE, "/usr/bin/stat", "-c", "%a %U", seed).text == "600 root"


def test_the_rule_stays_when_kube_proxy_and_flannel_write_theirs(node: Fleet) -> None:
    for unit in ("kube-proxy.service", "flanneld.service"):
        node.inside(NODE, "/usr/bin/systemctl", "restart", unit)
    tables = ("/usr/sbin/nft", "list", "tables")
    until(lambda: b"kube-proxy" in node.inside(NODE, *tables).stdout, what="rules", timeout_s=60)

    assert in_pod(node, "usual", URL)[0].startswith("no: ")
