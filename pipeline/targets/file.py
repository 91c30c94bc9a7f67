# SPDX-License-Identifier: Apache-2.0
"""How are image and seeds laid into a directory, or below an HTTP server's root?

For what we don't drive: PXE, MAAS, Ironic, Tinkerbell, a hypervisor by hand, an air gap's carrier.

    DIR/images/kubekiln-debian-13-<digest>.qcow2 (and .sha256)
    DIR/nodes/<cluster>/<node>/{user-data,user-data.gz,meta-data,network-config,vendor-data,seed.iso}
    DIR/nodes/<cluster>/<node>/{user-data.gz.b64,guestinfo.*} as the cluster's datasource wants it
    DIR/nodes/<cluster>/<node>/SHA256SUMS
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from kubekiln.errors import ConfigError, IntegrityError, Problem
from kubekiln.files import make_dir, sha256_bytes, sha256_file, storage_errors, write_atomic
from pipeline.disk.formats import SUFFIXES
from pipeline.targets.platform import (
    Advance,
    DiskImage,
    FormatName,
    Instance,
    InstanceSpec,
    RemoteImage,
    TargetSettings,
)

_CHUNK = 1 << 20
_SUMS = "SHA256SUMS"
_RECORD = ".kubekiln.json"
_TELL_NOTHING = frozenset({_RECORD, "meta-data", "network-config", "vendor-data"})
# NoCloud over HTTP asks for it, and waits where it gets an error that isn't 404.
_EMPTY = {"vendor-data": b""}


class Settings(TargetSettings):
    """A directory that gets images and seeds."""

    type: Literal["file"]
    """A directory."""
    directory: Path = Field(examples=["/srv/http/kubekiln"])
    """Where to, below the project if not absolute; made if it isn't there. Seeds hold keys: they
    are readable for their owner only, unless `group` says who serves them."""
    format: FormatName = "qcow2"
    """Of the image."""
    group: str | None = None
    """A group (by name) that may read the seeds, such as that of a web server."""

    def below(self, root: Path) -> Self:
        """Take the directory as one below the project, if it isn't absolute."""
        return self.model_copy(update={"directory": root / self.directory})


class FilePlatform:
    """Copies; nothing runs there as far as we know."""

    type = "file"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._images_dir = settings.directory / "images"
        self._nodes_dir = settings.directory / "nodes"
        self.format: FormatName = settings.format

    def problems(self) -> list[Problem]:
        """Say whether the directory, or the nearest one above it, can be written to."""
        there = next(p for p in (self._settings.directory, *self._settings.directory.parents)
                     if p.exists())  # fmt: skip
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return []
        what = f"{self._settings.directory} can't be written to"
        return [Problem(what, where=str(there), hint="check the owner and mode of the directory")]

    def find_image(self, image: DiskImage) -> RemoteImage | None:
        """Look for the image with the checksum that was written after it was whole."""
        path = self._image_path(image)
        sums = _sums_path(path)
        if not (path.is_file() and sums.is_file()) or path.stat().st_size != image.size:
            return None
        return _remote(path) if sums.read_text() == _line(image.sha256, path.name) else None

    def upload(self, image: DiskImage, advance: Advance) -> RemoteImage:
        """Copy, going on where an earlier copy ended; read back before it gets its name."""
        path = self._image_path(image)
        part = path.with_name(f".{path.name}.{image.sha256[:12]}.part")
        with storage_errors(path):
            self._make_home()
            make_dir(path.parent)
            _sums_path(path).unlink(missing_ok=True)
            _append(image.path, part, advance)
            if sha256_file(part) != image.sha256:
                part.unlink()
                raise IntegrityError(
                    f"{path} is not what was copied there",
                    hint="try again; if it happens again, look at the disk",
                )
            part.chmod(0o644)  # as its checksum: who serves both is another user
            part.rename(path)
        write_atomic(_sums_path(path), _line(image.sha256, path.name))
        return _remote(path)

    def delete_image(self, image: RemoteImage) -> None:
        """Remove the image; its checksum first, which is what makes it whole."""
        path = Path(image.id)
        for file in (_sums_path(path), path):
            file.unlink(missing_ok=True)

    def refusals(self, specs: Sequence[InstanceSpec], image: DiskImage) -> list[Problem]:
        """Say nothing: a seed can be of any size, and which machine takes it is not known here."""
        del specs, image
        return []

    def list_instances(self, cluster: str | None = None) -> Sequence[Instance]:
        """List the nodes whose seeds are there."""
        records = sorted(self._nodes_dir.glob(f"{cluster or '*'}/*/{_RECORD}"))
        return [_instance(record.parent, json.loads(record.read_text())) for record in records]

    def create(self, spec: InstanceSpec, image: RemoteImage) -> Instance:
        """Write the node's seed; whole or not at all."""
        directory = self._nodes_dir / spec.cluster / spec.node
        files = {
            # With what the cluster's datasource wants beside the plain files.
            **{path.name: path.read_bytes() for path in sorted(spec.seed_dir.iterdir())},
            "user-data.gz": spec.user_data.reveal(),
            "seed.iso": spec.seed_iso.read_bytes(),
            **_EMPTY,
        }
        record: dict[str, Any] = {"payload": spec.payload, "image": image.name}
        if spec.etcd_disk_gib:
            record["etcd_disk_gib"] = spec.etcd_disk_gib
        _remove(directory)
        self._make_dirs(directory)
        # First, so that whatever follows is found and removed even if this is cut off.
        self._write(directory / _RECORD, json.dumps({**record, "whole": False}).encode())
        for name, content in files.items():
            self._write(directory / name, content)
        lines = [_line(sha256_bytes(content), name) for name, content in sorted(files.items())]
        self._write(directory / _SUMS, "".join(lines).encode())
        self._write(directory / _RECORD, json.dumps({**record, "whole": True}).encode())
        return _instance(directory, record)

    def start(self, instance: Instance) -> None:
        """Do nothing: whoever boots it is not known here."""

    def read_console(self, instance: Instance) -> str | None:
        """Tell nothing: whoever boots it is not known here."""
        del instance
        return None

    def forget_user_data(self, instance: Instance) -> None:
        """Remove the node's files but those that say nothing: what is there, its name, its cards.

        Whoever serves them has nothing to give to a machine that begins anew.
        """
        directory = Path(instance.id)
        for path in directory.iterdir() if directory.is_dir() else ():
            if path.name not in _TELL_NOTHING:
                path.unlink(missing_ok=True)

    def delete(self, instance: Instance) -> None:
        """Remove the node's seed, and the cluster's directory with the last one."""
        directory = Path(instance.id)
        _remove(directory)
        try:
            directory.parent.rmdir()
        except OSError as error:
            # Others are there; or another thread, which removed a node as well, was faster.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise

    def _image_path(self, image: DiskImage) -> Path:
        return self._images_dir / f"{image.remote_name}.{SUFFIXES[self.format]}"

    def _make_home(self) -> None:
        """Make the directory so that whoever serves it gets below, whatever the umask."""
        if not self._settings.directory.exists():
            make_dir(self._settings.directory)

    def _make_dirs(self, directory: Path) -> None:
        self._make_home()
        for one in (self._nodes_dir, directory.parent, directory):
            make_dir(one, mode=0o750 if self._settings.group else 0o700)
            self._give(one)

    def _write(self, path: Path, content: bytes) -> None:
        write_atomic(path, content, mode=0o640 if self._settings.group else 0o600)
        self._give(path)

    def _give(self, path: Path) -> None:
        if self._settings.group:
            try:
                shutil.chown(path, group=self._settings.group)
            except LookupError as error:
                hint = "`getent group` lists those there are"
                raise ConfigError(f"no group {self._settings.group}", hint=hint) from error


def connect(settings: Settings) -> FilePlatform:
    """Make the platform of these settings."""
    return FilePlatform(settings)


def _remove(directory: Path) -> None:
    with storage_errors(directory):
        if directory.exists():
            shutil.rmtree(directory)


def _append(source: Path, part: Path, advance: Advance) -> None:
    with source.open("rb") as read, part.open("ab") as write:
        done = min(write.tell(), source.stat().st_size)
        read.seek(done)
        advance(done)
        while chunk := read.read(_CHUNK):
            write.write(chunk)
            advance(len(chunk))
        write.flush()
        os.fsync(write.fileno())


def _sums_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _line(sha256: str, name: str) -> str:
    return f"{sha256}  {name}\n"


def _remote(path: Path) -> RemoteImage:
    return RemoteImage(str(path), path.name)


def _instance(directory: Path, record: Mapping[str, Any]) -> Instance:
    return Instance(
        id=str(directory),
        cluster=directory.parent.name,
        node=directory.name,
        payload=record["payload"],
        state="stopped" if record.get("whole", True) else "failed",
        detail="a seed; what boots from it isn't known"
        if record.get("whole", True)
        else "half written",
    )
