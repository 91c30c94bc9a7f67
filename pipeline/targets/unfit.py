# SPDX-License-Identifier: Apache-2.0
"""Which nodes can't become machines of a platform, by their descriptions alone?

What several platforms hold a node against; what is one's own is beside it. No platform is asked
here, so that all of it is known before anything is uploaded or made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kubekiln.channel import CHANNELS, DatasourceName
from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.platform import DiskImage, InstanceSpec, TransientError

_GIB = 1 << 30
SMALLER = (
    "keys of P-256 (pki.algorithm), more preloaded into the image, or `userdata.protect: url` make "
    "it smaller; `kubekiln cluster explain` shows the largest files"
)
NAME_NETWORKS = "name one of `networks` for each card, that of the node network first"
ONE_CARD = "take further `nics` out of the cluster's file"


def too_large(spec: InstanceSpec, datasource: DatasourceName) -> Iterator[Problem]:
    """Hold what a machine is given against the limit of the channel by which it is given."""
    channel = CHANNELS[datasource]
    for name, content in spec.attached(datasource).items():
        size = len(content.reveal())
        if channel.size is not None and size > channel.size:
            yield Problem(
                f"{spec.node}: {name} is {size:,} bytes ({channel.counted}), {channel.title} takes "
                f"{channel.size:,}",
                hint=SMALLER,
            )


def more_cards(spec: InstanceSpec, possible: int, hint: str = NAME_NETWORKS) -> Iterator[Problem]:
    """Hold a node's network cards against those that a machine of the target gets."""
    if len(spec.macs) > possible:
        what = f"{spec.node} has {len(spec.macs)} network cards, the target gives it {possible}"
        yield Problem(what, hint=hint)


def smaller_disk(spec: InstanceSpec, image: DiskImage) -> Iterator[Problem]:
    """Hold a node's disk against the image's, which is grown to it and never shrunk."""
    if spec.disk_gib * _GIB < image.virtual_size:
        needed = -(-image.virtual_size // _GIB)
        yield Problem(
            f"{spec.node} has a disk of {spec.disk_gib} GiB, the image one of "
            f"{image.virtual_size / _GIB:g} GiB",
            hint=f"give the node `disk_gib: {needed}` or more",
        )


def raised_by(choose: Callable[[], object]) -> Iterator[Problem]:
    """Give what an attempt to choose something for a node raises; what may pass is raised on."""
    try:
        choose()
    except TransientError:
        raise
    except KubekilnError as error:
        yield from error.problems
