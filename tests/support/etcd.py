# SPDX-License-Identifier: Apache-2.0
"""What do the members of a database say of themselves?"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from tests.conftest import ROOT
from tests.support.fleet import Fleet

_KEYS = ROOT / "tests/support/in_pod/etcd_keys.py"
_METRICS = """
import ssl, urllib.request
context = ssl.create_default_context(cafile="/etc/etcd/pki/ca.crt")
context.load_cert_chain("/etc/etcd/pki/etcd.crt", "/etc/etcd/pki/etcd.key")
print(urllib.request.urlopen("https://127.0.0.1:2379/metrics", context=context).read().decode())
"""


@dataclass(frozen=True)
class EtcdStatus:
    """What a member knows of its cluster."""

    is_leader: bool
    term: int
    """Grows by one at each election."""


def etcd_status(made: Fleet, name: str) -> EtcdStatus:
    """Ask the member on a machine."""
    (said,) = json.loads(made.etcdctl(name, "endpoint", "status", "--write-out=json"))
    status = said["Status"]
    header = status["header"]
    return EtcdStatus(status["leader"] == header["member_id"], header["raft_term"])


def slowest_syncs_s(made: Fleet, name: str) -> float:
    """Read in a member's metrics which time some of its writes took at least."""
    said = made.inside(name, "/usr/bin/python3", "-c", _METRICS).text
    found = re.findall(r'wal_fsync_duration_seconds_bucket\{le="([0-9.]+)"\} (\d+)', said)
    buckets = [(float(le), int(count)) for le, count in found]
    (total,) = re.findall(r"wal_fsync_duration_seconds_count (\d+)", said)
    return max((le for le, count in buckets if count < int(total)), default=0.0)


def etcd_keys(made: Fleet, name: str, *, write: int = 0) -> list[object]:
    """Count and sum up the keys of the test, as one member has them."""
    said = made.inside(name, "/usr/bin/python3", "-", str(write), stdin=_KEYS.read_bytes())
    found: list[object] = json.loads(said.text)
    return found
