# SPDX-License-Identifier: Apache-2.0
"""How do images become templates of a vCenter, and nodes clones of them with guestinfo?

A template counts when it is one, and its annotation says of what. A clone counts when its
annotation has the payload: its last change gives it hardware, user-data and that at once.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from pyVmomi import vim

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
from pipeline.targets.vsphere_access import Access, environment
from pipeline.targets.vsphere_errors import GONE
from pipeline.targets.vsphere_import import import_image
from pipeline.targets.vsphere_inventory import (
    ABOUT,
    child,
    destroy,
    devices_of,
    image_of,
    instance_of,
    is_whole,
    new_console,
    power_on,
    refuse_strange,
    refuse_unknown,
    tags_of,
)
from pipeline.targets.vsphere_machine import (
    CLUSTER,
    FORGOTTEN,
    IMAGE,
    NODE,
    PAYLOAD,
    ROLE,
    console_of,
    finish,
    image_tags,
    note,
    options,
    profiles,
    refusals,
    unfinished_tags,
)
from pipeline.targets.vsphere_places import (
    Home,
    Places,
    find_folder,
    find_home,
    find_places,
    pick_host,
)
from pipeline.targets.vsphere_rules import keep_apart
from pipeline.targets.vsphere_session import Session, session
from pipeline.targets.vsphere_settings import Settings as Settings


class VSpherePlatform:
    """A vCenter; each act has a session of its own."""

    type = "vsphere"
    format: FormatName = "vmdk"

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self._settings = settings
        self._environment = environment
        # Rules are the only thing that several machines share.
        self._rules = threading.Lock()

    def problems(self) -> list[Problem]:
        """Say what of the settings isn't there, or why nothing can be asked."""
        try:
            with self._session() as at:
                if at.content.about.apiType != "VirtualCenter":
                    return [_host_only(at)]
                find_places(at, self._settings)
        except TransientError:
            raise
        except KubekilnError as error:
            return list(error.problems)
        return []

    def find_image(self, image: DiskImage) -> RemoteImage | None:
        """Look for a template whose annotation names what the image was baked from."""
        with self._session() as at:
            folder = find_folder(at, self._settings, self._settings.folder_of_templates)
            for machine, about in at.children(folder, vim.VirtualMachine, ABOUT):
                if is_whole(about, image):
                    return image_of(machine, about)
        return None

    def upload(self, image: DiskImage, advance: Advance) -> RemoteImage:
        """Import the image after removing what an earlier import left; then make it a template."""
        with self._session() as at:
            places = find_places(at, self._settings)
            there = child(at, places.template_folder, image.remote_name)
            if there is not None:
                about = at.properties(there, ABOUT)
                refuse_unknown(at, about)
                if is_whole(about, image):
                    advance(image.size)
                    return image_of(there, about)
                refuse_strange(about, places.template_folder)
                at.wait(there.Destroy_Task())
            hardware = f"vmx-{self._settings.hardware_version}"
            machine = import_image(at, places, image, hardware=hardware, advance=advance)
            tags = vim.vm.ConfigSpec(annotation=note(image_tags(image)))
            at.wait(machine.ReconfigVM_Task(tags))
            machine.MarkAsTemplate()
            return RemoteImage(machine._GetMoId(), image.remote_name)

    def delete_image(self, image: RemoteImage) -> None:
        """Remove a template that has our tags."""
        with self._session() as at:
            try:
                machine = at.machine(image.id)
                if IMAGE in tags_of(at.properties(machine, ABOUT)):
                    at.wait(machine.Destroy_Task())
            except GONE:
                return

    def refusals(self, specs: Sequence[InstanceSpec], image: DiskImage) -> list[Problem]:
        """Hold cards, memory, disks and guestinfo against what a clone can have."""
        return [p for spec in specs for p in refusals(spec, image, self._settings)]

    def list_instances(self, cluster: str | None = None) -> Sequence[Instance]:
        """List the machines in the folder whose annotation names a cluster and a node."""
        with self._session() as at:
            folder = find_folder(at, self._settings, self._settings.folder)
            found = [
                instance_of(machine, about)
                for machine, about in at.children(folder, vim.VirtualMachine, ABOUT)
                if {CLUSTER, NODE} <= tags_of(about).keys()
            ]
        return [one for one in found if cluster in (None, one.cluster)]

    def create(self, spec: InstanceSpec, image: RemoteImage) -> Instance:
        """Clone the template powered off, change all of it at once, and power it on."""
        with self._session() as at:
            places = find_places(at, self._settings)
            machine = self._made_before(at, places, spec)
            if machine is None:
                machine = self._clone(at, places, spec, image)
            self._keep_apart(at, places, spec.cluster)
            power_on(at, machine)
            return instance_of(machine, at.properties(machine, ABOUT))

    def start(self, instance: Instance) -> None:
        """Power on a machine."""
        with self._session() as at:
            power_on(at, at.machine(instance.id))

    def read_console(self, instance: Instance) -> str | None:
        """Read the file behind the serial port; None if the machine was made without one."""
        with self._session() as at:
            path = console_of(devices_of(at, at.machine(instance.id)))
            if path is None:
                return None
            content = at.read_file(self._settings.datacenter, path)
        return (content or b"").decode(errors="replace")

    def forget_user_data(self, instance: Instance) -> None:
        """Have the vCenter forget a machine's user-data; for when its first boot is complete."""
        with self._session() as at:
            change = vim.vm.ConfigSpec(extraConfig=options(FORGOTTEN))
            at.wait(at.machine(instance.id).ReconfigVM_Task(change))

    def delete(self, instance: Instance) -> None:
        """Power off, remove the console's file, and destroy, if the machine still has our tags."""
        with self._session() as at:
            home = find_home(at, self._settings)
            machine = at.machine(instance.id)
            try:
                about = at.properties(machine, ABOUT)
                refuse_unknown(at, about)
                tags = tags_of(about)
                if (tags.get(CLUSTER), tags.get(NODE)) != (instance.cluster, instance.node):
                    raise KubekilnError(
                        f"{about['name']} has no tags of {instance.cluster}'s {instance.node} any "
                        "more",
                        hint="its notes were changed; remove it in vCenter if it is to go",
                    )
                destroy(at, home, machine, about)
            except GONE:
                pass
            # One of several that go at once: who goes last writes the rule.
            with contextlib.suppress(*GONE):
                self._keep_apart(at, home, instance.cluster)

    def _session(self) -> AbstractContextManager[Session]:
        access = Access.from_environment(self._environment)
        return session(access, patience_s=self._settings.task_minutes * 60)

    def _made_before(
        self, at: Session, places: Places, spec: InstanceSpec
    ) -> vim.VirtualMachine | None:
        """Find the machine if an earlier attempt made it; what that left half made is removed."""
        machine = child(at, places.folder, spec.name)
        if machine is None:
            return None
        about = at.properties(machine, ABOUT)
        refuse_unknown(at, about)
        tags = tags_of(about)
        if tags.get(CLUSTER) == spec.cluster and tags.get(NODE) == spec.node:
            if tags.get(PAYLOAD) == spec.payload:
                return machine
            if PAYLOAD not in tags:
                destroy(at, places, machine, about)
                return None
        raise KubekilnError(
            f"{places.folder.name} has a machine {spec.name} that is none of this target's nodes",
            hint="rename or remove it, or give the target a folder of its own",
        )

    def _clone(
        self, at: Session, places: Places, spec: InstanceSpec, image: RemoteImage
    ) -> vim.VirtualMachine:
        template = at.machine(image.id)
        policy = self._settings.storage_policy
        where = vim.vm.RelocateSpec(
            pool=places.pool, datastore=places.datastore, folder=places.folder,
            host=pick_host(at, places),
            profile=profiles(policy),
        )  # fmt: skip
        begun = vim.vm.ConfigSpec(annotation=note(unfinished_tags(spec)))
        how = vim.vm.CloneSpec(location=where, config=begun, powerOn=False, template=False)
        machine: vim.VirtualMachine = at.wait(template.CloneVM_Task(places.folder, spec.name, how))
        console = new_console(at.properties(machine, ABOUT)) if self._settings.console else None
        devices = devices_of(at, machine)
        wanted = finish(spec, devices, places.backings(), console, policy=policy)
        at.wait(machine.ReconfigVM_Task(wanted))
        return machine

    def _keep_apart(self, at: Session, home: Home, cluster: str) -> None:
        if not self._settings.anti_affinity or home.cluster is None:
            return
        with self._rules:
            masters = [
                machine
                for machine, about in at.children(home.folder, vim.VirtualMachine, ABOUT)
                for tags in [tags_of(about)]
                if (tags.get(CLUSTER), tags.get(ROLE)) == (cluster, "master")
            ]
            keep_apart(at, home.cluster, cluster, masters)


def _host_only(at: Session) -> Problem:
    what = f"{at.access.host} is an ESXi host, which can't clone"
    return Problem(what, "environment: VSPHERE_SERVER, or GOVC_URL", "name the vCenter it is in")


def connect(settings: Settings) -> VSpherePlatform:
    """Make the platform of these settings, with the credentials of the environment."""
    return VSpherePlatform(settings, environment())
