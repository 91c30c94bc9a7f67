# SPDX-License-Identifier: Apache-2.0
"""How do the verbs for platforms do on this host, whose machines `up` makes as well?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kubekiln.errors import KubekilnError
from kubekiln.operations.clusters import changing_machines
from kubekiln.operations.down import forget_contexts, remove
from kubekiln.operations.placement import check_target
from kubekiln.operations.prepare import bake_image, load, render
from kubekiln.operations.shipment import refuse_unknown
from kubekiln.operations.undo import undone_unless_up
from kubekiln.operations.up import boot, keep_or_make, plan_machines
from kubekiln.paths import Project
from kubekiln.progress import say
from pipeline.targets.machine import State
from pipeline.targets.platform import Instance, InstanceState
from pipeline.targets.record import Record, list_records, read_record
from pipeline.targets.registry import find_target

# Absent, with a record: its start was cut off.
_STATES: Mapping[State, InstanceState] = {
    "running": "running", "stopped": "stopped", "absent": "failed",
}  # fmt: skip
_PAYLOAD_DIGITS = 16


@dataclass(frozen=True)
class HostDestination:
    """Machines of this host; the image is used where it was baked."""

    project: Project
    name: str

    def upload(self, cluster: str) -> str:
        """Bake the image: it is there already."""
        image = bake_image(self.project, load(self.project, cluster))
        say(f"target {self.name} boots the image from where it is")
        return str(image.qcow2)

    def boot(self, cluster: str, nodes: Collection[str] = ()) -> Sequence[Instance]:
        """Boot the machines that don't run; those of this call are removed if one can't be."""
        plan, target = load(self.project, cluster), find_target(self.name)
        check_target(target, self.project, plan.cluster, plan.path)
        refuse_unknown(plan.cluster, nodes)
        image = bake_image(self.project, plan)
        planned = plan_machines(self.project, plan.cluster, render(self.project, plan), image)
        with changing_machines(self.project, plan.cluster.name):
            machines = [
                keep_or_make(one, self.name) for one in planned if not nodes or one.name in nodes
            ]
            with undone_unless_up(target, machines, project=self.project, keep=False) as booted:
                for machine in machines:
                    boot(target, self.name, machine, booted)
        wanted = {machine.name for machine in machines}
        return [one for one in self.instances(plan.cluster.name) if one.node in wanted]

    def instances(self, cluster: str | None = None) -> Sequence[Instance]:
        """List machines by their records."""
        return [self._instance(record) for record in self._records(cluster)]

    def console(self, instance: Instance) -> str | None:
        """Read the log of the machine's console."""
        record = read_record(self.project.machines_dir / instance.cluster / instance.node)
        if record is None or not record.machine.console_log.exists():
            return ""
        return record.machine.console_log.read_text(errors="replace")

    def forget(self, cluster: str, nodes: Collection[str] = ()) -> Sequence[str]:
        """Raise: nobody but this user can read a machine's seed."""
        raise KubekilnError(
            f"target {self.name} keeps the seed of a machine beside its disk, readable for you "
            "alone",
            where=str(self.project.machines_dir / cluster),
            hint="`kubekiln destroy` removes both",
        )

    def destroy(self, cluster: str, nodes: Collection[str] = ()) -> Sequence[str]:
        """Remove machines with their disks and seeds; with the last one the cluster's context."""
        with changing_machines(self.project, cluster):
            records = [r for r in self._records(cluster) if not nodes or r.machine.name in nodes]
            remove(records)
        if not list_records(self.project.machines_dir, cluster):
            forget_contexts(self.project, cluster)
        return [record.machine.name for record in records]

    def _records(self, cluster: str | None) -> list[Record]:
        found = list_records(self.project.machines_dir, cluster)
        return [record for record in found if record.target == self.name]

    def _instance(self, record: Record) -> Instance:
        machine, status = record.machine, find_target(self.name).status(record.machine)
        return Instance(
            id=f"{machine.cluster}-{machine.name}",
            cluster=machine.cluster,
            node=machine.name,
            payload=record.user_data_sha256[:_PAYLOAD_DIGITS],
            state=_STATES[status.state],
            addresses=tuple(str(address.ip) for address in machine.addresses),
            detail=status.how,
        )
