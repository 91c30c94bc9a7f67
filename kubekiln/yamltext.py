# SPDX-License-Identifier: Apache-2.0
"""How is YAML written that Kubernetes reads as we meant it?

Its parser is Go's, PyYAML is ours, and a node may be called `1e3`, `089` or `y`: text to the one,
a number or a truth to the other. What either would take for something else than text is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml


class GoDumper(yaml.SafeDumper):
    """Quotes text that Go's parser (sigs.k8s.io/yaml) would read as a number or a truth, too."""


# resolve.go of go.yaml.in/yaml/v2: its floats need no point, its octal numbers may begin with 0o.
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
for _tag, _pattern, _first in (
    ("bool", r"[yYnN]", "yYnN"),
    ("float", _FLOAT, "-+.0123456789"),
    ("int", r"[-+]?0[oO][0-7_]+", "-+0"),
):
    GoDumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )


def dump(document: Any, **style: Any) -> str:
    """Write one document, keys in their order."""
    return str(yaml.dump(document, Dumper=GoDumper, sort_keys=False, **style))


def dump_all(documents: Iterable[Any], **style: Any) -> str:
    """Write several documents, keys in their order."""
    return str(yaml.dump_all(documents, Dumper=GoDumper, sort_keys=False, **style))
