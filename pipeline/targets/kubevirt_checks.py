# SPDX-License-Identifier: Apache-2.0
"""Which nodes can't be machines of KubeVirt's? Nothing is asked here."""

from __future__ import annotations

from collections.abc import Iterator

from kubekiln.errors import Problem
from pipeline.targets.kubevirt_objects import seed_of
from pipeline.targets.kubevirt_settings import Settings
from pipeline.targets.platform import DiskImage, InstanceSpec
from pipeline.targets.unfit import SMALLER, more_cards, smaller_disk

# The name is that of the guest's serial console and of labels: RFC 1123, at most 63 characters.
_LONGEST_NAME = 63
# https://kubernetes.io/docs/concepts/configuration/secret/: 1 MiB of data.
_LARGEST_SECRET = 1 << 20


def refusals(spec: InstanceSpec, image: DiskImage, settings: Settings) -> Iterator[Problem]:
    """Say what of a node KubeVirt, or a Secret of Kubernetes, can't have."""
    size = sum(len(content) for content in seed_of(spec).values())
    if size > _LARGEST_SECRET:
        what = f"{spec.node}: user-data is {size:,} bytes, a Kubernetes Secret takes 1,048,576"
        yield Problem(what, hint=SMALLER)
    if len(spec.name) > _LONGEST_NAME:
        hint = "a shorter name of the cluster, or of the node"
        yield Problem(f"{spec.name} has more than {_LONGEST_NAME} characters", hint=hint)
    yield from more_cards(spec, len(settings.networks))
    yield from smaller_disk(spec, image)
