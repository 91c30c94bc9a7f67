# SPDX-License-Identifier: Apache-2.0
"""May this machine take up its role? Opens the gate (kubekiln.target) or says why not.

Runs at every boot, after cloud-init wrote the files. Exit status: 0 open, 1 closed for good. For an
address that DHCP has to give, and while a pool's token has ended by the machine's clock, it waits
as long as it takes.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from kubekiln_node import cloud_init, links
from kubekiln_node.clock import Clock, check_clock, stamp
from kubekiln_node.console import machine_seconds, quote, say
from kubekiln_node.forget import forget_copies, give_back
from kubekiln_node.lease import Complaint, await_lease
from kubekiln_node.manifest import Manifest, ManifestError, read_manifest
from kubekiln_node.pool import has_certificate
from kubekiln_node.status import STATUS_PATH, write_status
from kubekiln_node.verify import find_problems, owner_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MANIFEST_PATH = "/etc/kubekiln/node.json"
# Of kubekiln_node.protected.
PROTECTED_PATH = "/etc/kubekiln/protected.json"
# A server that is started late is noticed soon enough, and not asked by thousands at once.
LONGEST_PAUSE_S = 30.0
# How soon a clock that was ahead counts as corrected; reading it costs nothing.
CLOCK_LOOK_S = 2.0
TARGET = "kubekiln.target"
UNIT_DIR = "/etc/systemd/system"
RELOAD = ("systemctl", "daemon-reload")
START = ("systemctl", "start", "--no-block", TARGET)


def main() -> int:
    """Verify, then open the gate or keep it closed."""
    return activate(run=_run, host_name=os.uname().nodename, owner_of=owner_name)


def activate(
    *,
    run: Callable[[Sequence[str]], int],
    host_name: str,
    owner_of: Callable[[int, int], str],
    root: str = "",
    now: Callable[[], float] = machine_seconds,
    tell: Callable[[str], None] = say,
    clock: Clock | None = None,
    wait: Callable[..., bool] = await_lease,
    sync: Callable[[], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Do all of `main` below `root`, with the given doors to the outside."""
    started, clock = now(), clock or Clock()
    problems = _obtain_rest(host_name, root=root, tell=tell, clock=clock)
    manifest = None
    if not problems:
        manifest, problems = _judge(host_name=host_name, owner_of=owner_of, root=root)
    if manifest and not problems:
        tell(f"KUBEKILN phase=userdata t={started:.1f} node={manifest.node}")
        check_clock(manifest, clock=clock, tell=tell)
        _await_token(manifest, clock=clock, root=root, now=now, tell=tell, sleep=sleep)
        problems = _run_all([links.RELOAD] if links.came_late(manifest, root=root) else [], run)
    if manifest and not problems:
        _await_lease(manifest, run=run, root=root, now=now, tell=tell, wait=wait)
        sync = sync or cloud_init.flush
        problems = _open(manifest, started=started, run=run, root=root, now=now, sync=sync)
    if manifest and not problems:
        tell(f"KUBEKILN phase=activated t={now():.1f} node={manifest.node}")
        # At each boot: the first one may have been cut off here.
        forget_copies(root=root, tell=tell)
        return 0
    _write(root, manifest, gate="closed", reasons=problems, phases={})
    for problem in problems:
        tell(f"KUBEKILN gate=closed reason={quote(problem)} t={now():.1f} node={host_name}")
    return 1


def _obtain_rest(
    host_name: str, *, root: str, tell: Callable[[str], None], clock: Clock
) -> list[str]:
    """Write what the platform was not given of the user-data, if there is such; what went wrong."""
    if not os.path.exists(root + PROTECTED_PATH):
        return []
    from kubekiln_node.protected import obtain  # most machines have no use for them
    from kubekiln_node.waiting import Waiting

    def complain(line: str) -> None:
        reason = line.partition('reason="')[2].partition('"')[0]
        _write(root, None, gate="closed", reasons=[reason], phases={})
        tell(line)

    waiting = Waiting(host_name, longest_pause_s=LONGEST_PAUSE_S, tell=complain)
    return obtain(clock=clock, tell=tell, waiting=waiting, root=root)


def _await_token(
    manifest: Manifest,
    *,
    clock: Clock,
    root: str,
    now: Callable[[], float],
    tell: Callable[[str], None],
    sleep: Callable[[float], None],
) -> None:
    """Keep the gate closed, and say why, while a pool's token has ended by this machine's clock.

    A time server may still correct a clock that is ahead. One that is right keeps it closed.
    """
    is_told = False
    while trouble := _token_trouble(manifest, now=clock.now(), root=root):
        if not is_told:
            is_told = True
            _stay_closed(manifest, trouble, root=root, now=now, tell=tell)
        sleep(CLOCK_LOOK_S)
    if is_told:
        tell(f"KUBEKILN gate=open t={now():.1f} node={manifest.node}")


def _await_lease(
    manifest: Manifest,
    *,
    run: Callable[[Sequence[str]], int],
    root: str,
    now: Callable[[], float],
    tell: Callable[[str], None],
    wait: Callable[..., bool],
) -> None:
    """Keep the gate closed, and say why, while the machine has not the address of its role."""

    def complain(complaint: Complaint) -> None:
        kind = "gate=closed" if complaint.is_wrong else "waiting"
        _stay_closed(manifest, complaint.text, kind=kind, root=root, now=now, tell=tell)

    if manifest.lease and wait(manifest.lease, complain=complain, run=run):
        tell(f"KUBEKILN gate=open t={now():.1f} node={manifest.node}")


def _stay_closed(
    manifest: Manifest,
    reason: str,
    *,
    kind: str = "gate=closed",
    root: str,
    now: Callable[[], float],
    tell: Callable[[str], None],
) -> None:
    _write(root, manifest, gate="closed", reasons=[reason], phases={})
    tell(f"KUBEKILN {kind} reason={quote(reason)} t={now():.1f} node={manifest.node}")


def _open(
    manifest: Manifest,
    *,
    started: float,
    run: Callable[[Sequence[str]], int],
    root: str,
    now: Callable[[], float],
    sync: Callable[[], None],
) -> list[str]:
    """Start the role; what went wrong."""
    # After the first time systemd has read all units while it started.
    first_time = not cloud_init.has_had_its_turn(root)
    if first_time:
        problems = _run_all([RELOAD] if needs_reload(manifest) else [], run)
        if problems:
            return problems
        cloud_init.switch_off(root=root, sync=sync)
    # Before the start: kubekiln-report goes on from here.
    phases = {"userdata": round(started, 1), "activated": round(now(), 1)}
    _write(root, manifest, gate="open", reasons=[], phases=phases)
    problems = _run_all([START], run)
    if first_time and not problems:
        run(cloud_init.END)
        give_back(root=root, run=run)
    return problems


def needs_reload(manifest: Manifest) -> bool:
    """Tell whether files belong to units that systemd may have read before cloud-init wrote them.

    It reads the target and the role's units when they are started. Reading everything again takes
    5 s of an emulated CPU.
    """
    fresh = {TARGET, *manifest.units}
    for item in manifest.files:
        place, _, rest = item.path.partition(f"{UNIT_DIR}/")
        if not place and rest and rest.partition("/")[0].removesuffix(".d") not in fresh:
            return True
    return False


def _judge(
    *, host_name: str, owner_of: Callable[[int, int], str], root: str
) -> tuple[Manifest | None, list[str]]:
    try:
        manifest = read_manifest(root + MANIFEST_PATH, host_name=host_name)
    except FileNotFoundError:
        quoted = cloud_init.complaints(root) or [
            "cloud-init reports no error, see /var/log/cloud-init.log"
        ]
        return None, [f"no {MANIFEST_PATH}: cloud-init got no usable user-data", *quoted]
    except ManifestError as error:
        return None, [*error.reasons, *cloud_init.complaints(root)]
    except OSError as error:
        return None, [f"{MANIFEST_PATH} can't be read: {error.strerror}"]
    problems = find_problems(manifest, host_name=host_name, root=root, owner_of=owner_of)
    return manifest, [*problems, *(cloud_init.complaints(root) if problems else [])]


def _token_trouble(manifest: Manifest, *, now: int, root: str) -> str:
    """Say why a machine of a pool can no longer join: its token ended before it had joined."""
    pool = manifest.pool
    if pool is None or now <= pool.token_expires:
        return ""
    if has_certificate(root + str(manifest.report["cert"])):
        return ""
    return (
        f"bootstrap token {pool.token_id} of pool {pool.name} expired on "
        f"{stamp(pool.token_expires)}, by this machine's clock it is {stamp(now)}: correct the "
        "clock if it is ahead, else render the cluster again, run `kubekiln cluster tokens "
        f"{manifest.cluster} --apply`, and give machines the new user-data"
    )


def _run_all(commands: Sequence[Sequence[str]], run: Callable[[Sequence[str]], int]) -> list[str]:
    for command in commands:
        status = run(command)
        if status:
            return [f"{' '.join(command)} failed with exit status {status}"]
    return []


def _run(command: Sequence[str]) -> int:
    # Not the subprocess module: its import costs as much as the whole rest of this program.
    pid = os.posix_spawnp(command[0], list(command), os.environ)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _write(
    root: str,
    manifest: Manifest | None,
    *,
    gate: str,
    reasons: list[str],
    phases: dict[str, float],
) -> None:
    status: dict[str, object] = {"schema": 1, "gate": gate, "reasons": reasons, "phases": phases}
    if manifest:
        for key in ("cluster", "node", "role", "kubernetes"):
            status[key] = getattr(manifest, key)
    write_status(status | {"failing": [], "complete": False}, root + STATUS_PATH)
