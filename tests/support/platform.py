# SPDX-License-Identifier: Apache-2.0
"""A platform that is a directory of this process's memory, slow and unreliable as one wishes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from kubekiln.errors import KubekilnError, Problem
from pipeline.targets.platform import (
    Advance,
    DiskImage,
    FormatName,
    Instance,
    InstanceSpec,
    RemoteImage,
    TransientError,
)


@dataclass
class SimulatedPlatform:
    """Keeps what it made; a share of its answers gets lost, before or after it did its work."""

    faults: float = 0.0
    seed: int = 1
    latency_s: float = 0.0
    type: str = "simulated"
    format: FormatName = "qcow2"
    refused: list[Problem] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)
    """Nodes that can't be machines, and why."""
    broken: dict[str, str] = field(default_factory=dict)
    """Nodes that can't be made, and why."""
    phases: Sequence[str] = ("userdata", "activated")
    """That each machine reported."""
    images: dict[str, RemoteImage] = field(default_factory=dict)
    machines: dict[str, Instance] = field(default_factory=dict)
    user_data: dict[str, bytes] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    asked: int = 0
    at_once: int = 0
    most_at_once: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def problems(self) -> list[Problem]:
        return self.refused

    def find_image(self, image: DiskImage) -> RemoteImage | None:
        self._answer()
        return self.images.get(image.sha256)

    def upload(self, image: DiskImage, advance: Advance) -> RemoteImage:
        self._answer()
        advance(image.size)
        self.images[image.sha256] = RemoteImage(f"img-{len(self.images)}", image.remote_name)
        return self.images[image.sha256]

    def delete_image(self, image: RemoteImage) -> None:
        self.images = {sha: i for sha, i in self.images.items() if i.id != image.id}

    def refusals(self, specs: Sequence[InstanceSpec], image: DiskImage) -> list[Problem]:
        del image
        self._answer()
        return [Problem(self.unfit[spec.node]) for spec in specs if spec.node in self.unfit]

    def list_instances(self, cluster: str | None = None) -> Sequence[Instance]:
        self._answer()
        with self._lock:
            return [i for i in self.machines.values() if cluster in (None, i.cluster)]

    def create(self, spec: InstanceSpec, image: RemoteImage) -> Instance:
        del image
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.latency_s)
            if spec.node in self.broken:
                raise KubekilnError(self.broken[spec.node])
            self._answer()
            instance = self._make(spec)
            self._answer()
            return instance
        finally:
            with self._lock:
                self.at_once -= 1

    def start(self, instance: Instance) -> None:
        self._answer()
        with self._lock:
            self.machines[instance.id] = replace(instance, state="running")

    def read_console(self, instance: Instance) -> str | None:
        return "".join(
            f"KUBEKILN phase={phase} t={at}.0 node={instance.node}\n"
            for at, phase in enumerate(self.phases, 1)
        )

    def forget_user_data(self, instance: Instance) -> None:
        self._answer()
        with self._lock:
            self.user_data.pop(instance.id, None)

    def delete(self, instance: Instance) -> None:
        self._answer()
        with self._lock:
            self.machines.pop(instance.id, None)
        self._answer()

    def _make(self, spec: InstanceSpec) -> Instance:
        with self._lock:
            self.made.append(spec.node)
            instance = Instance(
                f"i-{len(self.made)}", spec.cluster, spec.node, spec.payload, "running"
            )
            self.machines[instance.id] = instance
            self.user_data[instance.id] = spec.user_data.reveal()
            return instance

    def _answer(self) -> None:
        with self._lock:
            self.asked += 1
            lost = self._random.random() < self.faults
        if lost:
            raise TransientError("the connection was cut")
