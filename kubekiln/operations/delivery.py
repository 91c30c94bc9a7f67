# SPDX-License-Identifier: Apache-2.0
"""How do an image and a cluster's machines get to a platform, and away from it again?

Whatever is asked of a platform may be asked again: an image is looked for by its content, a machine
by cluster, node and payload, before anything is made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field

from kubekiln.errors import KubekilnError, Problem
from kubekiln.files import locked
from kubekiln.operations.inventory import one_of_each, refuse_changed
from kubekiln.operations.journal import Entry, Journal
from kubekiln.operations.lonedisks import refuse_lone_disks
from kubekiln.operations.retrying import Patience
from kubekiln.paths import Project
from kubekiln.progress import say, step, transfer
from pipeline.targets.console import parse_console
from pipeline.targets.platform import (
    DiskImage,
    Instance,
    InstanceSpec,
    Platform,
    RemoteImage,
    TransientError,
)

# EC2, for one, lists a machine some seconds after it was made.
_LATE_LOOKS = 3
# The phase in which a node has all of its files, and cloud-init is off.
_HAS_ROLE = "activated"


@dataclass(frozen=True)
class Delivery:
    """A platform, and where we keep what we began there."""

    name: str
    """Of the target: `configs/targets/<name>.yaml`."""
    platform: Platform
    project: Project
    parallel: int = 8
    patience: Patience = field(default_factory=Patience)

    def check(self) -> None:
        """Raise before anything is made if the platform can't be used."""
        self._refuse(self.platform.problems)

    def check_nodes(self, specs: Sequence[InstanceSpec], image: DiskImage) -> None:
        """Raise, naming every one, if nodes can't become machines there; nothing is sent yet."""
        self._refuse(lambda: self.platform.refusals(specs, image))

    def _refuse(self, look: Callable[[], Iterable[Problem]]) -> None:
        problems = self.patience.try_to(self.name, lambda _again: list(look()))
        if problems:
            raise KubekilnError.of(
                Problem(f"target {self.name}: {p.what}", p.where, p.hint) for p in problems
            )

    def journal(self, cluster: str) -> Journal:
        """Give what was begun there for a cluster."""
        return Journal(self.project.state_dir / cluster / f"target-{self.name}.journal")

    def upload(self, image: DiskImage) -> RemoteImage:
        """Bring an image there, unless it is there; one upload of it at a time."""
        with locked(self.project.build_dir / f".upload-{self.name}-{image.digest[:12]}.lock"):
            found = self.patience.try_to(self.name, lambda _again: self.platform.find_image(image))
            if found:
                say(f"{image.remote_name} is there already: {found.id}")
                return found
            with transfer(f"Uploading {image.path.name} to {self.name}", image.size) as advance:
                return self.patience.try_to(self.name, lambda _again: self._upload(image, advance))

    def _upload(self, image: DiskImage, advance: Callable[[int], None]) -> RemoteImage:
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            advance(more)

        try:
            return self.platform.upload(image, count)
        except KubekilnError:
            advance(-done)  # what is still there, the next attempt counts again
            raise

    def boot(self, specs: Sequence[InstanceSpec], image: RemoteImage) -> list[Instance]:
        """Make the machines of one cluster that aren't there yet, several at a time.

        What fails doesn't stop the others; raises KubekilnError with all that failed. A machine
        that is there of another image or user-data is left alone, and an error.
        """
        cluster = specs[0].cluster
        with self._alone(cluster) as journal:
            there = one_of_each(self.instances(cluster))
            refuse_changed(specs, there, self.name)
            refuse_lone_disks((there[s.node] for s in specs if s.node in there), self.name)
            unheard = {entry.node for entry in journal.unfinished()}
            makers = [
                (s.node, _maker(self, s, image, there.get(s.node), journal, s.node in unheard))
                for s in specs
            ]
            return self._all(makers)

    def instances(self, cluster: str | None = None) -> list[Instance]:
        """List the machines of a cluster, or of all."""
        return self.patience.try_to(
            self.name, lambda _again: list(self.platform.list_instances(cluster))
        )

    def console(self, instance: Instance) -> str | None:
        """Give what a machine wrote to its serial console; None if the platform keeps none."""
        name = f"{instance.cluster}-{instance.node}"
        return self.patience.try_to(name, lambda _again: self.platform.read_console(instance))

    def destroy(self, cluster: str, nodes: Iterable[str] = ()) -> list[str]:
        """Remove a cluster's machines (or those named); gives the names of what was removed.

        Looks again until none is left: a machine whose making nobody heard of may appear late, so
        for such a one it looks a few times more.
        """
        wanted, removed, gone = set(nodes), dict[str, None](), set[str]()
        with self._alone(cluster) as journal:
            unheard = {
                entry.node
                for entry in journal.unfinished()
                if entry.event == "creating" and (not wanted or entry.node in wanted)
            }
            waits = self.patience.waits(_LATE_LOOKS)
            while True:
                there = self.instances(cluster)
                if found := [i for i in there if not wanted or i.node in wanted]:
                    if {i.id for i in found} <= gone and not next(waits, False):
                        names = ", ".join(sorted(i.id for i in found))
                        raise KubekilnError(f"still there after it was removed: {names}")
                    self._all([(i.node, _remover(self, i, journal)) for i in found])
                    gone |= {i.id for i in found}
                    removed.update(dict.fromkeys(instance.node for instance in found))
                elif unheard <= removed.keys() or not next(waits, False):
                    break
            if not wanted:
                journal.forget()
        return list(removed)

    def forget(self, cluster: str, nodes: Collection[str] = ()) -> list[str]:
        """Have the user-data of machines (or those named) removed; gives their names.

        Raises KubekilnError for one that doesn't have its role yet, by what it said on its console;
        where the platform keeps no consoles the caller knows.
        """
        found = [i for i in self.instances(cluster) if not nodes or i.node in nodes]
        if missing := sorted(set(nodes) - {one.node for one in found}):
            raise KubekilnError(f"target {self.name} has no machine {missing[0]} of {cluster}")
        return [one.node for one in self._all([(one.node, _forgetter(self, one)) for one in found])]

    def _all(self, acts: Sequence[tuple[str, Callable[[], Instance]]]) -> list[Instance]:
        done, problems = [], []
        with ThreadPoolExecutor(self.parallel) as pool:
            futures: dict[Future[Instance], str] = {pool.submit(act): name for name, act in acts}
            try:
                for future in as_completed(futures):
                    try:
                        done.append(future.result())
                    except KubekilnError as error:
                        problems += [
                            Problem(f"{futures[future]}: {p.what}", p.where, p.hint)
                            for p in error.problems
                        ]
            except BaseException:
                # What was asked for is waited for, nothing more is asked.
                self.patience.ended.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if problems:
            raise KubekilnError.of(sorted(problems, key=lambda problem: problem.what))
        return done

    @contextmanager
    def _alone(self, cluster: str) -> Iterator[Journal]:
        path = self.project.state_dir / cluster / f"target-{self.name}.lock"
        with locked(path, blocking=False):
            yield self.journal(cluster)


def _make(
    to: Delivery, spec: InstanceSpec, image: RemoteImage, found: Instance | None, again: bool
) -> Instance:
    there = found
    if again:
        there = one_of_each(
            i for i in to.platform.list_instances(spec.cluster) if i.node == spec.node
        ).get(spec.node)
    if there is not None and there.state == "failed":
        refuse_lone_disks([there], to.name)
        to.platform.delete(there)
        there = None
    if there is None or (there.state == "starting" and not _is_stopped(found)):
        spec.refuse_other_rendering()
        # The same one if it is there: what was begun of it is gone on with, and waited for.
        return to.platform.create(spec, image)
    if there.state == "stopped":
        to.platform.start(there)
    return there


def _maker(
    to: Delivery,
    spec: InstanceSpec,
    image: RemoteImage,
    found: Instance | None,
    journal: Journal,
    unheard: bool,
) -> Callable[[], Instance]:
    def act() -> Instance:
        wait_for = unheard and found is not None and found.state == "starting"
        if found is not None and found.state not in ("failed", "stopped") and not wait_for:
            if unheard:
                journal.write(Entry("created", spec.node, spec.payload, found.id))
            return found
        journal.write(Entry("creating", spec.node, spec.payload))
        try:
            with step(f"Making {spec.name}"):
                instance = to.patience.try_to(
                    spec.name, lambda again: _make(to, spec, image, found, again)
                )
        except TransientError:
            raise  # it may be there
        except KubekilnError:
            if not _may_be_there(to, spec):
                journal.write(Entry("refused", spec.node, spec.payload))
            elif found is not None and _is_stopped(found):
                journal.write(Entry("created", spec.node, spec.payload, found.id))
            raise
        journal.write(Entry("created", spec.node, spec.payload, instance.id))
        return instance

    return act


def _is_stopped(instance: Instance | None) -> bool:
    return instance is not None and instance.state == "stopped"


def _may_be_there(to: Delivery, spec: InstanceSpec) -> bool:
    """Tell whether the platform has something of a node, or doesn't answer."""
    try:
        return any(instance.node == spec.node for instance in to.instances(spec.cluster))
    except KubekilnError:
        return True


def _remover(to: Delivery, instance: Instance, journal: Journal) -> Callable[[], Instance]:
    def act() -> Instance:
        name = f"{instance.cluster}-{instance.node}"
        journal.write(Entry("deleting", instance.node, instance=instance.id))
        with step(f"Removing {name}"):
            to.patience.try_to(name, lambda _again: to.platform.delete(instance))
        journal.write(Entry("deleted", instance.node, instance=instance.id))
        return instance

    return act


def _forgetter(to: Delivery, instance: Instance) -> Callable[[], Instance]:
    def act() -> Instance:
        name, said = f"{instance.cluster}-{instance.node}", to.console(instance)
        if said is not None and not parse_console(said).has(_HAS_ROLE):
            raise KubekilnError(
                "it has not taken up its role yet, and needs its user-data for that",
                hint=f"`kubekiln status --target {to.name}` says how far it is",
            )
        with step(f"Forgetting the user-data of {name}"):
            to.patience.try_to(name, lambda _again: to.platform.forget_user_data(instance))
        return instance

    return act
