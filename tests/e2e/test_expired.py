# SPDX-License-Identifier: Apache-2.0
"""Does a cluster that was off until its certificates had ended come back with all it had?"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloudinit.pki import BACKDATE
from pipeline.targets.nspawn import ETCD_DISK
from tests.e2e.conftest import BOOT_S, Lab
from tests.support.fleet import Fleet, fleet
from tests.support.waiting import until

pytestmark = [
    pytest.mark.e2e, pytest.mark.nspawn, pytest.mark.root, pytest.mark.timeout(BOOT_S)
]  # fmt: skip

NAME = "expired"
# They begin an hour before they are made.
LIFE = timedelta(days=365) - BACKDATE
# A first boot, and a write, are done by then also where other tests run beside them.
LEFT = timedelta(seconds=120)


def test_new_user_data_and_the_disk_of_etcd_are_all_it_takes(lab: Lab, image: Path) -> None:
    assert image.exists()
    (node,) = lab.add_cluster(NAME)
    lab.edit_cluster(NAME, lambda config: config.update(etcd={"disk_gib": 2, "quota_mib": 512}))
    with fleet(lab.project, NAME, now=datetime.now(UTC) + LEFT - LIFE) as made:
        made.boot([node])
        made.wait_ready()
        made.kubectl("create", "configmap", "kept", "--from-literal=answer=42")
        until(lambda: has_ended(made), what="certificates have ended", timeout_s=300, every_s=1)

        made.cut_off(node)
        made.boot([node])
        until(
            lambda: "KUBEKILN certificates=expired" in made.console(node),
            what="the node says so", timeout_s=120,
        )  # fmt: skip
        assert not made.ready_nodes()

        lab.kubekiln("cluster", "render", NAME)
        replace(made, node, aside=lab.root / "etcd-of-before")
        made.wait_ready()

        kept = made.kubectl("get", "configmap", "kept", "--output=jsonpath={.data.answer}")
        assert kept.text == "42"
        made.kubectl("rollout", "status", "deploy/coredns", "-n=kube-system", "--timeout=120s")
        assert "certificates=expired" not in made.console(node)


def has_ended(made: Fleet) -> bool:
    said = made.kubectl("get", "nodes", "--request-timeout=5s", check=False).stderr
    return b"certificate has expired" in said


def replace(made: Fleet, node: str, *, aside: Path) -> None:
    """Make the machine anew, but keep the disk of its database."""
    machine = made.machines[node]
    made.cut_off(node)
    # Renamed, within one file system: what is on it stays the database's own.
    (machine.run_dir / ETCD_DISK).rename(aside)
    made.target.destroy(machine)
    machine.run_dir.mkdir(parents=True)
    aside.rename(machine.run_dir / ETCD_DISK)
    made.boot([node])
