# SPDX-License-Identifier: Apache-2.0
"""How do tests come to a cluster's own kubeconfig?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kubekiln.paths import Project


def admin_config(name: str, server: str = "https://127.0.0.1:6500") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server}}],
        "users": [{"name": f"{name}-admin", "user": {"client-key-data": "c2VjcmV0"}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": f"{name}-admin"}}],
        "current-context": name,
    }


def rendered(root: Path, name: str = "try", **more: str) -> Project:
    path = root / "state" / name / "admin.kubeconfig"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(admin_config(name, **more)))
    return Project(root)
