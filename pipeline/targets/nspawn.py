# SPDX-License-Identifier: Apache-2.0
"""How does a node run as a local container machine (systemd-nspawn), at native speed?

The image's own root is the lower layer of an overlay, the seed directory is bound where NoCloud
looks; image and user-data are the same bytes as those of a virtual machine. Needs root on Linux.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

from kubekiln.channel import KEY_CREDENTIAL
from kubekiln.errors import KubekilnError, Problem
from kubekiln.files import make_dir
from kubekiln.process import Command, Result, find_tool, run
from pipeline.targets.console import last_lines, read_console
from pipeline.targets.machine import Machine, MachineStatus
from pipeline.targets.netns import ensure_network, stop_network
from pipeline.targets.overlay import has_overlayfs
from pipeline.targets.ports import check_port
from pipeline.targets.processes import (
    descendants,
    find_processes,
    kill_all,
    program_of,
    send,
    wait_for,
    wait_gone,
)
from pipeline.targets.record import discard
from pipeline.targets.roots import ensure_root

SCRIPT = Path(__file__).with_name("nspawn-machine.sh")
COPY_CONTAINERD = Path(__file__).with_name("copy-containerd.sh")
# There when systemd is this host's init (sd_booted(3)).
SYSTEMD = Path("/run/systemd/system")
# For flannel's udp backend; a kernel without TUN has none, and then nothing is lost but that.
TUN = Path("/dev/net/tun")
_PROXY = Path("/lib/systemd/systemd-socket-proxyd")
# Below the machine's run directory.
ETCD_DISK = "etcd"
_START_S = 30.0
_PATIENCE_S = 900.0
# Pods get 30 s to end; a machine that hasn't gone after that is cut off.
_POWER_OFF_S = 45.0


class NspawnTarget:
    """Runs machines as systemd-nspawn containers of this host."""

    name = "nspawn"
    joins_machines = True
    reached_by = frozenset({4, 6})
    carries_vlans = False

    def problems(self) -> list[Problem]:
        """Say which tool, privilege or kernel feature lacks."""
        found = [
            Problem(f"program {tool!r} not found (needed to run container machines)",
                    hint="`make setup` installs it, or run with --target qemu")
            for tool in ("systemd-nspawn", "systemd-socket-activate", "ip", "unshare", "nsenter")
            if find_tool(tool) is None
        ]  # fmt: skip
        if not _PROXY.exists():
            found.append(Problem(f"{_PROXY} not found", hint="it is part of the package systemd"))
        if not is_root_possible():
            found.append(
                Problem(
                    "container machines need root, and sudo would ask for a password",
                    hint="run `sudo -v` first, or run as root, or run with --target qemu",
                )
            )
        if not has_overlayfs():
            found.append(Problem("the kernel has no overlayfs", hint="run with --target qemu"))
        return found

    def patience_s(self, machines: int) -> float:
        """Give any number of machines the same: they run at the host's own speed."""
        return _PATIENCE_S

    def boot(self, machine: Machine) -> None:
        """Unpack the image once, make the network, start the machine's process."""
        if find_processes(SCRIPT.name, str(machine.run_dir)):
            return
        if machine.api_host_port is not None:
            check_port(machine.api_host_port, machine.name)
        lower = ensure_root(machine.image)
        prepare(machine, lower)
        network = ensure_network(machine)
        run(Command(start_command(machine, lower, network), as_root=True))
        started = machine.run_dir / "started"
        if not wait_for(started, SCRIPT.name, str(machine.run_dir), timeout_s=_START_S):
            said = last_lines(machine.run_dir / "keeper.log", 3)
            raise KubekilnError(
                f"{machine.name} does not start: {'; '.join(said) or 'no reason given'}",
                where=f"log {machine.run_dir / 'keeper.log'}",
                hint="is the disk below build/ itself an overlay (as in a container)? "
                "then make build/ a volume, or run with --target qemu",
            )

    def status(self, machine: Machine) -> MachineStatus:
        """Look for the machine's process and read its console."""
        keepers = find_processes(SCRIPT.name, str(machine.run_dir))
        report = read_console(machine.console_log)
        if keepers:
            return MachineStatus("running", leader(keepers[0]), "systemd-nspawn", report)
        known = (machine.run_dir / "upper").is_dir()
        return MachineStatus("stopped" if known else "absent", report=report)

    def run_inside(
        self, machine: Machine, argv: Sequence[str], *, stdin_file: Path | None = None
    ) -> Result:
        """Enter the namespaces of the machine's first process."""
        keepers = find_processes(SCRIPT.name, str(machine.run_dir))
        first = leader(keepers[0]) if keepers else None
        if first is None:
            raise KubekilnError(
                f"{machine.name} does not run", hint=f"`kubekiln up {machine.cluster}` boots it"
            )
        words = ["nsenter", "--all", f"--target={first}", "--", *argv]
        return run(Command(words, stdin_file=stdin_file, as_root=True))

    def stop(self, machine: Machine, *, graceful: bool = True) -> None:
        """Ask systemd-nspawn to power the machine off; cut it off if that takes too long."""
        keepers = find_processes(SCRIPT.name, str(machine.run_dir))
        if keepers and graceful:
            running = [p for p in descendants(keepers[0]) if program_of(p) == "systemd-nspawn"]
            send(running[:1], signal.SIGTERM, as_root=True)
            wait_gone(SCRIPT.name, str(machine.run_dir), timeout_s=_POWER_OFF_S if running else 0)
        kill_all(SCRIPT.name, str(machine.run_dir), as_root=True)
        remove_cgroups(machine)

    def destroy(self, machine: Machine) -> None:
        """End the machine and remove its layer; with the last one goes the cluster's network."""
        self.stop(machine, graceful=False)
        discard(machine.run_dir, _remove_as_root)
        directory = machine.network_dir
        if not any(p.is_dir() for p in directory.glob("*")) and directory.is_dir():
            stop_network(directory)
            shutil.rmtree(directory)


def _remove_as_root(directory: Path) -> None:
    run(Command(["rm", "-rf", "--one-file-system", directory], as_root=True))


def prepare(machine: Machine, lower: Path) -> None:
    """Make the machine's own directories; what is there from a boot before is kept."""
    make_dir(machine.run_dir)
    own = ("upper", "work", "root", *([ETCD_DISK] if machine.etcd_disk_gib else []))
    layers = [machine.run_dir / name for name in own]
    # Root's own: the upper layer's directory becomes the machine's `/`, with its owner and mode.
    run(Command(["install", "-d", "-o", "root", "-g", "root", "-m", "0755", *layers], as_root=True))
    containerd = machine.run_dir / "containerd"
    if not containerd.exists():
        # containerd's own snapshots are overlays, and an overlay can't be the upper layer of
        # another: its directory is a plain one, with the images that the golden image carries.
        half = machine.run_dir / "containerd.half"
        image_state = lower / "var/lib/containerd"
        run(Command(["bash", COPY_CONTAINERD, image_state, half], as_root=True))
        run(Command(["mv", "-T", half, containerd], as_root=True))
    for trace in ("started", "console.log", "keeper.log", "proxy.log"):
        run(Command(["rm", "-f", machine.run_dir / trace], as_root=True))
        if trace != "started":
            (machine.run_dir / trace).touch(mode=0o600)


def remove_cgroups(machine: Machine) -> None:
    """Remove the control groups that the machine had to itself; they are empty by now."""
    ours = f"*/kubekiln/{cable_name(machine)}"
    for which in (f"{ours}/*", ours, "*/kubekiln"):
        words = ["find", "/sys/fs/cgroup", "-depth", "-type", "d", "-path", which, "-delete"]
        # Those of other machines are below the last one and keep it there.
        run(Command(words, as_root=True), check=False)


def start_command(machine: Machine, lower: Path, network: int) -> list[str | Path]:
    """The machine's process, out of our session and (under systemd) in a unit of its own."""
    port = "-" if machine.api_host_port is None else str(machine.api_host_port)
    script: list[str | Path] = [
        "bash", SCRIPT, machine.run_dir, lower, str(network), ",".join(machine.macs),
        cable_name(machine), port, proxied_address(machine), *nspawn_command(machine),
    ]  # fmt: skip
    if SYSTEMD.is_dir():
        unit = f"kubekiln-{cable_name(machine)}"
        # A unit with delegated control groups: the session's scope may not be subdivided.
        return ["systemd-run", "--quiet", "--collect", f"--unit={unit}",
                "--property=Delegate=yes", *script]  # fmt: skip
    return ["setsid", "--fork", *script]


def proxied_address(machine: Machine) -> str:
    """Where the API is, as systemd-socket-proxyd wants it: what is before the last colon is the
    host, of IPv6 as well without brackets."""
    return f"{machine.address.ip}:{machine.api_port}"


def nspawn_command(machine: Machine) -> list[str | Path]:
    """systemd-nspawn itself; what each unusual option is for stands beside it."""
    run_dir = machine.run_dir
    return [
        "systemd-nspawn",
        "--quiet",
        "--boot",
        f"--directory={run_dir / 'root'}",
        f"--machine={machine.name}",
        # No systemd-machined is needed on the host.
        "--register=no",
        "--keep-unit",
        "--kill-signal=SIGRTMIN+4",
        f"--network-namespace-path={run_dir / 'own-network'}",
        # Kubernetes' node components manage mounts, devices, namespaces and BPF.
        "--capability=all",
        "--system-call-filter=@known",
        # The kubelet exits without it; the host's own kernel log is not the machine's business.
        "--bind=/dev/null:/dev/kmsg",
        *([f"--bind={TUN}"] if TUN.exists() else []),
        f"--bind={run_dir / 'containerd'}:/var/lib/containerd",
        # For the node that is what a disk mounted there would be.
        *([f"--bind={run_dir / ETCD_DISK}:/var/lib/etcd"] if machine.etcd_disk_gib else []),
        f"--bind-ro={machine.seed_dir}:/var/lib/cloud/seed/nocloud",
        *_key(machine),
        # "pipe" would give the machine no /dev/console.
        "--console=read-only",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
    ]


def _key(machine: Machine) -> list[str]:
    """Give the machine its key to its user-data."""
    if machine.key_dir is None:
        return []
    return [f"--load-credential={KEY_CREDENTIAL}:{machine.key_dir / KEY_CREDENTIAL}"]


def cable_name(machine: Machine) -> str:
    """A name for the host's end of its cables, before their number; unique, and within the kernel's
    15 characters."""
    return f"kk{hashlib.sha256(str(machine.run_dir).encode()).hexdigest()[:10]}"


def leader(keeper: int) -> int | None:
    """Find the machine's first process, to enter it with `nsenter -a -t PID`."""
    below = descendants(keeper)
    for pid in below:
        if program_of(pid) == "systemd-nspawn":
            inside = [p for p in descendants(pid) if program_of(p) in ("systemd", "init")]
            return inside[0] if inside else None
    return None


def is_root_possible() -> bool:
    """Tell whether we are root, or may become it without a password prompt."""
    if find_tool("sudo") is None:
        return _sees_root(run(Command(["id", "-u"])))
    return _sees_root(run(Command(["id", "-u"], as_root=True), check=False))


def _sees_root(result: Result) -> bool:
    return result.text == "0"
