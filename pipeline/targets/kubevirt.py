# SPDX-License-Identifier: Apache-2.0
"""How do images and machines get into a Kubernetes cluster with KubeVirt and CDI?

An image is a DataVolume, uploaded through CDI's proxy. A machine is a VirtualMachine whose root
volume CDI clones of it; the VirtualMachine owns the volume and the Secret with its user-data, and
takes both with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from kubekiln.errors import KubekilnError, Problem
from kubekiln.secret import Secret
from pipeline.targets import kubevirt_objects as objects
from pipeline.targets.cdiupload import UploadProxy
from pipeline.targets.kubeapi import POD, SECRET, Kind, KubeApi, Object
from pipeline.targets.kubevirt_checks import refusals
from pipeline.targets.kubevirt_objects import MACHINE, NETWORK, TOKEN, VOLUME
from pipeline.targets.kubevirt_settings import Settings
from pipeline.targets.platform import (
    Advance,
    DiskImage,
    FormatName,
    Instance,
    InstanceSpec,
    RemoteImage,
    TransientError,
)

__all__ = ["KubeVirtPlatform", "Settings", "connect"]

_CDI_CONFIG = Kind("cdi.kubevirt.io", "v1beta1", "cdiconfigs", "CDIConfig", is_namespaced=False)
_CONSOLE = "guest-console-log"
_NEEDED = (
    *((verb, MACHINE, "") for verb in ("get", "list", "watch", "create", "patch", "delete")),
    *((verb, VOLUME, "") for verb in ("get", "watch", "create", "patch", "delete")),
    ("create", TOKEN, ""),
    *((verb, SECRET, "") for verb in ("get", "watch", "create", "delete")),
    ("list", POD, ""),
    ("get", POD, "log"),
)


class KubeVirtPlatform:
    """One namespace of a Kubernetes cluster."""

    type = "kubevirt"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._api = KubeApi(context=settings.context, namespace=settings.namespace)
        self.format: FormatName = settings.format

    def problems(self) -> list[Problem]:
        """Say what is missing: access, KubeVirt or CDI, permissions, networks, the upload proxy."""
        try:
            groups = self._api.groups()
        except TransientError:
            raise
        except KubekilnError as error:
            return list(error.problems)
        lacking = sorted({f"{k.group}/{k.version}" for k in (MACHINE, VOLUME, TOKEN)} - groups)
        if lacking:
            hint = "https://kubevirt.io/user-guide: both KubeVirt and CDI must be installed"
            return [Problem(f"the cluster has no {name}", hint=hint) for name in lacking]
        return [*self._permission_problems(), *self._network_problems(), *self._proxy_problems()]

    def find_image(self, image: DiskImage) -> RemoteImage | None:
        """Look for the volume that succeeded and bears the image's digests."""
        found = self._api.get(VOLUME, objects.volume_name(image))
        return self._remote(image) if found and objects.is_whole(found, image) else None

    def upload(self, image: DiskImage, advance: Advance) -> RemoteImage:
        """Send the image into a volume of its own; it bears its digests when all of it is there."""
        found = self.find_image(image)
        if found:  # somebody else was faster
            advance(image.size)
            return found
        try:
            restarts = self._open_volume(image)
            self._proxy().send(image, self._token(image), advance)
            self._wait_written(image, restarts)
        except TransientError:
            raise  # the volume stays, and waits for the next attempt
        except KubekilnError:
            with contextlib.suppress(KubekilnError):
                self._discard(image)
            raise
        self._api.patch(VOLUME, objects.volume_name(image), objects.whole(image))
        return self._remote(image)

    def delete_image(self, image: RemoteImage) -> None:
        """Remove the volume; machines cloned from it keep their own."""
        self._delete(VOLUME, image.name)

    def refusals(self, specs: Sequence[InstanceSpec], image: DiskImage) -> list[Problem]:
        """Hold names, cards, disks and user-data against what the objects can have."""
        return [p for spec in specs for p in refusals(spec, image, self._settings)]

    def list_instances(self, cluster: str | None = None) -> Sequence[Instance]:
        """List the machines that bear our labels."""
        selector = f"{objects.CLUSTER}={cluster}" if cluster else objects.CLUSTER
        found = self._api.list(MACHINE, f"{selector},{objects.NODE}")
        return [objects.as_instance(machine, self._api.namespace) for machine in found]

    def create(self, spec: InstanceSpec, image: RemoteImage) -> Instance:
        """Make the machine without power, then its secret, then power it on.

        In this order nothing is ever there that the machine doesn't own.
        """
        wanted = objects.machine(self._settings, spec, image)
        machine = self._api.create(MACHINE, wanted) or self._same_machine(spec)
        self._give_seed(spec, machine)
        made = self._api.patch(MACHINE, spec.name, objects.powered_on())
        return objects.as_instance(made, self._api.namespace)

    def start(self, instance: Instance) -> None:
        """Power on; KubeVirt keeps it running from then on."""
        self._api.patch(MACHINE, _name(instance), objects.powered_on())

    def read_console(self, instance: Instance) -> str | None:
        """Give what the machine's pods logged of its serial console, the oldest first.

        After a live migration the guest, which goes on, is in another pod.
        """
        selector = f"kubevirt.io=virt-launcher,{objects.CLUSTER}={instance.cluster}"
        pods = self._api.list(POD, f"{selector},{objects.NODE}={instance.node}")
        names = [pod["metadata"]["name"] for pod in sorted(pods, key=_age)]
        return "".join(self._api.pod_log(name, _CONSOLE) or "" for name in names)

    def forget_user_data(self, instance: Instance) -> None:
        """Have the machine start without its secret from now on, and remove that."""
        name = _name(instance)
        machine = self._api.get(MACHINE, name)
        if machine is None:
            return
        if change := objects.without_seed(machine):
            self._api.patch(MACHINE, name, change)
        self._delete(SECRET, name)

    def delete(self, instance: Instance) -> None:
        """Remove the machine after its volume and its secret."""
        self._delete(MACHINE, _name(instance))

    def _discard(self, image: DiskImage) -> None:
        """Free the space of an upload that can't succeed."""
        there = self._api.get(VOLUME, objects.volume_name(image))
        if there and objects.is_of_ours(there, image):
            self._delete(VOLUME, objects.volume_name(image))

    def _open_volume(self, image: DiskImage) -> int:
        """Have a volume that takes an upload; gives how often its server was started again."""
        name = objects.volume_name(image)
        there = self._api.get(VOLUME, name)
        if there and not objects.is_of_ours(there, image):
            hint = "it bears no label of ours: rename it, or remove it by hand"
            raise KubekilnError(f"there is another DataVolume {name}", hint=hint)
        if there and (
            objects.phase_of(there) in ("Succeeded", "Failed") or objects.is_going(there)
        ):
            # Written to its end, but nobody compared it: not believed.
            self._delete(VOLUME, name)
            there = None
        if there is None:
            self._api.create(VOLUME, objects.image_volume(self._settings, image))
        found = self._api.wait(VOLUME, name, _takes_upload, timeout_s=self._settings.wait_s)
        if found is None or objects.phase_of(found) != "UploadReady":
            raise KubekilnError(
                f"CDI made no volume for {name}: {objects.why_not(found)}",
                hint=f"kubectl -n {self._api.namespace} describe datavolume {name}",
            )
        return _restarts(found)

    def _wait_written(self, image: DiskImage, restarts: int) -> None:
        """Wait until CDI has written what was sent; its server starts again if it couldn't."""
        name = objects.volume_name(image)

        def is_over(found: Object | None) -> bool:
            phase = objects.phase_of(found) if found else "Failed"
            return phase in ("Succeeded", "Failed") or _restarts(found) > restarts

        found = self._api.wait(VOLUME, name, is_over, timeout_s=self._settings.wait_s)
        if found is None or objects.phase_of(found) != "Succeeded":
            raise KubekilnError(
                f"CDI couldn't write {name}: {objects.why_not(found)}",
                hint="is there scratch space as large as the disk? `format: raw` needs none",
            )

    def _token(self, image: DiskImage) -> Secret:
        name = objects.volume_name(image)
        answer = self._api.create(TOKEN, objects.token_request(name))
        token = ((answer or {}).get("status") or {}).get("token")
        if not token:
            raise TransientError(f"CDI gave no token for an upload to {name}")
        return Secret(str(token))

    def _same_machine(self, spec: InstanceSpec) -> Object:
        there = self._api.get(MACHINE, spec.name)
        if there is None or objects.is_going(there):
            raise TransientError(f"{spec.name} is being removed")
        labels = there["metadata"].get("labels") or {}
        if any(labels.get(key) != value for key, value in spec.tags.items()):
            raise KubekilnError(
                f"there is another VirtualMachine {spec.name}",
                hint="rename or remove it: it isn't of this node, image and user-data",
            )
        return there

    def _give_seed(self, spec: InstanceSpec, machine: Object) -> None:
        secret = objects.seed_secret(spec, machine)
        if self._api.create(SECRET, secret) is not None:
            return
        there = self._api.get(SECRET, spec.name)
        if there is None or there.get("data") != secret["data"]:
            hint = "it isn't of this machine: rename or remove it"
            raise KubekilnError(f"there is another Secret {spec.name}", hint=hint)

    def _delete(self, kind: Kind, name: str) -> None:
        self._api.delete(kind, name, timeout_s=self._settings.wait_s)

    def _remote(self, image: DiskImage) -> RemoteImage:
        name = objects.volume_name(image)
        return RemoteImage(f"{self._api.namespace}/{name}", name)

    def _proxy(self) -> UploadProxy:
        url = self._settings.upload_proxy
        if url is None:
            config = self._api.get(_CDI_CONFIG, "config") or {}
            said = (config.get("status") or {}).get("uploadProxyURL")
            url = f"https://{said}" if said and "://" not in said else said
        if not url:
            raise KubekilnError("CDI's upload proxy is not known", hint=_PROXY_HINT)
        ca, name = self._settings.upload_proxy_ca, self._settings.upload_proxy_name
        return UploadProxy(url.rstrip("/"), ca, name)

    def _permission_problems(self) -> Iterator[Problem]:
        for verb, kind, subresource in _NEEDED:
            if not self._api.may(verb, kind, subresource):
                what = f"{kind}/{subresource}" if subresource else str(kind)
                yield Problem(
                    f"not allowed to {verb} {what} in {self._api.namespace}",
                    hint="docs/platforms/kubevirt.md has the Role that is needed",
                )

    def _network_problems(self) -> Iterator[Problem]:
        for network in self._settings.networks:
            namespace, _, name = network.rpartition("/")
            place = namespace or self._api.namespace
            if self._api.may("get", NETWORK, namespace=place) and not self._api.get(
                NETWORK, name, namespace=place
            ):
                hint = f"kubectl -n {place} get network-attachment-definitions"
                yield Problem(f"there is no network {name} in {place}", hint=hint)

    def _proxy_problems(self) -> Iterator[Problem]:
        try:
            trouble = self._proxy().trouble()
        except TransientError:
            raise
        except KubekilnError as error:
            yield from error.problems
        else:
            if trouble:
                yield Problem(trouble, hint=_PROXY_HINT)


_PROXY_HINT = "give `upload_proxy` (and `upload_proxy_ca`); docs/platforms/kubevirt.md says how"


def connect(settings: Settings) -> KubeVirtPlatform:
    """Make the platform of these settings."""
    return KubeVirtPlatform(settings)


def _name(instance: Instance) -> str:
    return instance.id.rpartition("/")[2]


def _age(pod: Object) -> tuple[str, str]:
    about = pod["metadata"]
    return str(about["creationTimestamp"]), str(about["name"])


def _takes_upload(found: Object | None) -> bool:
    return found is None or objects.phase_of(found) in ("UploadReady", "Succeeded", "Failed")


def _restarts(found: Object | None) -> int:
    return int(((found or {}).get("status") or {}).get("restartCount") or 0)
