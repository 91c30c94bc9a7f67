# SPDX-License-Identifier: Apache-2.0
"""Which files of the store go into the image?"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.lock import Lock
from pipeline.model import Image
from pipeline.plan import main_archive
from pipeline.stages.fetch import Fetched, fetch_components
from pipeline.store import Store

# Only inside its container image: nothing on the node runs it directly.
IMAGE_ONLY = ("pause",)


@dataclass(frozen=True)
class Components:
    """What the elements install; the store names files by their sha256."""

    files: Mapping[str, Path]
    """`component/name` → a program that is installed on the node."""
    images: Mapping[str, Path]
    """Reference → archive of a container image."""
    sandbox_image: str
    """Reference of the image of pod sandboxes."""
    providers: Mapping[str, str]
    """Component → who gave it."""
    reused: bool
    """Everything was in the store already."""

    @property
    def digests(self) -> dict[str, str]:
        """Everything → sha256."""
        return {name: path.name for name, path in {**self.files, **self.images}.items()}


def gather(image: Image, lock: Lock, *, cancel: threading.Event | None = None) -> Components:
    """Get every component of the image into the store."""
    fetched = fetch_components(
        lock,
        image.components,
        architecture=image.architecture,
        providers=image.providers,
        store=Store.default(),
        mirror=image.component_mirror,
        debian_mirror=main_archive(image),
        cancel=cancel,
    )
    return choose(fetched)


def choose(fetched: Mapping[str, Fetched]) -> Components:
    """Sort out what is installed and what is only in a container image."""
    return Components(
        files={
            f"{component}/{name}": path
            for component, got in sorted(fetched.items())
            if component not in IMAGE_ONLY
            for name, path in sorted(got.files.items())
        },
        images={
            reference: path
            for _, got in sorted(fetched.items())
            for reference, path in sorted(got.images.items())
        },
        sandbox_image=next(iter(fetched["pause"].images), ""),
        providers={component: got.provider for component, got in sorted(fetched.items())},
        reused=all(got.reused for got in fetched.values()),
    )
