# SPDX-License-Identifier: Apache-2.0
"""How does an add-on's manifest get the cluster's values?

An add-on is a file of plain Kubernetes manifests, valid YAML as it stands. Strings in it may hold
`{{ … }}`; a string that is nothing but one expression becomes that value with its type. Values are
put in after parsing, so none can change the document's structure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.nativetypes import NativeEnvironment

from cloudinit import sizing
from cloudinit.families import joined
from cloudinit.model import Cluster
from kubekiln.errors import ConfigError
from kubekiln.paths import Project
from kubekiln.yamltext import GoDumper

_TEXT = jinja2.Environment(
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
)
_NATIVE = NativeEnvironment(undefined=jinja2.StrictUndefined)


@dataclass(frozen=True)
class Addon:
    """An add-on's parsed manifests."""

    name: str
    source: str
    path: Path
    documents: tuple[Any, ...]

    def render(self, view: Mapping[str, Any]) -> str:
        """Put the values in and give the manifests as one YAML stream."""
        try:
            filled = [_fill(document, view) for document in self.documents]
        except jinja2.TemplateError as error:
            raise ConfigError(
                f"add-on {self.name}: {error}",
                where=str(self.path),
                hint=f"values there are: {', '.join(sorted(view))}",
            ) from error
        return yaml.dump_all(filled, Dumper=_Dumper, sort_keys=False, width=1000)


def addon_view(cluster: Cluster, versions: Mapping[str, str]) -> dict[str, Any]:
    """Give the values that an add-on may name."""
    network = cluster.network
    return {
        "cluster": cluster.name,
        "dns_ip": str(network.cluster_dns[0]),
        "dns_ips": [str(address) for address in network.cluster_dns],
        "dns_memory_mib": sizing.size_of(cluster).dns_memory_mib,
        "dns_replicas": sizing.dns_replicas(cluster),
        "domain": network.domain,
        "nameservers": [str(address) for address in network.nameservers],
        "nodes": sum(owner.runs_pods for owner in cluster.payloads),
        "pod_cidr": joined(network.pod_cidrs),
        "service_cidr": joined(network.service_cidrs),
        "versions": versions,
    }


def load_addon(name_or_path: str, project: Project) -> Addon:
    """Read an add-on by name (configs/addons/NAME.yaml) or path."""
    path = project.config_path("addons", name_or_path)
    try:
        documents = tuple(d for d in yaml.safe_load_all(path.read_text()) if d is not None)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"add-on {path.stem} is not YAML: {error}", where=str(path)) from error
    for number, document in enumerate(documents, start=1):
        if not isinstance(document, dict) or not {"apiVersion", "kind"} <= document.keys():
            raise ConfigError(
                f"document {number} of add-on {path.stem} is not a Kubernetes object",
                where=str(path),
                hint="each has apiVersion, kind and metadata",
            )
    shown = path.relative_to(project.root) if path.is_relative_to(project.root) else Path(path.name)
    return Addon(path.stem, str(shown), path, documents)


def _fill(value: Any, view: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(inner, view) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, view) for inner in value]
    if not isinstance(value, str) or "{" not in value:
        return value
    lone = value.startswith("{{") and value.endswith("}}") and value.count("{{") == 1
    result = (_NATIVE if lone else _TEXT).from_string(value).render(view)
    if isinstance(result, jinja2.Undefined):
        raise jinja2.UndefinedError(f"{value} names nothing")
    return result


class _Dumper(GoDumper):
    """Writes text of several lines as it reads."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
