# SPDX-License-Identifier: Apache-2.0
"""Do machines that nobody listed join from one user-data, and only those that may?

One master, and machines of its pool as containers; the tests run in the order in which they stand.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloudinit.render import render_cluster
from kubekiln.files import write_atomic
from kubekiln.operations.seed import write_seed
from kubekiln.process import Command, Result, run
from tests.e2e.conftest import BOOT_S, ROOT, Lab, free_port
from tests.support.clusters import make_project
from tests.support.fleet import Fleet, fleet
from tests.support.leases import dhcp_server
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.in_order,
    pytest.mark.timeout(BOOT_S),
]  # fmt: skip

MASTER = "pl-master-1"
RANGE = ip_network("10.85.0.128/25")


@pytest.fixture(scope="module")
def pool(lab: Lab, image: Path) -> Iterator[Fleet]:
    """A master that boots, in a network that gives addresses to whoever asks."""
    assert image.exists()
    lab.set_host_port("pool", free_port())
    with (
        fleet(lab.project, "pool") as made,
        dhcp_server(made.machines[MASTER], for_all=("10.85.0.130", "10.85.0.150")),
    ):
        made.boot([MASTER])
        yield made


def add(lab: Lab, pool: Fleet, *names: str) -> None:
    """Make machines of the pool as a hypervisor without meta-data of its own has to."""
    for name in names:
        lab.kubekiln("cluster", "seed", "pool", name)
        pool.add(name, seed_dir=lab.root / "build" / "seeds" / "pool" / name)


def test_two_machines_of_one_user_data_join_under_the_names_that_they_were_given(
    lab: Lab, pool: Fleet
) -> None:
    add(lab, pool, "batch-1", "batch-2")

    pool.boot(["batch-1", "batch-2"])

    pool.wait_ready([MASTER, "batch-1", "batch-2"])
    seeds = [pool.machines[name].run_dir / "seed/user-data" for name in ("batch-1", "batch-2")]
    assert seeds[0].read_bytes() == seeds[1].read_bytes()
    found = {node["metadata"]["name"]: node for node in nodes(pool)}
    for name in ("batch-1", "batch-2"):
        assert address_of(found[name]) in RANGE
        assert found[name]["metadata"]["labels"]["kubekiln/pool"] == "batch"
        assert found[name]["spec"]["taints"][0]["key"] == "dedicated"
        until(lambda name=name: pool.is_complete(name), what=f"{name} complete", timeout_s=60)
        assert "KUBEKILN phase=joined" in pool.console(name)
    assert address_of(found["batch-1"]) != address_of(found["batch-2"])


def nodes(pool: Fleet) -> list[dict[str, Any]]:
    said = pool.kubectl("get", "nodes", "--output=json").stdout
    items: list[dict[str, Any]] = json.loads(said)["items"]
    return items


def address_of(node: dict[str, Any]) -> Any:
    addresses = node["status"]["addresses"]
    return ip_address(next(a["address"] for a in addresses if a["type"] == "InternalIP"))


def test_the_api_reaches_their_kubelets_by_their_serving_certificates(pool: Fleet) -> None:
    for name in ("batch-1", "batch-2"):
        until(
            lambda name=name: (
                pool.kubectl("get", f"--raw=/api/v1/nodes/{name}/proxy/healthz", check=False).text
                == "ok"
            ),
            what=f"the kubelet of {name} answers the API",
            timeout_s=60,
        )


def test_pods_on_them_find_each_other_by_name(pool: Fleet) -> None:
    manifests = ROOT / "tests/e2e/manifests"
    pool.kubectl("rollout", "status", "deploy/coredns", "-n=kube-system", "--timeout=180s")
    pool.kubectl("apply", "--filename", str(manifests / "web.yaml"))
    pool.kubectl("rollout", "status", "deploy/web", "-n=e2e", "--timeout=120s")
    pool.kubectl("apply", "--filename", str(manifests / "client.yaml"))
    pool.kubectl("wait", "--for=condition=Complete", "job/client", "-n=e2e", "--timeout=120s")

    assert "answer web: hello from web-" in pool.kubectl("logs", "job/client", "-n=e2e").text
    on = {node for _, _, node in pool.pods("app=web")}
    assert on <= {"batch-1", "batch-2"}


def as_token(pool: Fleet, tmp_path: Path, *words: str, stdin: bytes | None = None) -> Result:
    """Do something with what is in the user-data of every machine of the pool."""
    token = pool.inside("batch-1", "/usr/bin/cat", "/etc/kubernetes/bootstrap-token").text
    config = yaml.safe_load(pool.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = tmp_path / "kubeconfig"
    write_atomic(path, yaml.safe_dump(config).encode(), mode=0o600)
    command = Command([pool.program, f"--kubeconfig={path}", *words], stdin=stdin, timeout_s=60)
    return run(command, check=False)


def test_the_token_is_good_for_asking_only(pool: Fleet, tmp_path: Path) -> None:
    for what in ("secrets", "nodes", "pods"):
        said = as_token(pool, tmp_path, "get", what, "--namespace=kube-system")
        assert said.returncode != 0
        assert b"Forbidden" in said.stderr


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (MASTER, f"'{MASTER}' is no name of pool batch"),
        ("web-1", "'web-1' is no name of pool batch"),
        ("batch-1", "there is a Node batch-1 already"),
    ],
)
def test_a_name_that_is_not_free_is_refused(
    pool: Fleet, tmp_path: Path, name: str, reason: str
) -> None:
    subject = f"/O=system:nodes/CN=system:node:{name}"
    request = run(
        Command(
            ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-keyout", "/dev/null", "-subj", subject]
        )
    ).stdout  # fmt: skip
    csr = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": f"try-{name}"},
        "spec": {
            "request": base64.b64encode(request).decode(),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
        },
    }

    said = as_token(pool, tmp_path, "create", "--filename=-", stdin=json.dumps(csr).encode())

    assert said.returncode == 0, said.stderr
    pool.kubectl("wait", "--for=condition=Denied", f"csr/try-{name}", "--timeout=30s")
    shown = json.loads(pool.kubectl("get", f"csr/try-{name}", "--output=json").stdout)
    assert reason in shown["status"]["conditions"][0]["message"]
    assert "certificate" not in shown["status"]


def test_a_machine_of_a_name_that_is_taken_waits_until_it_is_free(pool: Fleet) -> None:
    seed = pool.machines["batch-2"].seed_dir
    pool.cut_off("batch-2")
    pool.target.destroy(pool.machines["batch-2"])
    pool.add("batch-2", seed_dir=seed)

    pool.boot(["batch-2"])

    until(
        lambda: "there is a Node batch-2 already" in pool.console("batch-2"),
        what="batch-2 says that its name is taken",
        timeout_s=120,
    )
    pool.kubectl("delete", "node", "batch-2")
    # The machine before had its Node, as its serving certificate shows: its approval holds the name
    # no more.
    until(lambda: pool.is_complete("batch-2"), what="batch-2 complete", timeout_s=300)


def test_machines_that_may_not_join_say_why(lab: Lab, pool: Fleet, tmp_path: Path) -> None:
    """Another name, a user-data of last month, a token that was taken from the cluster."""
    add(lab, pool, "batch-4")
    stranger = write_seed(lab.project, pool.plan.cluster, "batch-0", into=tmp_path / "web-1")
    meta = (
        (stranger / "meta-data")
        .read_text()
        .replace("local-hostname: batch-0", "local-hostname: web-1")
    )
    (stranger / "meta-data").write_text(meta)
    pool.add("web-1", seed_dir=stranger)
    old = make_project(tmp_path)
    render_cluster(pool.plan.cluster, project=old, now=datetime.now(UTC) - timedelta(days=31))
    pool.add("batch-3", seed_dir=write_seed(old, pool.plan.cluster, "batch-3"))
    pool.kubectl("delete", "secrets", "-n=kube-system", "--field-selector",
                 "type=bootstrap.kubernetes.io/token")  # fmt: skip
    # The API server remembers a token that it knew for ten seconds.
    until(
        lambda: b"Unauthorized" in as_token(pool, tmp_path, "get", "nodes").stderr,
        what="the token is refused",
        timeout_s=60,
    )

    pool.boot(["web-1", "batch-3", "batch-4"])

    for name, line in {
        "web-1": 'gate=closed reason="this machine is called web-1, and those of pool batch',
        "batch-3": "of pool batch expired on ",
        "batch-4": "token=refused reason=\"the cluster doesn't know token",
    }.items():
        until(
            lambda name=name, line=line: line in pool.console(name),
            what=f"{name} says why it is off",
            timeout_s=120,
        )
    assert not pool.ready_nodes() & {"web-1", "batch-3", "batch-4"}


def test_a_machine_that_has_joined_needs_no_token_to_come_back(pool: Fleet) -> None:
    pool.cut_off("batch-2")
    pool.machines["batch-2"].console_log.write_text("")

    pool.boot(["batch-2"])

    until(lambda: pool.is_complete("batch-2"), what="batch-2 complete", timeout_s=120)


def test_a_token_that_is_made_known_lets_the_machine_in_that_waits(lab: Lab, pool: Fleet) -> None:
    listed = lab.kubekiln("cluster", "tokens", "pool", "--apply").text

    assert "serverside-applied" in listed
    pool.wait_ready(["batch-4"])
