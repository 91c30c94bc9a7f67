# SPDX-License-Identifier: Apache-2.0
"""How does a test switch on a virtual machine that takes itself for one of a cloud's?

Its network is a namespace of its own, where nobody is but the cloud's metadata service: no name
server answers there.
"""

from __future__ import annotations

import json
import shlex
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from subprocess import Popen

import pycdlib

from kubekiln.files import make_dir
from kubekiln.process import Command, run, spawn
from pipeline.targets.machine import Machine
from pipeline.targets.qemu import choose_accelerator, make_disks
from tests.conftest import ROOT
from tests.support.clouds import Cloud, Files
from tests.support.metadata import ADDRESS, lay_down
from tests.support.waiting import until

# Where cloud-init looks for Linode's service first; of Azure's fabric.
_ADDRESSES = (f"{ADDRESS}/32", "fd00:a9fe:a9fe::1/128", "168.63.129.16/32")


@contextmanager
def cloud_machine(
    cloud: Cloud, machine: Machine, scratch: Path
) -> Iterator[tuple[Popen[bytes], Path]]:
    """Run a machine until the block ends; gives the process, and what the cloud was asked.

    The machine's disk outlives it.
    """
    make_dir(machine.run_dir)
    served, rules, asked = make_dir(scratch / "served"), scratch / "rules.json", scratch / "asked"
    lay_down(cloud.files(machine), served)
    if cloud.media:
        _write_udf(cloud.media(machine), machine.run_dir / "media.iso")
    if cloud.guestinfo:
        _write_archive(cloud.guestinfo(machine), machine.run_dir / "guestinfo.tar")
    rules.write_text(json.dumps(dict(cloud.rules)))
    make_disks(machine)
    script = [
        "set -e",
        "ip link set lo up",
        *(f"ip address add {address} dev lo" for address in _ADDRESSES),
        f"{shlex.join(_service(rules, served))} >{shlex.quote(str(asked))} 2>&1 &",
        f"exec {shlex.join(_qemu(cloud, machine, asked))}",
    ]
    # With its first process, which QEMU becomes, everything ends that is in the namespace; and that
    # ends with us, however we do.
    own = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--fork", "--kill-child"]
    child = spawn(Command([*own, "bash", "-c", "\n".join(script)], cwd=ROOT, as_root=True))
    try:
        yield child, asked
    finally:
        child.kill()
        child.wait(30)
        # QEMU ends a moment later, and holds its disk as long.
        look = Command(["qemu-img", "info", machine.run_dir / "disk.qcow2"])
        until(lambda: not run(look, check=False).returncode, what="QEMU's end", timeout_s=30)


def _service(rules: Path, served: Path) -> list[str]:
    return [sys.executable, "-m", "tests.support.cloudmetadata", str(rules), str(served)]


def _qemu(cloud: Cloud, machine: Machine, asked: Path) -> list[str]:
    accelerator, network = choose_accelerator(machine.cpus), machine.address.network
    of_the_cpu = accelerator.arguments.index("-cpu") + 1
    words = list(accelerator.arguments)
    words[of_the_cpu] += cloud.cpu
    return [
        "qemu-system-x86_64",
        "-nodefaults", "-display", "none", "-machine", "q35", *words,
        "-smbios", cloud.smbios, "-smp", str(accelerator.cpus), "-m", str(machine.memory_mib),
        "-drive", f"file={machine.run_dir / 'disk.qcow2'},if=virtio,cache=unsafe",
        # Who asks first gets the first address.
        "-netdev", f"user,id=net,net={network},host={machine.gateways[0]},dns={network[3]},"
        f"dhcpstart={machine.address.ip},domainname=cloud.internal",
        "-device", f"virtio-net-pci,netdev=net,mac={machine.mac},romfile=",
        "-object", "rng-random,id=random,filename=/dev/urandom",
        "-device", "virtio-rng-pci,rng=random",
        "-serial", f"file:{machine.console_log}",
        *_extras(cloud, machine, asked),
    ]  # fmt: skip


def _extras(cloud: Cloud, machine: Machine, asked: Path) -> list[str]:
    words = ["-smbios", f"type=3,asset={cloud.asset_tag}"] if cloud.asset_tag else []
    if cloud.media:
        words += [
            "-device", "virtio-scsi-pci,id=scsi",
            "-drive", f"file={machine.run_dir / 'media.iso'},if=none,id=cd,format=raw,media=cdrom",
            "-device", "scsi-cd,bus=scsi.0,drive=cd",
        ]  # fmt: skip
    if cloud.guestinfo:
        words += [
            "-drive", f"file={machine.run_dir / 'guestinfo.tar'},if=virtio,format=raw,readonly=on",
            "-chardev", f"file,id=asked,path={asked},append=on", "-serial", "chardev:asked",
        ]  # fmt: skip
    return words


def _write_archive(files: Files, path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))


def _write_udf(files: Files, path: Path) -> None:
    """Write a CD as Azure's fabric does: UDF alone counts, but it can't be without ISO 9660."""
    disc = pycdlib.PyCdlib()
    disc.new(udf="2.60")
    for index, (name, content) in enumerate(files.items()):
        disc.add_fp(
            BytesIO(content), len(content), iso_path=f"/FILE{index}.;1", udf_path=f"/{name}"
        )
    disc.write(str(path))
    disc.close()
