# SPDX-License-Identifier: Apache-2.0
"""What does /etc/kubekiln/node.json promise, and is it a manifest that we understand?"""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

from kubekiln_node.pool import Pool, read_pool

SCHEMA = 1
NAMES = ("cluster", "role", "kubernetes")
OPTIONAL_TIMES = ("valid_from", "valid_until")
KEYS = {
    "schema", *NAMES, "node", "pool", "units", "files", *OPTIONAL_TIMES, "lease", "phone_home",
    "report",
}  # fmt: skip
FILE_KEYS = {"path", "mode", "owner", "sha256"}
UNIT_NAME = re.compile(r"[A-Za-z0-9:_.@-]+\.(service|socket|path|timer|target|mount)")
REPORT_DEFAULTS: dict[str, str | int] = {
    "server": "https://127.0.0.1:6443",
    "ca": "/etc/kubernetes/pki/ca.crt",
    "cert": "/etc/kubernetes/pki/kubelet-client.crt",
    "key": "/etc/kubernetes/pki/kubelet-client.key",
    "etcd": "127.0.0.1:2379",
    "timeout_s": 600,
}


class ManifestError(Exception):
    """The manifest can't be used; `reasons` holds every problem found."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


class WrittenFile(NamedTuple):
    """One file that the user-data wrote."""

    path: str
    mode: int
    owner: str
    sha256: str


class Manifest(NamedTuple):
    """The node manifest, checked for shape only."""

    cluster: str
    node: str
    role: str
    kubernetes: str
    units: tuple[str, ...]
    files: tuple[WrittenFile, ...]
    phone_home: str | None
    report: dict[str, str | int]
    valid_from: int = 0
    """Since when all its certificates are valid, in seconds since 1970; 0 if it doesn't say."""
    valid_until: int = 0
    lease: tuple[str, ...] = ()
    """The addresses that DHCP has to give it; none if they are written on the node."""
    pool: Pool | None = None
    """The pool of whose machines it is; `node` is then this machine's own name."""


def read_manifest(path: str, *, host_name: str = "") -> Manifest:
    """Read and check the manifest; raises FileNotFoundError or ManifestError with all problems.

    A pool's names no machine: each takes the name that it has.
    """
    with open(path, "rb") as stream:
        data = stream.read()
    try:
        raw = json.loads(data)
    except ValueError as error:
        raise ManifestError(f"{path} is no JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ManifestError(f"{path} is no JSON object")
    # First of all: another schema may differ in everything else.
    if raw.get("schema") != SCHEMA:
        raise ManifestError(
            f"{path} has schema {raw.get('schema')!r}, this image understands {SCHEMA}"
        )
    problems = [f"{path}: {problem}" for problem in _problems(raw)]
    if problems:
        raise ManifestError(*problems)
    return _manifest(raw, host_name or os.uname().nodename)


def _manifest(raw: dict[str, object], host_name: str) -> Manifest:
    files, units, report = raw["files"], raw["units"], raw.get("report") or {}
    assert isinstance(files, list)
    assert isinstance(units, list)
    assert isinstance(report, dict)
    phone_home = raw.get("phone_home")
    return Manifest(
        cluster=str(raw["cluster"]),
        node=str(raw.get("node") or host_name.lower()),
        role=str(raw["role"]),
        kubernetes=str(raw["kubernetes"]),
        units=tuple(units),
        files=tuple(
            WrittenFile(item["path"], int(item["mode"], 8), item["owner"], item["sha256"])
            for item in files
        ),
        phone_home=str(phone_home) if phone_home else None,
        report=REPORT_DEFAULTS | report,
        valid_from=_time(raw, "valid_from"),
        valid_until=_time(raw, "valid_until"),
        lease=tuple(lease) if isinstance(lease := raw.get("lease"), list) else (),
        pool=read_pool(raw["pool"]) if "pool" in raw else None,
    )


def _time(raw: dict[str, object], key: str) -> int:
    value = raw.get(key, 0)
    return value if isinstance(value, int) else 0


def _problems(raw: dict[str, object]) -> list[str]:
    problems = [f"unknown key {key!r}" for key in sorted(set(raw) - KEYS)]
    for key in (*NAMES, "node") if "pool" not in raw else NAMES:
        value = raw.get(key)
        if not isinstance(value, str) or not value:
            problems.append(f"{key} is {value!r}, not a name")
    for key in OPTIONAL_TIMES:
        if type(raw.get(key, 0)) is not int:
            problems.append(f"{key} is {raw[key]!r}, not a number of seconds")
    lease = raw.get("lease", [])
    if not isinstance(lease, list) or not all(isinstance(item, str) for item in lease):
        problems.append(f"lease is {lease!r}, not a list of addresses")
    return [
        *problems,
        *_pool_problems(raw),
        *_unit_problems(raw.get("units")),
        *_file_problems(raw.get("files")),
        *_report_problems(raw),
    ]


def _pool_problems(raw: dict[str, object]) -> list[str]:
    if "pool" not in raw:
        return []
    if "node" in raw:
        return ["it is for a node and for a pool"]
    try:
        read_pool(raw["pool"])
    except ValueError as error:
        return [str(error)]
    return []


def _unit_problems(units: object) -> list[str]:
    if not isinstance(units, list) or not units:
        return ["units is not a list of unit names"]
    return [
        f"unit {unit!r} is no unit name"
        for unit in units
        if not isinstance(unit, str) or not UNIT_NAME.fullmatch(unit)
    ]


def _file_problems(files: object) -> list[str]:
    if not isinstance(files, list) or not files:
        return ["files is not a list of written files"]
    problems = []
    for number, item in enumerate(files):
        if not isinstance(item, dict) or set(item) != FILE_KEYS:
            problems.append(f"files[{number}] must have exactly {', '.join(sorted(FILE_KEYS))}")
        elif not all(isinstance(value, str) for value in item.values()):
            problems.append(f"files[{number}] has a value that is no text")
        elif not item["path"].startswith("/") or "/../" in item["path"]:
            problems.append(f"files[{number}] has no absolute path: {item['path']!r}")
        elif not re.fullmatch(r"0?[0-7]{3,4}", item["mode"]):
            problems.append(f"{item['path']} has mode {item['mode']!r}, not one like 0600")
        elif not re.fullmatch(r"[0-9a-f]{32,64}", item["sha256"]):
            problems.append(f"{item['path']} has no sha256 of 32 to 64 hex digits")
    return problems


def _report_problems(raw: dict[str, object]) -> list[str]:
    problems = []
    phone_home = raw.get("phone_home")
    if phone_home is not None and not re.match(r"https?://[^/\s]+", str(phone_home)):
        problems.append(f"phone_home is {phone_home!r}, not an http(s) URL")
    report = raw.get("report") or {}
    if not isinstance(report, dict):
        return [*problems, "report is not an object"]
    problems += [f"unknown key report.{key}" for key in sorted(set(report) - set(REPORT_DEFAULTS))]
    for key, value in report.items():
        default = REPORT_DEFAULTS.get(key)
        if default is not None and not isinstance(value, type(default)):
            problems.append(f"report.{key} is {value!r}")
    return problems
