# SPDX-License-Identifier: Apache-2.0
"""What do tests want to know of the web server's pods (tests/e2e/manifests/web.yaml)?"""

from __future__ import annotations

import json
from collections.abc import Callable

from kubekiln.process import Result

WEB_PODS = 2


def web_restarts(kubectl: Callable[..., Result]) -> list[int]:
    """How often each container was started anew; none unless all are there and ready."""
    words = ("get", "pods", "-n=e2e", "--selector=app=web", "--output=json")
    said = kubectl(*words, check=False)
    pods = json.loads(said.stdout)["items"] if said.returncode == 0 else []
    containers = [one for pod in pods for one in pod["status"]["containerStatuses"]]
    ready = len(containers) == WEB_PODS and all(one["ready"] for one in containers)
    return [one["restartCount"] for one in containers] if ready else []
