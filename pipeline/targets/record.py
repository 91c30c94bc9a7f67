# SPDX-License-Identifier: Apache-2.0
"""Which machines did we start, from what, and on which target? (`<run dir>/machine.json`)

Written before a machine is started, so that one whose start was interrupted can be found as well.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kubekiln.errors import KubekilnError
from kubekiln.files import make_dir, sha256_file, write_atomic
from pipeline.targets.machine import BootImage, Machine

_SCHEMA = 2
_PATHS = ("seed_dir", "seed_iso", "run_dir")


@dataclass(frozen=True)
class Record:
    """A machine and what it was started with."""

    target: str
    machine: Machine
    user_data_sha256: str


def record_of(target: str, machine: Machine) -> Record:
    """Take down what a machine is about to be started with."""
    return Record(target, machine, sha256_file(machine.seed_dir / "user-data"))


def write_record(record: Record) -> None:
    """Write a machine's record into its run directory."""
    machine = asdict(record.machine)
    data = {"schema": _SCHEMA, **asdict(record), "machine": machine}
    make_dir(record.machine.run_dir)
    path = record.machine.run_dir / "machine.json"
    write_atomic(path, json.dumps(data, indent=2, default=str) + "\n", mode=0o600)


def read_record(run_dir: Path) -> Record | None:
    """Read a machine's record; none if there is no machine.

    Raises KubekilnError if it can't be understood.
    """
    path = run_dir / "machine.json"
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text())
        if data["schema"] != _SCHEMA:
            raise ValueError(f"schema {data['schema']} instead of {_SCHEMA}")
        return Record(data["target"], _machine(data["machine"]), data["user_data_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KubekilnError(
            f"cannot make sense of a machine's record: {error}",
            where=str(path),
            hint="end its process by hand (`ps` shows the directory's name), then remove it",
        ) from error


def discard(run_dir: Path, remove: Callable[[Path], object]) -> None:
    """Remove a machine's directory, so that half of one is never taken for a machine.

    What is left of an interrupted removal is listed, and goes with the next one.
    """
    gone = run_dir.with_name(f".{run_dir.name}.gone")
    if gone.exists():
        remove(gone)
    if run_dir.exists():
        run_dir.rename(gone)
        remove(gone)


def list_records(machines_dir: Path, cluster: str | None = None) -> list[Record]:
    """List the records of a cluster's machines, or of all, in order."""
    below = f"{cluster or '*'}/*/machine.json"
    found = [read_record(path.parent) for path in sorted(machines_dir.glob(below))]
    return [record for record in found if record is not None]


def _machine(data: dict[str, Any]) -> Machine:
    image = data["image"]
    fields = {**data, **{name: Path(data[name]) for name in _PATHS}}
    fields["image"] = BootImage(
        image["name"], image["digest"], Path(image["qcow2"]), Path(image["root_tar"])
    )
    fields["addresses"] = tuple(map(ipaddress.ip_interface, data["addresses"]))
    fields["gateways"] = tuple(map(ipaddress.ip_address, data["gateways"]))
    fields["nics"] = tuple(data.get("nics", ()))
    fields["key_dir"] = Path(data["key_dir"]) if data.get("key_dir") else None
    # What another version took down besides is nothing to this one.
    return Machine(**{key: fields[key] for key in fields if key in Machine.__dataclass_fields__})
