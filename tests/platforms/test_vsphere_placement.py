# SPDX-License-Identifier: Apache-2.0
"""On which hosts does `vsphere` make machines? (On govmomi's simulator of a vCenter.)"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pyVmomi import vim

from kubekiln.errors import KubekilnError
from pipeline.targets.platform import RemoteImage
from pipeline.targets.vsphere_session import Session
from tests.platforms.conftest import make_spec
from tests.platforms.rigs.rig import Images, upload
from tests.platforms.rigs.vsphere import VSphereRig

pytestmark = [
    pytest.mark.platforms, pytest.mark.timeout(300),
    pytest.mark.parametrize("server", ["vsphere"], indirect=True),
]  # fmt: skip


def test_masters_are_kept_apart_as_long_as_there_are_two(
    vcenter: VSphereRig, image: RemoteImage, tmp_path: Path
) -> None:
    platform = vcenter.connect(anti_affinity=True)
    made = [
        platform.create(replace(make_spec(tmp_path, f"lab-{number}"), role=role), image)
        for number, role in ((1, "master"), (2, "worker"), (3, "master"))
    ]

    assert rules(vcenter) == {"kubekiln-lab-masters": {made[0].id, made[2].id}}
    fourth = platform.create(replace(make_spec(tmp_path, "lab-4"), role="master"), image)
    assert rules(vcenter)["kubekiln-lab-masters"] == {made[0].id, made[2].id, fourth.id}
    for one in (fourth, made[0]):
        platform.delete(one)
    assert rules(vcenter) == {}


def rules(vcenter: VSphereRig) -> dict[str, set[str]]:
    with vcenter.session() as at:
        config = cluster_of(at).configurationEx
        assert isinstance(config, vim.cluster.ConfigInfoEx)
        return {
            str(rule.name): {machine._GetMoId() for machine in rule.vm}
            for rule in config.rule
            if isinstance(rule, vim.cluster.AntiAffinityRuleSpec) and rule.enabled
        }


def test_without_drs_machines_go_to_the_hosts_with_the_fewest(
    vcenter: VSphereRig, images: Images, tmp_path: Path
) -> None:
    switch_drs(vcenter, on=False)
    platform = vcenter.connect()
    image = upload(platform, images[0])

    made = [platform.create(make_spec(tmp_path, f"lab-{n}"), image) for n in (1, 2)]

    switch_drs(vcenter, on=True)
    with vcenter.session() as at:
        hosts = {at.machine(one.id).runtime.host for one in made}
    assert len(hosts) == 2


def test_without_drs_a_cluster_of_which_no_host_is_in_service_is_refused(
    vcenter: VSphereRig, images: Images
) -> None:
    switch_drs(vcenter, on=False)
    with vcenter.session() as at:
        for host in cluster_of(at).host:
            at.wait(host.EnterMaintenanceMode_Task(0, False, None))

    with pytest.raises(KubekilnError, match="no host in service that reaches LocalDS_0"):
        upload(vcenter.connect(), images[0])

    with vcenter.session() as at:
        for host in cluster_of(at).host:
            at.wait(host.ExitMaintenanceMode_Task(0))
    switch_drs(vcenter, on=True)


def switch_drs(vcenter: VSphereRig, *, on: bool) -> None:
    with vcenter.session() as at:
        wanted = vim.cluster.ConfigSpecEx(drsConfig=vim.cluster.DrsConfigInfo(enabled=on))
        at.wait(cluster_of(at).ReconfigureComputeResource_Task(wanted, True))


def cluster_of(at: Session) -> vim.ClusterComputeResource:
    cluster = at.search.FindByInventoryPath("DC0/host/DC0_C0")
    assert isinstance(cluster, vim.ClusterComputeResource)
    return cluster
