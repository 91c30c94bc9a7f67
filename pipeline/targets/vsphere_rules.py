# SPDX-License-Identifier: Apache-2.0
"""How are a cluster's masters kept on different hosts? (A DRS anti-affinity rule.)"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyVmomi import vim

from pipeline.targets.platform import TAG_PREFIX
from pipeline.targets.vsphere_session import Session

_APART = "masters"


def rule_name(cluster: str) -> str:
    """Name the rule of a Kubernetes cluster."""
    return f"{TAG_PREFIX}-{cluster}-{_APART}"


def keep_apart(
    session: Session,
    hosts: vim.ClusterComputeResource,
    cluster: str,
    masters: Sequence[vim.VirtualMachine],
) -> None:
    """Make the rule say just these machines; with less than two of them there is none."""
    name = rule_name(cluster)
    there = _find(hosts, name)
    wanted = len(masters) > 1
    if there is None and not wanted:
        return
    if there is not None and wanted and _ids(there.vm) == _ids(masters):
        return
    change = vim.cluster.RuleSpec(operation=_operation(there is not None, wanted))
    if wanted:
        change.info = vim.cluster.AntiAffinityRuleSpec(
            key=there.key if there else 0, name=name, enabled=True, vm=list(masters)
        )
    elif there is not None:
        change.removeKey = there.key
    spec = vim.cluster.ConfigSpecEx(rulesSpec=[change])
    session.wait(hosts.ReconfigureComputeResource_Task(spec, True))


def _operation(there: bool, wanted: bool) -> str:
    if not wanted:
        return "remove"
    return "edit" if there else "add"


def _find(hosts: vim.ClusterComputeResource, name: str) -> vim.cluster.AntiAffinityRuleSpec | None:
    config = hosts.configurationEx
    rules = config.rule if isinstance(config, vim.cluster.ConfigInfoEx) else []
    named = (one for one in rules if one.name == name)
    return next((one for one in named if isinstance(one, vim.cluster.AntiAffinityRuleSpec)), None)


def _ids(machines: Iterable[vim.VirtualMachine]) -> set[str]:
    return {machine._GetMoId() for machine in machines}
