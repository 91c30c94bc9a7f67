# SPDX-License-Identifier: Apache-2.0
"""How is an OpenStack cloud reached?

Credentials are found by openstacksdk alone: clouds.yaml (with secure.yaml) in the working
directory, ~/.config/openstack or /etc/openstack, or where OS_CLIENT_CONFIG_FILE says, or OS_*.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from openstack.compute.v2._proxy import Proxy as Compute
from openstack.config import OpenStackConfig
from openstack.connection import Connection
from openstack.image.v1._proxy import Proxy as ImageV1
from openstack.image.v2._proxy import Proxy as Image
from openstack.network.v2._proxy import Proxy as Network
from openstack.proxy import Proxy

from kubekiln.errors import KubekilnError
from pipeline.targets.openstack_errors import asking, service_of
from pipeline.targets.openstack_settings import Settings

T = TypeVar("T")
P = TypeVar("P", bound=Proxy)

# Without one, a server that is gone is waited for until the kernel gives up.
_ANSWER_S = 60.0
_FIRST_POLL_S, _LONGEST_POLL_S = 0.25, 5.0


class Client:
    """A cloud's services; nothing is asked before one of them is used. Safe for threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._opened: Connection | None = None

    @property
    def image(self) -> Image:
        """Glance."""
        service = self._service(lambda connection: connection.image)
        if isinstance(service, ImageV1):
            raise KubekilnError(
                "this cloud's Glance has only version 1 of its API",
                hint="`image_api_version` in clouds.yaml, if there is one, has to be 2",
            )
        return service

    @property
    def compute(self) -> Compute:
        """Nova."""
        return self._service(lambda connection: connection.compute)

    @property
    def network(self) -> Network:
        """Neutron."""
        return self._service(lambda connection: connection.network)

    @property
    def project_id(self) -> str | None:
        """The project that the credentials are for."""
        with self._lock:
            return self._connection().current_project_id

    def _service(self, choose: Callable[[Connection], P]) -> P:
        # What a service can do is asked on its first use; not by several threads at once.
        with self._lock:
            connection = self._connection()
            service = service_of(lambda: choose(connection))
        # Trying again is our delivery's, which says so.
        service.status_code_retries = 0
        service.connect_retries = 0
        return service

    def _connection(self) -> Connection:
        if self._opened is None:
            named = {"cloud": self._settings.cloud, "region_name": self._settings.region}
            chosen: dict[str, Any] = {key: value for key, value in named.items() if value}
            # Its warnings would come between our lines; what matters is in its errors as well.
            for name in ("keystoneauth", "openstack"):
                logging.getLogger(name).addHandler(logging.NullHandler())
            region = OpenStackConfig(app_name="kubekiln").get_one(**chosen)
            region.config["api_timeout"] = region.config.get("api_timeout") or _ANSWER_S
            self._opened = Connection(config=region)
            # A clouds.yaml may ask for a cache; what we wait for would never come.
            self._opened.cache_enabled = False
        return self._opened


def wait_until(look: Callable[[], T | None], *, what: str, timeout_s: float) -> T | None:
    """Look again and again until there is something; None when time is over."""
    deadline, pause_s = time.monotonic() + timeout_s, _FIRST_POLL_S
    while True:
        with asking(what):
            found = look()
        if found is not None or time.monotonic() >= deadline:
            return found
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_POLL_S)
