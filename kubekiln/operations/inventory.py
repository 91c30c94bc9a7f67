# SPDX-License-Identifier: Apache-2.0
"""Which machines of a cluster does a platform have, and are they those that are wanted?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.platform import Instance, InstanceSpec


def one_of_each(found: Iterable[Instance]) -> dict[str, Instance]:
    """Give each node's machine, a failed one only if there is no other.

    Raises if a node has two: which of them is in the cluster is nothing that we know.
    """
    there: dict[str, Instance] = {}
    twice = []
    for instance in sorted(found, key=lambda one: one.state != "failed"):
        other = there.get(instance.node)
        if other is not None and other.state != "failed":
            twice.append(
                Problem(
                    f"{instance.node} is there twice: {other.id} and {instance.id}",
                    hint="remove the one that isn't in the cluster with the platform's own tools",
                )
            )
        there[instance.node] = instance
    if twice:
        raise KubekilnError.of(twice)
    return there


def refuse_changed(
    specs: Iterable[InstanceSpec], there: Mapping[str, Instance], target: str
) -> None:
    """Raise if a machine is there that would be made otherwise now: a change is a new machine."""
    changed = [
        Problem(
            f"{spec.node} is there, made of another image or user-data",
            hint=f"`kubekiln destroy --target {target} --cluster {spec.cluster} {spec.node}` "
            "first, if it is to be replaced",
        )
        for spec in specs
        if spec.node in there
        and there[spec.node].state != "failed"
        and there[spec.node].payload != spec.payload
    ]
    if changed:
        raise KubekilnError.of(changed)
