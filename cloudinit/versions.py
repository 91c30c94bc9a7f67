# SPDX-License-Identifier: Apache-2.0
"""Which version of each component may an add-on name? (The image carries the same ones.)"""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from cloudinit.model import Cluster
from kubekiln.errors import ConfigError
from kubekiln.paths import Project


def component_versions(cluster: Cluster, project: Project) -> Mapping[str, str]:
    """Give the first wanted version of each component, or the one that the cluster names.

    Only `components.<name>.versions` is read of configs/components.yaml: the whole of it is the
    image's business, which this half of kubekiln doesn't know.
    """
    path = project.configs_dir / "components.yaml"
    try:
        document = yaml.safe_load(path.read_text()) or {}
        wanted = {name: entry["versions"][0] for name, entry in document["components"].items()}
    except (OSError, yaml.YAMLError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise ConfigError(
            f"cannot read the components' versions: {error}",
            where=str(path),
            hint="`kubekiln lock verify` says more",
        ) from error
    return {**wanted, **cluster.versions}
