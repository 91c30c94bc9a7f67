# SPDX-License-Identifier: Apache-2.0
"""The contract on a real libvirt daemon in session mode, as a user without privileges."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pycdlib

from kubekiln.errors import KubekilnError
from kubekiln.process import Command, end, spawn
from pipeline.targets.libvirt import LibvirtPlatform, Settings
from pipeline.targets.libvirt_connection import Connection
from pipeline.targets.platform import FormatName, Instance, RemoteImage
from tests.platforms.rigs.rig import Trouble
from tests.support.disks import raw_sha256
from tests.support.faults import UnixDoor
from tests.support.venvs import server_venv
from tests.support.waiting import until

# Whom machines run as if we are root: a session of root's is none.
_NOBODY = 65534
# Less than the image of a test.
_SMALL_MIB = 2
_START_S = 60.0
# A mount that nobody else sees, then again the user that we are.
_IN_NAMESPACE = 'mount -t tmpfs -o "size=$1m,uid=$2,mode=700" kubekiln "$3"; shift 3; exec "$@"'
_CREDENTIALS = """[credentials-rig]
authname=kubekiln
password=wrong-secret
[auth-libvirt-127.0.0.1]
credentials=rig
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def provide_binding() -> Path:
    """Have `import libvirt` work: if this Python has no binding, one is built, once.

    Gives the directory that it is in.
    """
    found = importlib.util.find_spec("libvirt")
    if found is None or found.origin is None:
        lib = server_venv("libvirt").parent / "lib"
        directory = next(lib.glob("python3*/site-packages"))
        sys.path.append(str(directory))
        return directory
    return Path(found.origin).parent


_POOLS = ("pool", "small", "keys")


class LibvirtRig:
    """A daemon with a pool, and a pool that is too small; machines have 256 MiB and no system."""

    name = "libvirt"
    format: FormatName = "qcow2"
    forgets = True
    cannot: Mapping[str, str] = {
        "user-data": "a seed can be of any size",
        "server-error": "libvirt's protocol knows no `later`: a daemon in trouble cuts connections",
    }

    @staticmethod
    def prepare() -> None:
        """Compile libvirt's binding if this Python has none."""
        provide_binding()

    def __enter__(self) -> LibvirtRig:
        provide_binding()
        # Short: the path of a unix socket has at most 107 characters.
        self.directory = Path(tempfile.mkdtemp(prefix="kklv-", dir="/tmp"))
        self.pool_dir, self.keys_dir = self.directory / "pool", self.directory / "keys"
        self._stack = ExitStack()
        self._stack.callback(shutil.rmtree, self.directory)
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def settings(self, **changed: Any) -> Settings:
        words: dict[str, Any] = {
            "uri": self.uri(), "pool": "pool", "networks": [{"user": "10.80.0.0/24"}],
        }  # fmt: skip
        return Settings(type="libvirt", **(words | changed))

    def uri(self, path: Path | None = None) -> str:
        return f"qemu:///session?socket={path or self._socket}"

    def connect(self, trouble: Trouble | None = None) -> LibvirtPlatform:
        changed: dict[str | None, Callable[[], dict[str, str]]] = {
            None: dict,
            "wrong-credentials": lambda: {"uri": self._uri_with_password},
            "full-storage": lambda: {"pool": "small"},
            "away": lambda: {"uri": self.uri(self.door("cut", cut_after=1).path)},
            "cut": lambda: {"uri": self.uri(self.door("cut").path)},
        }
        return LibvirtPlatform(self.settings(**changed[trouble]()))

    def door(self, mode: str, **more: Any) -> UnixDoor:
        """Open another way to the daemon."""
        path = self.directory / f"door-{len(list(self.directory.glob('door-*')))}"
        return self._stack.enter_context(
            UnixDoor(path=path, to_path=self._socket, mode=mode, **more).opened()
        )

    def disk_sha256(self, image: RemoteImage, scratch: Path) -> str:
        return raw_sha256(self.pool_dir / image.id, "qcow2", scratch)

    def user_data(self, instance: Instance) -> bytes:
        seed = self.domain(instance.id).find("devices/disk[@device='cdrom']/source")
        if seed is None or "file" not in seed.attrib:  # an empty drive has an empty source
            return b""
        out, iso = io.BytesIO(), pycdlib.PyCdlib()
        iso.open(seed.attrib["file"])
        iso.get_file_from_iso_fp(out, joliet_path="/user-data")
        iso.close()
        return out.getvalue()

    def etcd_disks(self, instance: Instance) -> list[int]:
        sources = self.domain(instance.id).findall("devices/disk[@device='disk']/source")
        with self.link.asked("look at volumes") as connection:
            volumes = [connection.storageVolLookupByPath(s.attrib["file"]) for s in sources[1:]]
            return [volume.info()[1] >> 30 for volume in volumes]

    def domain(self, name: str) -> ET.Element:
        """What the daemon says of a domain."""
        with self.link.asked("look at a domain") as connection:
            return ET.fromstring(connection.lookupByName(name).XMLDesc(0))

    @property
    def version(self) -> int:
        """The daemon's own: major × 1,000,000 + minor × 1,000 + release."""
        with self.link.asked("ask for the version") as connection:
            return int(connection.getLibVersion())

    def leftovers(self) -> list[str]:
        with self.link.asked("list domains") as connection:
            domains = [domain.name() for domain in connection.listAllDomains(0)]
        firmware = self.directory.glob("config/libvirt/qemu/nvram/*")
        files = [*self.pool_dir.iterdir(), *self.keys_dir.iterdir(), *firmware]
        return sorted([*domains, *(path.name for path in files)])

    def _start(self) -> None:
        for name in ("run", "config/libvirt", "cache", "data", *_POOLS):
            (self.directory / name).mkdir(parents=True)
        self._write_config(port := free_port())
        self._socket = self.directory / "run/libvirt/libvirt-sock"
        self._uri_with_password = (
            f"qemu+tcp://127.0.0.1:{port}/session?authfile={self.directory / 'auth.conf'}"
        )
        self.link = Connection(self.uri())
        daemon = spawn(self._command())
        self._stack.callback(self._end, daemon)
        until(lambda: self._socket.exists() or daemon.poll() is not None,
              what="libvirtd listens", timeout_s=_START_S)  # fmt: skip
        log = self.directory / "daemon.log"
        assert daemon.poll() is None, f"no libvirtd (package libvirt-daemon)? {log.read_text()}"
        with self.link.asked("make pools") as connection:
            for name in _POOLS:
                connection.storagePoolCreateXML(
                    f"<pool type='dir'><name>{name}</name>"
                    f"<target><path>{self.directory / name}</path></target></pool>", 0
                )  # fmt: skip

    def _write_config(self, port: int) -> None:
        (self.directory / "auth.conf").write_text(_CREDENTIALS)
        (self.directory / "config/libvirt/qemu.conf").write_text('security_driver = "none"\n')
        (self.directory / "libvirtd.conf").write_text(
            f'log_outputs = "2:file:{self.directory}/libvirtd.log"\n'
            f'listen_tls = 0\nlisten_tcp = 1\nlisten_addr = "127.0.0.1"\ntcp_port = "{port}"\n'
            'auth_tcp = "sasl"\n'
        )
        if os.geteuid() == 0:
            for path in (self.directory, *self.directory.rglob("*")):
                os.chown(path, _NOBODY, _NOBODY)

    def _command(self) -> Command:
        root = os.geteuid() == 0
        user = group = _NOBODY
        again = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        if not root:
            user, group = os.getuid(), os.getgid()
            again = ["unshare", "--user", f"--map-user={user}", f"--map-group={group}"]
        env = {"HOME": str(self.directory), "XDG_RUNTIME_DIR": str(self.directory / "run")}
        for kind in ("config", "cache", "data"):
            env[f"XDG_{kind.upper()}_HOME"] = str(self.directory / kind)
        return Command(
            ["unshare", "--mount", *([] if root else ["--user", "--map-root-user"]), "--",
             "sh", "-euc", _IN_NAMESPACE, "sh", str(_SMALL_MIB), str(user if root else 0),
             self.directory / "small", *again, "libvirtd", "--listen",
             "--config", self.directory / "libvirtd.conf",
             # Ends by itself some time after a test run that was killed.
             "--timeout", "300"],
            env=env, log=self.directory / "daemon.log", what_for="to try machines of libvirt",
        )  # fmt: skip

    def _end(self, daemon: Any) -> None:
        # Machines outlive their daemon.
        with contextlib.suppress(KubekilnError), self.link.asked("end") as connection:
            for domain in connection.listAllDomains():
                if domain.isActive():
                    domain.destroy()
        end(daemon.pid)
        daemon.wait(_START_S)
        for pidfile in self.directory.glob("run/libvirt/virtlogd.pid"):
            end(int(pidfile.read_text()))
