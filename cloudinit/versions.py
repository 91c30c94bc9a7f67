# SPDX-License-Identifier: Apache-2.0
"""Which version of each component may an add-on name? (Those in the nodes' image.)"""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from cloudinit.model import Cluster
from kubekiln.errors import ConfigError
from kubekiln.paths import Project


def component_versions(cluster: Cluster, project: Project) -> Mapping[str, str]:
    """Give the image's version of each component, or the one that the cluster names.

    Only `components` is read of the image's configuration: the rest is the business of the other
    half of kubekiln, which checks it as well.
    """
    path = project.config_path("images", cluster.image)
    try:
        carried = yaml.safe_load(path.read_text())["components"]
        versions = {str(name): str(version) for name, version in carried.items()}
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"image {cluster.image} does not say which components it carries", where=str(path)
        ) from error
    return {**versions, **cluster.versions}
