# SPDX-License-Identifier: Apache-2.0
"""A contract fake of Nova: flavors, servers, their consoles and groups, as its API reference says.

Written after docs.openstack.org/api-ref/compute and the schema of `POST /servers` (microversion
2.96); it refuses what that refuses of the requests that kubekiln makes. It is no Nova: nothing
boots. A new server is BUILD until it is looked at a second time.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from tests.platforms.rigs.jsonserver import Answer, Fake, Refused, Request
from tests.platforms.rigs.neutron import Neutron

_SERVER_KEYS = frozenset({
    "name", "imageRef", "flavorRef", "networks", "user_data", "config_drive", "metadata",
    "block_device_mapping_v2", "availability_zone", "min_count", "max_count", "key_name",
    "hostname", "tags", "description",
})  # fmt: skip
_VOLUME_KEYS = frozenset({
    "boot_index", "uuid", "source_type", "destination_type", "volume_size",
    "delete_on_termination", "volume_type",
})  # fmt: skip
_LONGEST_USER_DATA = 65_535
_LONGEST_TEXT = 255
_METADATA_KEY = re.compile(r"[a-zA-Z0-9-_:. ]{1,255}")
# Which status an action wants, and what becomes of it.
_ACTIONS = {
    "os-start": ("SHUTOFF", "ACTIVE"), "os-stop": ("ACTIVE", "SHUTOFF"),
    "unpause": ("PAUSED", "ACTIVE"), "resume": ("SUSPENDED", "ACTIVE"),
    "unshelve": ("SHELVED_OFFLOADED", "ACTIVE"),
}  # fmt: skip
FLAVORS = {
    "1": ("m1.tiny", 1, 512, 1), "2": ("m1.small", 2, 4096, 20), "3": ("m1.large", 8, 16384, 160),
}  # fmt: skip


class Nova:
    """The servers of one project."""

    def __init__(self, neutron: Neutron, has_image: Callable[[str, str], bool]) -> None:
        """`has_image` is asked with a token and an image's id whether Glance has it, active."""
        self._neutron = neutron
        self._has_image = has_image
        self.servers: dict[str, dict[str, Any]] = {}
        self.user_data: dict[str, str] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        """Volumes that were made, with the server that they are of."""
        self.groups: dict[str, dict[str, Any]] = {}
        self.fail_with = ""
        """What the next server's building fails with."""
        self.no_console = 0
        """Status with which consoles are refused: 404 ConsoleNotAvailable, 409 InstanceNotReady."""
        self.fake = Fake(
            routes=[
                ("GET", r"/v2\.1/?", self._version),
                ("GET", r"/v2\.1/flavors/detail", self._list_flavors),
                ("GET", r"/v2\.1/flavors/([^/]+)", self._show_flavor),
                ("GET", r"/v2\.1/servers(/detail)?", self._list_servers),
                ("POST", r"/v2\.1/servers", self._make_server),
                ("GET", r"/v2\.1/servers/([^/]+)", self._show_server),
                ("DELETE", r"/v2\.1/servers/([^/]+)", self._delete_server),
                ("POST", r"/v2\.1/servers/([^/]+)/action", self._act),
                ("GET", r"/v2\.1/os-server-groups", self._list_groups),
                ("POST", r"/v2\.1/os-server-groups", self._make_group),
                ("DELETE", r"/v2\.1/os-server-groups/([^/]+)", self._delete_group),
            ],
            write_error=lambda status, why: {"fault": {"code": status, "message": why}},
            open_paths=frozenset({"/v2.1", "/v2.1/"}),
        )

    def _version(self, request: Request) -> Answer:
        links = [{"rel": "self", "href": f"{request.base}/v2.1/"}]
        return 200, {"version": {"id": "v2.1", "status": "CURRENT", "links": links,
                                 "min_version": "2.1", "version": "2.96"}}  # fmt: skip

    def _list_flavors(self, request: Request) -> Answer:
        del request
        return 200, {"flavors": [_flavor(key) for key in FLAVORS]}

    def _show_flavor(self, request: Request) -> Answer:
        if request.ids[0] not in FLAVORS:
            raise Refused(404, f"Flavor {request.ids[0]} could not be found.")
        return 200, {"flavor": _flavor(request.ids[0])}

    def _list_servers(self, request: Request) -> Answer:
        pattern = re.compile(request.query.get("name", ""))
        found = [server for server in self.servers.values() if pattern.search(server["name"])]
        # In pages of two, as any cloud has pages: marker and link as the reference says.
        names = list(found)
        marker = request.query.get("marker")
        ids = [server["id"] for server in names]
        start = ids.index(marker) + 1 if marker in ids else 0
        page = names[start : start + 2]
        answer: dict[str, Any] = {"servers": page}
        if names[start + 2 :]:
            url = f"{request.base}/v2.1/servers/detail?marker={page[-1]['id']}"
            if "name" in request.query:
                url += f"&name={request.query['name']}"
            answer["servers_links"] = [{"rel": "next", "href": url}]
        return 200, answer

    def _show_server(self, request: Request) -> Answer:
        server = self._server(request)
        answer = dict(server)
        if not _knows_flavors_by_name(request):
            name = server["flavor"]["original_name"]
            answer["flavor"] = {"id": next(key for key, one in FLAVORS.items() if one[0] == name)}
        if server["status"] == "BUILD":
            server["status"] = "ERROR" if self.fail_with else "ACTIVE"
            if self.fail_with:
                server["fault"] = {"code": 500, "message": self.fail_with}
                self.fail_with = ""
        return 200, {"server": answer}

    def _make_server(self, request: Request) -> Answer:
        body = request.body or {}
        wanted = body.get("server")
        if not isinstance(wanted, dict):
            raise Refused(400, "'server' is a required property")
        _check_schema(wanted)
        if wanted["flavorRef"] not in FLAVORS:
            raise Refused(400, f"Flavor {wanted['flavorRef']} could not be found.")
        volumes = self._check_disks(request, wanted)
        ports = self._check_ports(wanted)
        group = (body.get("OS-SCH-HNT:scheduler_hints") or {}).get("group")
        if group is not None and group not in self.groups:
            raise Refused(400, f"Instance group {group} could not be found.")
        server_id = str(uuid.uuid4())
        for port in ports:
            port["device_id"] = server_id
        if group:
            self.groups[group]["members"].append(server_id)
        for volume in volumes:
            self.volumes[str(uuid.uuid4())] = {"server": server_id, **volume}
        self.user_data[server_id] = wanted.get("user_data", "")
        addresses = [{"addr": ip["ip_address"], "version": 4}
                     for port in ports for ip in port["fixed_ips"]]  # fmt: skip
        self.servers[server_id] = {
            "id": server_id, "name": wanted["name"], "status": "BUILD",
            "metadata": wanted.get("metadata", {}), "addresses": {"node": addresses},
            "config_drive": "True" if wanted.get("config_drive") else "",
            "flavor": {"original_name": FLAVORS[wanted["flavorRef"]][0]},
        }  # fmt: skip
        links = [{"rel": "self", "href": f"{request.base}/v2.1/servers/{server_id}"}]
        return 202, {"server": {"id": server_id, "links": links, "adminPass": "unused"}}

    def _check_disks(self, request: Request, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
        disks = wanted.get("block_device_mapping_v2", [])
        if not wanted.get("imageRef") and not disks:
            raise Refused(400, "Invalid imageRef provided.")
        for disk in disks:
            if set(disk) - _VOLUME_KEYS or not _is_block_device(disk):
                raise Refused(400, "Block Device Mapping is Invalid")
        bootable = [disk["uuid"] for disk in disks if disk["boot_index"] == 0]
        if disks and (len(bootable) != 1 or wanted.get("imageRef", bootable[0]) != bootable[0]):
            raise Refused(400, "Block Device Mapping is Invalid: Boot sequence is not valid.")
        image = bootable[0] if bootable else wanted["imageRef"]
        if not self._has_image(request.headers["X-Auth-Token"], image):
            raise Refused(400, f"Image {image} could not be found.")
        return [disk for disk in disks if disk["destination_type"] == "volume"]

    def _check_ports(self, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
        found = []
        for network in wanted["networks"]:
            port = self._neutron.ports.get(network.get("port", ""))
            if port is None:
                raise Refused(400, f"Port {network.get('port')} could not be found.")
            if port["device_id"]:
                raise Refused(400, f"Port {port['id']} is still in use.")
            found.append(port)
        return found

    def _delete_server(self, request: Request) -> Answer:
        server_id = self._server(request)["id"]
        del self.servers[server_id], self.user_data[server_id]
        for port in self._neutron.ports.values():
            if port["device_id"] == server_id:
                port["device_id"] = ""
        # What isn't to go with its server stays, and so is found by the tests.
        self.volumes = {
            key: volume for key, volume in self.volumes.items()
            if volume["server"] != server_id or not volume.get("delete_on_termination")
        }  # fmt: skip
        for group in self.groups.values():
            group["members"] = [one for one in group["members"] if one != server_id]
        return 204, None

    def _act(self, request: Request) -> Answer:
        server = self._server(request)
        ((action, _),) = request.body.items()
        if action == "os-getConsoleOutput":
            if self.no_console:
                raise Refused(self.no_console, "the console is not available")
            return 200, {"output": f"KUBEKILN phase=userdata t=1.0 node={server['name']}\n"}
        if action not in _ACTIONS:
            raise Refused(400, f"There is no such action: {action}")
        needs, becomes = _ACTIONS[action]
        if task := server.get("OS-EXT-STS:task_state"):
            raise Refused(409, f"Cannot '{action}' instance while it is in task_state {task}")
        if server["status"] != needs:
            raise Refused(409, f"Cannot '{action}' while it is in vm_state {server['status']}")
        server["status"] = becomes
        return 202, None

    def _list_groups(self, request: Request) -> Answer:
        del request
        return 200, {"server_groups": list(self.groups.values())}

    def _make_group(self, request: Request) -> Answer:
        wanted = (request.body or {}).get("server_group", {})
        if set(wanted) != {"name", "policy"}:
            raise Refused(400, "Additional or missing properties of server_group")
        group = {"id": str(uuid.uuid4()), "members": [], **wanted}
        self.groups[group["id"]] = group
        return 200, {"server_group": group}

    def _delete_group(self, request: Request) -> Answer:
        if self.groups.pop(request.ids[0], None) is None:
            raise Refused(404, f"Instance group {request.ids[0]} could not be found.")
        return 204, None

    def _server(self, request: Request) -> dict[str, Any]:
        if request.ids[0] not in self.servers:
            raise Refused(404, f"Instance {request.ids[0]} could not be found.")
        return self.servers[request.ids[0]]


def _is_block_device(disk: Mapping[str, Any]) -> bool:
    """Tell whether it is a local disk from an image, or a volume from one, or an empty volume."""
    kind = disk.get("source_type"), disk.get("destination_type")
    if kind == ("image", "local"):
        return "uuid" in disk
    sized = isinstance(disk.get("volume_size"), int) and disk["volume_size"] > 0
    return sized and kind in (("image", "volume"), ("blank", "volume"))


def _knows_flavors_by_name(request: Request) -> bool:
    """Tell what the client's microversion says: since 2.47 a server has its flavor's data, not
    its identity (docs.openstack.org/nova, API version history)."""
    asked = request.headers.get("OpenStack-API-Version", "compute 2.1").rpartition(" ")[2]
    return tuple(map(int, asked.split("."))) >= (2, 47)


def _flavor(key: str) -> dict[str, Any]:
    name, cpus, ram, disk = FLAVORS[key]
    return {"id": key, "name": name, "vcpus": cpus, "ram": ram, "disk": disk}


def _check_schema(wanted: Mapping[str, Any]) -> None:
    problems = {
        f"Additional properties are not allowed ({', '.join(set(wanted) - _SERVER_KEYS)})":
            set(wanted) - _SERVER_KEYS,
        "'name' is a required property": not 1 <= len(wanted.get("name", "")) <= _LONGEST_TEXT,
        "'flavorRef' is a required property": not isinstance(wanted.get("flavorRef"), str),
        "'networks' is a required property": not wanted.get("networks"),
        "Invalid input for field config_drive": not isinstance(wanted.get("config_drive"), bool),
        "Invalid input for field metadata": not _is_metadata(wanted.get("metadata", {})),
    }  # fmt: skip
    for why, is_so in problems.items():
        if is_so:
            raise Refused(400, f"Invalid input: {why}")
    user_data = wanted.get("user_data", "")
    if len(user_data) > _LONGEST_USER_DATA or not _is_base64(user_data):
        # Nova repeats the value as well.
        raise Refused(400, f"Invalid input for field/attribute user_data. Value: {user_data}.")


def _is_metadata(metadata: Mapping[str, Any]) -> bool:
    return all(
        _METADATA_KEY.fullmatch(key) and isinstance(value, str) and len(value) <= _LONGEST_TEXT
        for key, value in metadata.items()
    )


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error:
        return False
    return True
