# SPDX-License-Identifier: Apache-2.0
"""A contract fake of Neutron: networks, security groups and ports, as its API reference has them.

Written after docs.openstack.org/api-ref/network/v2; it refuses what Neutron refuses of the
requests that kubekiln makes. It is no Neutron: nothing is plugged into anything.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import uuid
from collections.abc import Mapping
from typing import Any

from tests.platforms.rigs.jsonserver import Answer, Fake, Refused, Request

_PORT_KEYS = frozenset({
    "name", "network_id", "mac_address", "fixed_ips", "description", "port_security_enabled",
    "allowed_address_pairs", "security_groups", "admin_state_up", "device_id", "device_owner",
})  # fmt: skip
_MAC = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
_LONGEST_TEXT = 255


class Neutron:
    """The networks of one project, and the ports in them."""

    def __init__(self, networks: Mapping[str, str], groups: tuple[str, ...] = ("default",)) -> None:
        """Take networks by name, with the CIDR of their subnet each."""
        self.networks = {_id(name): (name, ipaddress.ip_network(cidr))
                         for name, cidr in networks.items()}  # fmt: skip
        self.groups = {_id(f"group {name}"): name for name in groups}
        self.ports: dict[str, dict[str, Any]] = {}
        self.fake = Fake(
            routes=[
                ("GET", r"/", self._versions),
                ("GET", r"/v2.0/?", self._extensions),
                ("GET", r"/v2\.0/networks", self._list_networks),
                ("GET", r"/v2\.0/security-groups", self._list_groups),
                ("GET", r"/v2\.0/ports", self._list_ports),
                ("GET", r"/v2\.0/networks/([^/]+)", self._show_network),
                ("GET", r"/v2\.0/ports/([^/]+)", self._show_port),
                ("POST", r"/v2\.0/ports", self._make_port),
                ("DELETE", r"/v2\.0/ports/([^/]+)", self._delete_port),
            ],
            write_error=lambda status, why: {
                "NeutronError": {"type": str(status), "message": why, "detail": ""}
            },
        )

    def _versions(self, request: Request) -> Answer:
        links = [{"rel": "self", "href": f"{request.base}/v2.0/"}]
        return 200, {"versions": [{"id": "v2.0", "status": "CURRENT", "links": links}]}

    def _extensions(self, request: Request) -> Answer:
        del request
        return 200, {"resources": []}

    def _list_networks(self, request: Request) -> Answer:
        found = [{"id": key, "name": name} for key, (name, _) in self.networks.items()]
        return 200, {"networks": _filtered(found, request)}

    def _show_network(self, request: Request) -> Answer:
        found = self.networks.get(request.ids[0])
        if found is None:
            raise Refused(404, f"Network {request.ids[0]} could not be found.")
        return 200, {"network": {"id": request.ids[0], "name": found[0]}}

    def _show_port(self, request: Request) -> Answer:
        found = self.ports.get(request.ids[0])
        if found is None:
            raise Refused(404, f"Port {request.ids[0]} could not be found.")
        return 200, {"port": found}

    def _list_groups(self, request: Request) -> Answer:
        found = [{"id": key, "name": name} for key, name in self.groups.items()]
        return 200, {"security_groups": _filtered(found, request)}

    def _list_ports(self, request: Request) -> Answer:
        return 200, {"ports": _filtered(list(self.ports.values()), request)}

    def _make_port(self, request: Request) -> Answer:
        wanted = (request.body or {}).get("port")
        if not isinstance(wanted, dict) or not wanted.get("network_id"):
            raise Refused(400, "Invalid input: network_id is required")
        unknown = set(wanted) - _PORT_KEYS
        if unknown:
            raise Refused(400, f"Unrecognized attribute(s) '{', '.join(sorted(unknown))}'")
        if wanted["network_id"] not in self.networks:
            raise Refused(404, f"Network {wanted['network_id']} could not be found.")
        self._check_text(wanted)
        self._check_mac(wanted)
        self._check_security(wanted)
        secure = wanted.get("port_security_enabled", True)
        port = {
            "status": "DOWN", "device_id": "", "description": "", "name": "",
            "allowed_address_pairs": [], "security_groups": list(self.groups)[:1] if secure else [],
            "port_security_enabled": True, **wanted, "id": str(uuid.uuid4()),
            "fixed_ips": self._addresses(wanted),
        }  # fmt: skip
        self.ports[port["id"]] = port
        return 201, {"port": port}

    def _check_text(self, wanted: Mapping[str, Any]) -> None:
        for key in ("name", "description"):
            if len(wanted.get(key, "")) > _LONGEST_TEXT:
                raise Refused(400, f"Invalid input for {key}: exceeds {_LONGEST_TEXT} characters")

    def _check_mac(self, wanted: Mapping[str, Any]) -> None:
        mac = wanted.get("mac_address", "")
        if mac and not _MAC.fullmatch(mac):
            raise Refused(400, f"Invalid input for mac_address: '{mac}' is not a valid MAC address")
        for port in self.ports.values():
            same = port["network_id"] == wanted["network_id"]
            if same and port.get("mac_address", "").lower() == mac.lower():
                raise Refused(409, f"Unable to complete operation: the mac address {mac} is in use")

    def _check_security(self, wanted: Mapping[str, Any]) -> None:
        unknown = [one for one in wanted.get("security_groups", ()) if one not in self.groups]
        if unknown:
            raise Refused(404, f"Security group {unknown[0]} does not exist")
        if wanted.get("port_security_enabled", True):
            return
        if wanted.get("allowed_address_pairs"):
            raise Refused(
                409, "Port Security must be enabled in order to have allowed address pairs"
            )
        if "security_groups" not in wanted or wanted["security_groups"]:
            raise Refused(409, "Port has security group associated. Cannot disable port security")

    def _addresses(self, wanted: Mapping[str, Any]) -> list[dict[str, str]]:
        _, subnet = self.networks[wanted["network_id"]]
        taken = {
            ip["ip_address"]
            for port in self.ports.values()
            if port["network_id"] == wanted["network_id"]
            for ip in port["fixed_ips"]
        }
        if "fixed_ips" not in wanted:
            free = (str(ip) for ip in itertools.islice(subnet.hosts(), 1, None))
            return [{"ip_address": next(ip for ip in free if ip not in taken)}]
        for one in wanted["fixed_ips"]:
            if ipaddress.ip_address(one["ip_address"]) not in subnet:
                raise Refused(400, f"IP address {one['ip_address']} is not a valid IP for any of "
                              "the subnets on the specified network.")  # fmt: skip
            if one["ip_address"] in taken:
                raise Refused(409, f"IP address {one['ip_address']} already allocated in subnet")
        return [dict(one) for one in wanted["fixed_ips"]]

    def _delete_port(self, request: Request) -> Answer:
        if self.ports.pop(request.ids[0], None) is None:
            raise Refused(404, f"Port {request.ids[0]} could not be found.")
        return 204, None


def _id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))


def _filtered(found: list[dict[str, Any]], request: Request) -> list[dict[str, Any]]:
    wanted = {
        key: value for key, value in request.query.items() if key in ("name", "id", "project_id")
    }
    # What has no project is that of whoever asks.
    return [
        one for one in found if all(one.get(key, value) == value for key, value in wanted.items())
    ]
