# SPDX-License-Identifier: Apache-2.0
"""The contract on govmomi's simulator of a vCenter, with our additions (servers/vcsim/main.go).

It is no hypervisor: nothing boots. What it is asked for is what a vCenter would be asked for, and
its inventory, tasks, leases, rules and datastore (a directory) are those of one.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyVmomi import vim

from kubekiln.process import Command, Result, end, run, spawn
from pipeline.targets.platform import FormatName, Instance, RemoteImage
from pipeline.targets.vsphere import Settings, VSpherePlatform
from pipeline.targets.vsphere_access import Access
from pipeline.targets.vsphere_session import Session, session
from tests.platforms.rigs.rig import NOBODY, Trouble
from tests.support.disks import raw_sha256
from tests.support.gobuild import go_server

PASSWORD = "right-secret"
FOLDER = "kubekiln"
TROUBLES: Mapping[Trouble, Mapping[str, str]] = {
    "wrong-credentials": {},
    "full-storage": {"ImportVApp": "full"},
    "cut": {"upload": "cut", "CloneVM_Task": "cut"},
    "server-error": {"upload": "busy", "ReconfigVM_Task": "busy"},
    "away": {},
}


class VSphereRig:
    """A simulator of this test run, with one cluster of three hosts."""

    name = "vsphere"
    format: FormatName = "vmdk"
    forgets = True
    cannot: Mapping[str, str] = {}

    @staticmethod
    def prepare() -> None:
        """Build the simulator and govc if they aren't in the cache: minutes, once."""
        for name in ("vcsim", "govc"):
            go_server(name)

    def __enter__(self) -> VSphereRig:
        program = go_server("vcsim")
        self._directory = Path(tempfile.mkdtemp(prefix="kubekiln-vcsim-"))
        self._uploads = self._directory / "uploads"
        self._uploads.mkdir()
        # The simulator keeps its datastores in the temporary directory.
        self._process = spawn(
            Command([program, self._uploads], env={"TMPDIR": str(self._directory)}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{PASSWORD}\n".encode())
        process.stdin.close()
        said = json.loads(process.stdout.readline())
        self.address, self.certificate = said["host"], Path(said["cert"])
        with self.session() as at:
            datacenter = at.search.FindByInventoryPath("DC0")
            assert isinstance(datacenter, vim.Datacenter)
            datacenter.vmFolder.CreateFolder(FOLDER)

    def __exit__(self, *_: object) -> None:
        end(self._process.pid)
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        shutil.rmtree(self._directory)

    @property
    def environment(self) -> dict[str, str]:
        """What a user would have set."""
        return {
            "VSPHERE_SERVER": self.address,
            "VSPHERE_USER": "kubekiln",
            "VSPHERE_PASSWORD": PASSWORD,
            "GOVC_TLS_CA_CERTS": str(self.certificate),
        }

    def settings(self, **changes: Any) -> Settings:
        """Name what the simulator has."""
        wanted: dict[str, Any] = {
            "type": "vsphere", "datacenter": "DC0", "cluster": "DC0_C0", "folder": FOLDER,
            "datastore": "LocalDS_0", "networks": ("DC0_DVPG0", "VM Network"),
        }  # fmt: skip
        return Settings(**wanted | changes)

    def connect(self, trouble: Trouble | None = None, **changes: Any) -> VSpherePlatform:
        self.make_trouble(TROUBLES[trouble] if trouble else {})
        environment = self.environment
        if trouble == "wrong-credentials":
            environment["VSPHERE_PASSWORD"] = "wrong-secret"
        if trouble == "away":
            environment["VSPHERE_SERVER"] = NOBODY
        return VSpherePlatform(self.settings(**changes), environment)

    def make_trouble(self, troubles: Mapping[str, str]) -> None:
        """Tell the simulator what goes wrong from now on."""
        with contextlib.closing(self.http()) as connection:
            connection.request("POST", "/troubles", body=json.dumps(troubles))
            assert connection.getresponse().status == http.client.OK

    def http(self) -> http.client.HTTPSConnection:
        """Connect to the simulator, as anyone may."""
        context = ssl.create_default_context(cafile=self.certificate)
        host, _, port = self.address.rpartition(":")
        return http.client.HTTPSConnection(host, int(port), context=context, timeout=60)

    def thumbprint(self) -> str:
        """Give the certificate's SHA-1, written as vCenter does."""
        der = ssl.PEM_cert_to_DER_cert(self.certificate.read_text())
        return hashlib.sha1(der, usedforsecurity=False).hexdigest().upper()

    def session(self) -> contextlib.AbstractContextManager[Session]:
        """Log in beside the platform, to see what is there."""
        return session(Access.from_environment(self.environment), patience_s=60)

    def govc(self, *words: str | Path, check: bool = True) -> Result:
        """Run govmomi's own client, as the same user and with what `settings` names."""
        wanted = self.settings()
        home = f"/{wanted.datacenter}"
        env = {
            "GOVC_URL": self.address,
            "GOVC_USERNAME": self.environment["VSPHERE_USER"],
            "GOVC_PASSWORD": PASSWORD,
            "GOVC_TLS_CA_CERTS": str(self.certificate),
            "GOVC_PERSIST_SESSION": "false",
            "GOVC_DATACENTER": home,
            "GOVC_DATASTORE": wanted.datastore,
            "GOVC_RESOURCE_POOL": f"{home}/host/{wanted.cluster}/Resources",
            "GOVC_FOLDER": f"{home}/vm/{wanted.folder}",
        }
        return run(Command([go_server("govc"), *words], env=env, timeout_s=300), check=check)

    def newest_upload(self) -> Path:
        """Give the file of what was last sent to a lease, as it arrived."""
        return max(self._uploads.iterdir(), key=lambda path: path.stat().st_mtime_ns)

    def disk_sha256(self, image: RemoteImage, scratch: Path) -> str:
        with self.session() as at:
            config = at.machine(image.id).config
            assert config is not None and config.template
        return raw_sha256(self.newest_upload(), "vmdk", scratch)

    def extra_config(self, instance: Instance) -> dict[str, str]:
        """Read what the machine's tools would answer for, and more."""
        with self.session() as at:
            config = at.machine(instance.id).config
            assert config is not None
            return {one.key: str(one.value) for one in config.extraConfig}

    def user_data(self, instance: Instance) -> bytes:
        values = self.extra_config(instance)
        if not values.get("guestinfo.userdata"):
            return b""
        assert values["guestinfo.userdata.encoding"] == "gzip+base64"
        return base64.b64decode(values["guestinfo.userdata"], validate=True)

    def etcd_disks(self, instance: Instance) -> list[int]:
        with self.session() as at:
            config = at.machine(instance.id).config
            assert config is not None
            disks = [d for d in config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)]
            assert len({(disk.controllerKey, disk.unitNumber) for disk in disks}) == len(disks)
            return [disk.capacityInKB >> 20 for disk in disks[1:]]

    def files(self) -> list[Path]:
        """List what is on the datastore."""
        stores = self._directory.glob("govcsim-*/LocalDS_0*") if self._directory.exists() else ()
        return sorted(p for store in stores for p in store.rglob("*") if p.is_file())

    def leftovers(self) -> list[str]:
        with self.session() as at:
            folder = at.search.FindByInventoryPath(f"DC0/vm/{FOLDER}")
            assert isinstance(folder, vim.Folder)
            machines = [one.name for one in folder.childEntity]
            cluster = at.search.FindByInventoryPath("DC0/host/DC0_C0")
            assert isinstance(cluster, vim.ClusterComputeResource)
            config = cluster.configurationEx
            assert isinstance(config, vim.cluster.ConfigInfoEx)
            rules = [str(rule.name) for rule in config.rule]
        ours = [str(path) for path in self.files() if "DC0_" not in str(path)]
        return [*machines, *rules, *ours]
