# SPDX-License-Identifier: Apache-2.0
"""Where is the rest of this machine's user-data, of which the platform was given only a part?

Encrypted beside it, with the key on a way of its own; or at a server that gives it once. What it
holds is written as cloud-init would have done. Nothing of it is on disk before it is whole.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from kubekiln_node.clock import check_clock
from kubekiln_node.console import quote
from kubekiln_node.status import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubekiln_node.clock import Clock
    from kubekiln_node.waiting import Waiting

SCHEMA = 1
NOTE_PATH = "/etc/kubekiln/protected.json"
SEALED_PATH = "/etc/kubekiln/user-data.age"
# The rest while its files are written: a server gives it once, and a key's disk is ejected.
RECEIVED_PATH = "/etc/kubekiln/user-data.rest"
PLACES = ("/etc/", "/var/lib/kubelet/")
CREDENTIAL = "kubekiln.age-key"
KEY_DISK = "/dev/disk/by-label/KUBEKILN"
MOUNT_POINT = "/run/kubekiln/key-disk"
MOST_QUOTED = 160


class ProtectedError(Exception):
    """The rest can't be had, and why."""


class Note(NamedTuple):
    """What the platform's part says of the rest."""

    cluster: str
    owner: str
    protect: str
    sha256: str
    url: str = ""
    ca: str = ""
    valid_from: int = 0
    valid_until: int = 0
    """Not said: the rest has its own certificates."""


def read_note(path: str) -> Note:
    """Read the note; raises ProtectedError if it isn't one that this image understands."""
    try:
        with open(path, encoding="utf-8") as stream:
            raw = json.load(stream)
        if raw.pop("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        note = Note(**raw)
        if note.protect not in ("age", "url"):
            raise ValueError(f"it says protect {note.protect!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtectedError(f"{NOTE_PATH} is of another kubekiln, or damaged: {error}") from None
    return note


def unpack(note: Note, rest: bytes) -> list[dict[str, str]]:
    """Verify the rest and take it apart; raises ProtectedError if it isn't what was rendered."""
    found = hashlib.sha256(rest).hexdigest()
    if found != note.sha256:
        raise ProtectedError(
            f"the rest of the user-data is not what was rendered for {note.owner}: sha256 "
            f"{found[:12]}…, wanted {note.sha256[:12]}…: a part of it, or of another rendering"
        )
    try:
        files: list[dict[str, str]] = json.loads(gzip.decompress(rest))["files"]
        for file in files:
            if not file["path"].startswith(PLACES) or "/../" in file["path"]:
                raise ValueError(f"{file['path']} is not for user-data to write")
    except (OSError, EOFError, ValueError, LookupError, TypeError, zlib.error) as error:
        raise ProtectedError(f"the rest of the user-data makes no sense: {error}") from None
    return files


def write_all(
    files: list[dict[str, str]], *, root: str = "", own: Callable[[int, str], None] | None = None
) -> None:
    """Write files in their order, each whole or not at all, closed to others from the start."""
    for file in files:
        path = root + file["path"]
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        beside = f"{path}.{os.getpid()}.tmp"
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as stream:
            stream.write(file["content"].encode())
            (own or give_to)(fd, file["owner"])
            os.fchmod(fd, int(file["mode"], 8))
        os.replace(beside, path)


def give_to(fd: int, owner: str) -> None:
    """Give an open file to `user:group`."""
    if owner == "root:root":
        os.fchown(fd, 0, 0)
        return
    import grp
    import pwd

    user, _, group = owner.partition(":")
    os.fchown(fd, pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid)


def obtain(
    *,
    clock: Clock,
    tell: Callable[[str], None],
    waiting: Waiting,
    root: str = "",
    unseal: Callable[[str], bytes] | None = None,
    own: Callable[[int, str], None] | None = None,
    sync: Callable[[], None] = os.sync,
) -> list[str]:
    """Get the rest and write it; why that can't be. What it came in is gone afterwards.

    A machine that is reset meanwhile goes on with what it has received.
    """
    try:
        note = read_note(root + NOTE_PATH)
        rest = received(note, root=root)
        if rest is None:
            if note.protect == "url":
                rest = fetch(note, clock=clock, tell=tell, waiting=waiting)
            else:
                rest = (unseal or unseal_file)(root + SEALED_PATH)
        files = unpack(note, rest)
        write_atomic(root + RECEIVED_PATH, rest, mode=0o600)
        sync()
        write_all(files, root=root, own=own)
        sync()
    except ProtectedError as error:
        return [str(error)]
    except (OSError, KeyError) as error:
        return [f"the rest of the user-data can't be written: {error}"]
    eject_key_disk()
    # First what says that there is something to do, and for good: then what it would be done with.
    for paths in ((SEALED_PATH, NOTE_PATH), (RECEIVED_PATH,)):
        for path in paths:
            if os.path.exists(root + path):
                os.unlink(root + path)
        sync()
    return []


def received(note: Note, *, root: str) -> bytes | None:
    """Give the rest if an earlier boot received it and was cut off; None if it didn't."""
    try:
        with open(root + RECEIVED_PATH, "rb") as stream:
            rest = stream.read()
    except FileNotFoundError:
        return None
    return rest if hashlib.sha256(rest).hexdigest() == note.sha256 else None


def fetch(note: Note, *, clock: Clock, tell: Callable[[str], None], waiting: Waiting) -> bytes:
    """Ask the server until it gives the rest, for as long as that takes."""
    import ssl

    from kubekiln_node.api import get

    check_clock(note, clock=clock, tell=tell)
    scheme, _, rest = note.url.partition("://")
    authority, _, path = rest.partition("/")
    server = f"{scheme}://{authority}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=note.ca)
    except ssl.SSLError as error:
        raise ProtectedError(f"{NOTE_PATH} holds no certificate: {error.reason}") from None
    got = bytearray()

    def trouble() -> str:
        answer = get(server, f"/{path}", context)
        if answer.status == 200 and hashlib.sha256(answer.body).hexdigest() == note.sha256:
            got[:] = answer.body
            return ""
        if answer.status == 200:
            why = (
                f"what {server} gave, {len(answer.body)} bytes, is not all that was rendered for "
                f"{note.owner}: `kubekiln serve {note.cluster} --again {note.owner}` lets it fetch "
                "once more"
            )
            return f"waiting reason={quote(why)}"
        return explain(server, answer.status, answer.body, note)

    waiting.until(trouble)
    return bytes(got)


def explain(server: str, status: int, body: bytes, note: Note) -> str:
    """Say what an answer means that isn't the rest of the user-data."""
    said = body.decode(errors="replace").partition("\n")[0][:MOST_QUOTED]
    if status == 0:
        why = (
            f"{server} does not answer, or is not the one that was rendered: `kubekiln serve "
            f"{note.cluster}` gives {note.owner} its user-data"
        )
        return f"waiting reason={quote(why)}"
    if status == 410:
        why = f"{said}: if that was not this machine, its keys are known to another"
        return f"userdata=refused reason={quote(why)}"
    return f"waiting reason={quote(f'{server} answers {status}: {said}')}"


def unseal_file(path: str) -> bytes:
    """Decrypt the rest with this machine's key, from wherever that comes."""
    import subprocess

    problems = []
    for where, identity in find_keys():
        done = subprocess.run(
            ["age", "--decrypt", "--identity", "-", path],
            input=identity,
            capture_output=True,
            check=False,
        )
        if not done.returncode:
            return done.stdout
        last = done.stderr.decode(errors="replace").strip().splitlines()
        problems.append(f"{where} does not open {SEALED_PATH}: {(last or ['no reason given'])[0]}")
    raise ProtectedError("; ".join(problems) or _why_no_key())


def _why_no_key() -> str:
    label = os.path.basename(KEY_DISK)
    disk = f"no disk labelled {label}"
    if os.path.exists(KEY_DISK):
        device = os.path.basename(os.path.realpath(KEY_DISK))
        disk = f"no file {CREDENTIAL} to be read on the disk labelled {label}, {device}"
    return (
        "user-data is encrypted, and this machine has no key to it: no credential "
        f"{CREDENTIAL}, {disk}"
    )


def find_keys() -> list[tuple[str, bytes]]:
    """Look for keys: as a credential of the machine (SMBIOS, its container manager), on a disk."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    found = []
    if directory and os.path.exists(f"{directory}/{CREDENTIAL}"):
        with open(f"{directory}/{CREDENTIAL}", "rb") as stream:
            found.append((f"credential {CREDENTIAL}", stream.read()))
    if os.path.exists(KEY_DISK):
        found += read_disk(KEY_DISK)
    return found


def read_disk(device: str, run: Callable[..., Any] | None = None) -> list[tuple[str, bytes]]:
    """Read the key from its disk."""
    import subprocess

    call = run or subprocess.run
    os.makedirs(MOUNT_POINT, mode=0o700, exist_ok=True)
    mount = ["mount", "-o", "ro,nosuid,nodev,noexec", device, MOUNT_POINT]
    if call(mount, check=False).returncode:
        return []
    try:
        with open(f"{MOUNT_POINT}/{CREDENTIAL}", "rb") as stream:
            found = [(f"the disk {os.path.basename(device)}", stream.read())]
    except OSError:
        found = []
    call(["umount", MOUNT_POINT], check=False)
    return found


def eject_key_disk() -> None:
    """Let go of the CD that the key came on, if it came on one."""
    from kubekiln_node.forget import eject_disk

    real = os.path.realpath(KEY_DISK)
    if os.path.exists(real) and os.path.basename(real).startswith("sr"):
        eject_disk(real)
