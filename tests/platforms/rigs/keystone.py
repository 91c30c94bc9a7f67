# SPDX-License-Identifier: Apache-2.0
"""A real Keystone and real Glances of 127.0.0.1, by uWSGI, on databases of their own.

Their empty databases are made once per version and kept beside the servers' environment; a run
works on a copy. Ended and removed when the block ends.
"""

from __future__ import annotations

import contextlib
import getpass
import grp
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import requests

from kubekiln.files import locked, make_dir, write_atomic
from kubekiln.process import Command, end, run, spawn
from tests.support.venvs import server_venv
from tests.support.waiting import until

ADMIN_PASSWORD = "admin-of-this-test-run"
USER_PASSWORD = "user-of-this-test-run"
_START_S = 240.0
# uWSGI resets the second request of a connection that Keystone leaves open; Glance wants bodies as
# they are.
_UWSGI = (
    "--master", "--die-on-term", "--lazy-apps", "--need-app", "--enable-threads", "--threads", "4",
    "--add-header", "Connection: close", "--http-auto-chunked", "--http-raw-body",
)  # fmt: skip


@dataclass(frozen=True)
class Services:
    """What runs."""

    auth_url: str
    image_port: int
    small_image_port: int
    """Of a Glance on the same database that takes images up to 1 MiB only."""
    image_dir: Path
    """Where Glance keeps the images' bytes."""


@contextlib.contextmanager
def running(catalog: Mapping[str, str]) -> Iterator[Services]:
    """Run Keystone and two Glances; `catalog` has further services with their URLs.

    There is a project `lab`, with a user of the same name and the role `member`.
    """
    programs = server_venv("openstack")
    with contextlib.ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="kubekiln-openstack-"))
        stack.callback(shutil.rmtree, home)
        keystone_port, image_port, small_port = (free_port() for _ in range(3))
        auth_url = f"http://127.0.0.1:{keystone_port}/v3"
        shutil.copytree(_prepared(programs), home, dirs_exist_ok=True)
        _write_keystone(home)
        for name, port, cap in (("glance", image_port, 0), ("glance-small", small_port, 1 << 20)):
            _write_glance(home, programs, name, auth_url, cap=cap)
            stack.enter_context(_served(home, programs, name, "glance", port))
        stack.enter_context(_served(home, programs, "keystone", "keystone", keystone_port))
        for name, port in (("keystone", keystone_port), ("glance", image_port),
                           ("glance-small", small_port)):  # fmt: skip
            log = home / f"{name}.log"
            until(partial(_answers, port), what=f"{name} ({log})", timeout_s=_START_S)
        services = {"image": f"http://127.0.0.1:{image_port}", **catalog}
        _fill(auth_url, services)
        yield Services(auth_url, image_port, small_port, home / "images")


def free_port() -> int:
    """Give a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prepare() -> None:
    """Install the servers and make their empty databases, unless that was done."""
    _prepared(server_venv("openstack"))


def _prepared(programs: Path) -> Path:
    """Give a directory with empty databases and keys; it takes half a minute to make."""
    base = programs.parent / "prepared"
    with locked(programs.parent / "prepared.lock"):
        if (base / "made").is_file():
            return base
        shutil.rmtree(base, ignore_errors=True)
        make_dir(base, mode=0o700)
        _write_keystone(base)
        _write_glance(base, programs, "glance", "http://127.0.0.1:1/v3", cap=0)
        user, group = getpass.getuser(), grp.getgrgid(os.getgid()).gr_name
        manage: list[str | Path] = [
            programs / "keystone-manage",
            "--config-file",
            base / "keystone.conf",
        ]
        for words in (
            ["db_sync"],
            ["fernet_setup", "--keystone-user", user, "--keystone-group", group],
            ["credential_setup", "--keystone-user", user, "--keystone-group", group],
            ["bootstrap", "--bootstrap-region-id", "one", "--bootstrap-password", ADMIN_PASSWORD],
        ):
            run(Command([*manage, *words], timeout_s=600))
        glance = base / "glance" / "glance-api.conf"
        run(
            Command([programs / "glance-manage", "--config-file", glance, "db_sync"], timeout_s=600)
        )
        write_atomic(base / "made", "")
        return base


def _write_keystone(home: Path) -> None:
    for name in ("fernet", "credential", "images", "staging", "tasks"):
        make_dir(home / name, mode=0o700)
    write_atomic(
        home / "keystone.conf",
        f"""
[database]
connection = sqlite:///{home}/keystone.db
[fernet_tokens]
key_repository = {home}/fernet
[credential]
key_repository = {home}/credential
""",
    )


def _write_glance(home: Path, programs: Path, name: str, auth_url: str, *, cap: int) -> None:
    directory = make_dir(home / name)
    limit = f"image_size_cap = {cap}" if cap else ""
    write_atomic(
        directory / "glance-api.conf",
        f"""
[DEFAULT]
enabled_backends = file:file
{limit}
[paste_deploy]
flavor = keystone
config_file = {programs.parent}/etc/glance/glance-api-paste.ini
[database]
connection = sqlite:///{home}/glance.db
[glance_store]
default_backend = file
[file]
filesystem_store_datadir = {home}/images
[os_glance_staging_store]
filesystem_store_datadir = {home}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {home}/tasks
[keystone_authtoken]
auth_url = {auth_url}
www_authenticate_uri = {auth_url}
interface = public
auth_type = password
username = admin
password = {ADMIN_PASSWORD}
project_name = admin
user_domain_id = default
project_domain_id = default
""",
    )


@contextlib.contextmanager
def _served(home: Path, programs: Path, name: str, kind: str, port: int) -> Iterator[None]:
    env = {
        "keystone": {
            "OS_KEYSTONE_CONFIG_DIR": str(home), "OS_KEYSTONE_CONFIG_FILES": "keystone.conf",
        },
        "glance": {
            "OS_GLANCE_CONFIG_DIR": str(home / name), "OS_GLANCE_CONFIG_FILES": "glance-api.conf",
        },
    }[kind]  # fmt: skip
    words = ["--http-socket", f"127.0.0.1:{port}", "--module", f"{kind}.wsgi.api:application"]
    child = spawn(
        Command([programs / "pyuwsgi", *_UWSGI, *words], env=env, log=home / f"{name}.log")
    )
    try:
        yield
    finally:
        # Glance takes up to a minute to end by itself, and nobody needs what it would write.
        end(child.pid, group=True, how=signal.SIGKILL)
        child.wait()


def _answers(port: int) -> bool:
    try:
        # uWSGI listens before it has loaded the program.
        return requests.get(f"http://127.0.0.1:{port}/", timeout=10).status_code == 300
    except (requests.ConnectionError, requests.Timeout):
        return False


def _fill(auth_url: str, services: Mapping[str, str]) -> None:
    admin = _Admin(auth_url)
    for kind, url in {"identity": auth_url, **services}.items():
        service = admin.make("services", "service", {"type": kind, "name": kind})
        endpoint = {"service_id": service, "interface": "public", "url": url, "region_id": "one"}
        admin.make("endpoints", "endpoint", endpoint)
    project = admin.make("projects", "project", {"name": "lab", "domain_id": "default"})
    user = admin.make(
        "users", "user", {"name": "lab", "domain_id": "default", "password": USER_PASSWORD}
    )
    roles = {role["name"]: role["id"] for role in admin.call("GET", "roles")["roles"]}
    admin.call("PUT", f"projects/{project}/users/{user}/roles/{roles['member']}")


class _Admin:
    """Keystone's API, as its administrator."""

    def __init__(self, auth_url: str) -> None:
        self._url = auth_url
        domain = {"id": "default"}
        user = {"name": "admin", "domain": domain, "password": ADMIN_PASSWORD}
        body = {"auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": "admin", "domain": domain}},
        }}  # fmt: skip
        answer = requests.post(f"{auth_url}/auth/tokens", json=body, timeout=60)
        answer.raise_for_status()
        self._headers = {"X-Auth-Token": answer.headers["X-Subject-Token"]}

    def call(self, method: str, path: str, body: object = None) -> dict[str, list[dict[str, str]]]:
        answer = requests.request(
            method, f"{self._url}/{path}", json=body, headers=self._headers, timeout=60
        )
        answer.raise_for_status()
        found: dict[str, list[dict[str, str]]] = answer.json() if answer.content else {}
        return found

    def make(self, path: str, key: str, value: Mapping[str, str]) -> str:
        return str(self.call("POST", path, {key: value})[key]["id"])  # type: ignore[call-overload]
