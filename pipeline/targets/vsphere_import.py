# SPDX-License-Identifier: Apache-2.0
"""How does a vmdk become a machine of a vCenter that can be made a template?

As any OVF does: the server makes of the descriptor what it takes for an import, gives a lease with
the host's URL for the disk, and hashes what arrives there.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

from pyVmomi import vim, vmodl

from kubekiln.errors import IntegrityError, KubekilnError, StorageError
from pipeline.disk.ovf import Appliance, render_descriptor
from pipeline.targets.platform import Advance, DiskImage
from pipeline.targets.vsphere_errors import RAISED, of_fault
from pipeline.targets.vsphere_machine import import_tags, note
from pipeline.targets.vsphere_places import Places, pick_host
from pipeline.targets.vsphere_session import Session

_CHUNK = 1 << 20
_ANSWER_S = 300.0
# A lease is lost five minutes after it was last renewed (leaseTimeout says after how many seconds).
_RENEWALS = 5
_KIND = "application/x-vnd.vmware-streamVmdk"
_Lease = vim.HttpNfcLease
# For a host that gives SHA-1 alone: that of what is sent, which must be the image.
_FALLBACK = ("sha1", "sha256")


def import_image(
    session: Session, places: Places, image: DiskImage, *, hardware: str, advance: Advance
) -> vim.VirtualMachine:
    """Import an image as a machine, with nothing in its annotation that makes it count.

    Raises IntegrityError if the host has hashed other bytes than the image's.
    """
    _check_room(session, places, image)
    spec, device_id = _import_spec(session, places, image, hardware)
    host = pick_host(session, places)
    lease = places.pool.ImportVApp(spec, places.template_folder, host)
    try:
        machine = _fill(session, lease, device_id, Sending(image, advance))
        lease.Complete()
    except BaseException as error:
        failed = _abort(session, lease)
        if failed is not None and isinstance(error, RAISED):
            raise failed from error
        raise
    return machine


def _check_room(session: Session, places: Places, image: DiskImage) -> None:
    """Raise if there isn't even room for what is sent: no disk gets smaller by being unpacked."""
    free = places.datastore.summary.freeSpace
    if free < image.size:
        raise StorageError(
            f"{places.datastore.name} has {free / 1e9:.1f} GB free, {image.remote_name} needs "
            f"more than {image.size / 1e9:.1f} GB",
            where=session.access.host,
            hint="free some room on the datastore, or name another one in the target's file",
        )


def _import_spec(
    session: Session, places: Places, image: DiskImage, hardware: str
) -> tuple[vim.vm.VmImportSpec, str]:
    """Have the server read the descriptor; gives what to import, and the disk's key in it."""
    appliance = Appliance(image.remote_name, image.virtual_size, image.architecture)
    mapping = vim.OvfManager.NetworkMapping(name=appliance.network, network=places.networks[0])
    manager = session.content.ovfManager
    assert manager is not None
    found = manager.CreateImportSpec(
        render_descriptor(appliance, vmdk_size=image.size),
        places.pool,
        places.datastore,
        vim.OvfManager.CreateImportSpecParams(
            locale="", deploymentOption="", entityName=image.remote_name,
            diskProvisioning="thin", networkMapping=[mapping],
        ),
    )  # fmt: skip
    if found.error:
        raise KubekilnError.of(
            problem
            for fault in found.error
            for problem in of_fault(fault, session.access.host).problems
        )
    spec = found.importSpec
    assert isinstance(spec, vim.vm.VmImportSpec)
    spec.configSpec.annotation = note(import_tags(image))
    spec.configSpec.version = hardware
    (item,) = found.fileItem
    return spec, item.deviceId


def _fill(
    session: Session, lease: vim.HttpNfcLease, device_id: str, sent: Sending
) -> vim.VirtualMachine:
    """Send the disk, and compare checksums; gives the machine."""
    over = (_Lease.State.ready, _Lease.State.error)
    session.wait_until(lease, "state", lambda state: state in over)
    about = session.properties(lease, ["error", "info"])
    if about.get("error") is not None:
        raise about["error"]
    info: _Lease.Info = about["info"]
    (device,) = (one for one in info.deviceUrl if one.importKey == device_id)
    if not _takes_sha256(lease, device):
        sent.hashes = {name: hashlib.new(name, usedforsecurity=False) for name in _FALLBACK}
    with renewed(lease, info.leaseTimeout, sent.percent):
        _send(session, device, sent)
    _compare(lease, device, sent)
    assert isinstance(info.entity, vim.VirtualMachine)
    return info.entity


class Sending:
    """The bytes of an image as they are sent: counted, and hashed if the host can't as we do."""

    def __init__(self, image: DiskImage, advance: Advance) -> None:
        self.image = image
        self.hashes: dict[str, hashlib._Hash] = {}
        self.done = 0
        self._advance = advance

    def __iter__(self) -> Iterator[bytes]:
        with self.image.path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
                for one in self.hashes.values():
                    one.update(chunk)
                self.done += len(chunk)
                self._advance(len(chunk))

    def percent(self) -> int:
        """Say how far it is; 100 only when the host has answered."""
        return min(99, 100 * self.done // max(1, self.image.size))


@contextlib.contextmanager
def renewed(
    lease: vim.HttpNfcLease, timeout_s: float, percent: Callable[[], int]
) -> Iterator[None]:
    """Renew a lease several times before it ends, while the block runs, however slow that is."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(timeout_s / _RENEWALS):
            # One that fails is followed by others; if all do, the upload fails too.
            with contextlib.suppress(*RAISED):
                lease.Progress(percent())

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _send(session: Session, device: _Lease.DeviceUrl, sent: Sending) -> None:
    url = urllib.parse.urlsplit(device.url)
    # An ESXi host says `*` for the name by which it was reached.
    host = session.access.host if url.hostname == "*" else url.hostname
    tls = session.tls if not device.sslThumbprint else _unchecked()
    connection = http.client.HTTPSConnection(
        host or "", url.port or 443, context=tls, timeout=_ANSWER_S
    )
    with contextlib.closing(connection):
        connection.connect()
        if device.sslThumbprint:
            check_thumbprint(connection.sock, device.sslThumbprint, str(host))
        size = str(sent.image.size)
        connection.request(
            "POST", url.path, body=sent, headers={"Content-Type": _KIND, "Content-Length": size}
        )
        answer = connection.getresponse()
        answer.read()
    if answer.status not in (http.client.OK, http.client.CREATED):
        raise http.client.HTTPException(f"{answer.status} {answer.reason} from host {host}")


def _unchecked() -> ssl.SSLContext:
    """Trust any certificate for now: `check_thumbprint` is called before anything is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def check_thumbprint(sock: Any, thumbprint: str, host: str) -> None:
    """Raise unless the host has the certificate of which its vCenter, which we trust, told us."""
    wanted = thumbprint.replace(":", "").lower()
    algorithm = {40: "sha1", 64: "sha256", 128: "sha512"}.get(len(wanted), "sha256")
    seen = hashlib.new(algorithm, sock.getpeercert(binary_form=True), usedforsecurity=True)
    if seen.hexdigest() != wanted:
        raise KubekilnError(
            f"{host} has another certificate than its vCenter says ({seen.hexdigest()})",
            hint="somebody may be in between; or reconnect the host in vCenter",
        )


def _takes_sha256(lease: vim.HttpNfcLease, device: _Lease.DeviceUrl) -> bool:
    """Have the host hash as we do: what vSphere 6.7 and newer can."""
    try:
        lease.SetManifestChecksumType([vim.KeyValue(key=device.key, value="sha256")])
    except (vmodl.fault.InvalidRequest, vmodl.fault.NotSupported, vmodl.fault.NotImplemented):
        return False
    return True


def _compare(lease: vim.HttpNfcLease, device: _Lease.DeviceUrl, sent: Sending) -> None:
    """Raise IntegrityError unless what the host has received is the image's file."""
    name, wanted = sent.image.path.name, sent.image.sha256
    if sent.hashes and sent.hashes["sha256"].hexdigest() != wanted:
        raise IntegrityError(f"{name} isn't what it was when it was made", hint="make it again")
    entry = next((one for one in lease.GetManifest() if one.key == device.key), None)
    if entry is None:
        raise IntegrityError(f"the host has no checksum of {name}", hint="upload it again")
    if sent.hashes:
        same = entry.sha1.lower() == sent.hashes["sha1"].hexdigest()
    else:
        same = (entry.checksum or "").lower() == wanted
    if not same:
        raise IntegrityError(
            f"the host has received other bytes than {name} had when it was made",
            hint="upload it again; if it happens again, look at the file, and what is in between",
        )


def _abort(session: Session, lease: vim.HttpNfcLease) -> vmodl.MethodFault | None:
    """Give up an import, as far as the server can be told; gives what it says went wrong."""
    failed: vmodl.MethodFault | None = None
    with contextlib.suppress(*RAISED):
        failed = session.properties(lease, ["error"]).get("error")
        if failed is None:
            lease.Abort(None)
    return failed
