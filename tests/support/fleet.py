# SPDX-License-Identifier: Apache-2.0
"""How do tests boot a cluster's machines one by one, cut one off, and look into one?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cryptography import x509

from cloudinit.render import render_cluster
from kubekiln.operations.kubectl import pinned_kubectl
from kubekiln.operations.prepare import Plan, bake_image, load
from kubekiln.operations.up import boot, plan_machines
from kubekiln.operations.wait import ask_ready_nodes
from kubekiln.paths import Project
from kubekiln.process import Command, Result, run
from pipeline.targets.console import read_console
from pipeline.targets.machine import Machine
from pipeline.targets.nspawn import NspawnTarget
from pipeline.targets.protocol import Target
from tests.support.waiting import until

READY_S = 300.0
_UNITS = tuple(
    f"--unit={unit}"
    for unit in ("etcd", "kube-apiserver", "kubekiln-balancer", "containerd", "kubelet")
)


@dataclass(frozen=True)
class Fleet:
    """A cluster's machines, none of which boots by itself; only container machines have a door."""

    plan: Plan
    machines: dict[str, Machine]
    kubeconfig: Path
    program: Path
    target: Target
    patience_s: float = READY_S

    def add(self, name: str, *, seed_dir: Path) -> None:
        """Take in a machine that the configuration doesn't list: one of a pool.

        Its address is the network's business; what stands here is not used.
        """
        model = next(iter(self.machines.values()))
        self.machines[name] = replace(
            model,
            name=name,
            role="pool",
            mac=f"52:54:00:00:01:{len(self.machines):02x}",
            seed_dir=seed_dir,
            seed_iso=seed_dir / "seed.iso",
            run_dir=model.run_dir.with_name(name),
            api_host_port=None,
        )

    def boot(self, names: Iterable[str]) -> None:
        """Boot machines in this order."""
        for name in names:
            boot(self.target, self.target.name, self.machines[name], [])

    def cut_off(self, *names: str) -> None:
        """End machines as a power cut does."""
        for name in names:
            self.target.stop(self.machines[name], graceful=False)

    def wait_ready(self, names: Iterable[str] | None = None) -> None:
        """Wait until these (or all) nodes are Ready; a failure shows what the late ones say."""
        wanted = set(names or self.nodes)
        what = f"{', '.join(sorted(wanted))} Ready"
        try:
            until(lambda: self.ready_nodes() >= wanted, what=what, timeout_s=self.patience_s)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.symptoms(wanted)}") from None

    def symptoms(self, wanted: Iterable[str]) -> str:
        """Tell what the API says of the nodes, and the journals of those that aren't Ready."""
        asked = self.kubectl("--request-timeout=5s", "get", "nodes", "--output=wide", check=False)
        read = ("/usr/bin/journalctl", "--no-pager", "--lines=25", "--output=short-iso", *_UNITS)
        late = sorted(set(wanted) - self.ready_nodes())
        journals = [f"{name}:\n{self.inside(name, *read, check=False).text}" for name in late]
        return "\n".join([asked.text, asked.stderr.decode(errors="replace"), *journals])

    def ready_nodes(self) -> frozenset[str]:
        """Ask the API which nodes are Ready; none if it does not answer."""
        return ask_ready_nodes(self.program, self.kubeconfig)

    @property
    def nodes(self) -> list[str]:
        """The machines with a kubelet."""
        return [node.name for node in self.plan.cluster.nodes if node.runs_pods]

    def names(self, *roles: str) -> list[str]:
        """The machines of some roles."""
        return [node.name for node in self.plan.cluster.nodes if node.role in roles]

    def kubectl(self, *arguments: str, check: bool = True) -> Result:
        """Run the pinned kubectl as the cluster's administrator."""
        words = [self.program, f"--kubeconfig={self.kubeconfig}", *arguments]
        return run(Command(words, timeout_s=self.patience_s), check=check)

    def inside(
        self, name: str, *command: str, check: bool = True, stdin: bytes | None = None
    ) -> Result:
        """Run a command in a machine, as its root."""
        enter = ["nsenter", "--all", f"--target={self.pid(name)}"]
        return run(Command([*enter, *command], stdin=stdin, timeout_s=120), check=check)

    def pid(self, name: str) -> int:
        """Give a machine's first process, which is there a moment after it was booted."""
        found: list[int] = []

        def look() -> bool:
            pid = self.target.status(self.machines[name]).pid
            found[:] = [] if pid is None else [pid]
            return bool(found)

        until(look, what=f"{name} runs", timeout_s=30)
        return found[0]

    def console(self, name: str) -> str:
        """Read what a machine said."""
        return self.machines[name].console_log.read_text(errors="replace")

    def addresses(self, name: str) -> str:
        """List a machine's links with their addresses, a line each."""
        return self.inside(name, "/usr/sbin/ip", "-brief", "address").text

    def left_by_cloud_init(self, name: str) -> list[str]:
        """Name the files of cloud-init's on a machine that hold a key."""
        search = "grep -rl 'PRIVATE KEY' /var/lib/cloud /run/cloud-init || true"
        return self.inside(name, "/bin/sh", "-c", search).text.splitlines()

    def has_activated(self, name: str) -> bool:
        """Tell whether a machine has begun with its role."""
        return read_console(self.machines[name].console_log).has("activated")

    def is_complete(self, name: str) -> bool:
        """Tell whether a machine has reported its boot as complete."""
        return read_console(self.machines[name].console_log).complete

    def main_pid(self, name: str, unit: str) -> int:
        """Give the process of a unit on a machine; 0 if it isn't active."""
        show = ("/usr/bin/systemctl", "show", "--property=MainPID,ActiveState", unit)
        values = dict(line.split("=", 1) for line in self.inside(name, *show).text.splitlines())
        return int(values["MainPID"]) if values["ActiveState"] == "active" else 0

    def reaches_api(self, name: str, way: str = "127.0.0.1:6443") -> bool:
        """Tell whether one request from a machine finds a ready API server at `host:port`."""
        wait = ("/usr/lib/kubekiln/wait-for-api", f"https://{way}/readyz", "0")
        said = self.inside(name, *wait, "/etc/kubernetes/pki/ca.crt", check=False)
        return said.returncode == 0

    def kill(self, name: str, unit: str) -> None:
        """Kill a unit's process, which must run, and wait until another one does."""
        before = self.main_pid(name, unit)
        assert before > 0, f"{unit} doesn't run on {name}"
        self.inside(name, "/usr/bin/systemctl", "kill", "--signal=SIGKILL", unit)
        until(
            lambda: self.main_pid(name, unit) not in (0, before),
            what=f"another {unit} on {name}", timeout_s=60,
        )  # fmt: skip

    def etcdctl(self, name: str, *words: str, port: int = 2379, check: bool = True) -> str:
        """Ask the member of etcd on a machine."""
        pki = "/etc/etcd/pki"
        files = (f"--cacert={pki}/ca.crt", f"--cert={pki}/etcd.crt", f"--key={pki}/etcd.key")
        endpoint = f"--endpoints=https://127.0.0.1:{port}"
        return self.inside(
            name, "/usr/local/bin/etcdctl", *files, endpoint, *words, check=check
        ).text

    def certificates(self, name: str, path: str) -> list[x509.Certificate]:
        """Read the certificates of a file on a machine; none if it isn't there."""
        said = self.inside(name, "/usr/bin/cat", path, check=False)
        return x509.load_pem_x509_certificates(said.stdout) if said.returncode == 0 else []

    def has_another(self, name: str, path: str, before: x509.Certificate) -> bool:
        """Tell whether the first certificate of a file on a machine is no longer that one."""
        found = self.certificates(name, path)
        return bool(found) and found[0].serial_number != before.serial_number

    def pods(self, selector: str) -> list[tuple[str, list[str], str]]:
        """List (name, addresses, node) of running pods."""
        said = self.kubectl("get", "pods", "-n=e2e", f"--selector={selector}", "--output=json")
        return [
            (
                item["metadata"]["name"],
                [each["ip"] for each in item["status"]["podIPs"]],
                item["spec"]["nodeName"],
            )
            for item in json.loads(said.stdout)["items"]
        ]


def plan_fleet(
    project: Project, name: str, target: Target, *, now: datetime | None = None
) -> Fleet:
    """Prepare a cluster's machines; with `now` they are rendered as if it were another time."""
    plan = load(project, name)
    image = bake_image(project, plan)
    rendered = render_cluster(plan.cluster, project=project, now=now)
    machines = plan_machines(project, plan.cluster, rendered, image)
    kubectl = pinned_kubectl(project, image=plan.cluster.image, version=plan.cluster.kubernetes)
    return Fleet(plan, {m.name: m for m in machines}, rendered.admin_kubeconfig, kubectl, target)


@contextmanager
def fleet(project: Project, name: str, *, now: datetime | None = None) -> Iterator[Fleet]:
    """Prepare container machines; whatever was booted is gone when the block ends."""
    made = plan_fleet(project, name, NspawnTarget(), now=now)
    try:
        yield made
    finally:
        for machine in made.machines.values():
            made.target.destroy(machine)
