# SPDX-License-Identifier: Apache-2.0
"""May a node that was declared after this master was rendered have its serving certificate?

`kubekiln cluster nodes --apply` lists the nodes of the configuration of today in a ConfigMap, in
the form of this master's own file. Only administrators may write it; all else is doubted.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from kubekiln_node.csr_client import ApiError
from kubekiln_node.csr_request import Verdict
from kubekiln_node.csr_rules import Addresses, judge, read_addresses

if TYPE_CHECKING:
    from collections.abc import Callable

    from kubekiln_node.csr_client import Object

CONFIG_MAP = "ConfigMap kube-system/kubekiln-nodes"
TO_DO = (
    "`kubekiln cluster nodes CLUSTER --apply` lists the nodes of the configuration there, and this "
    "request is looked at again within 5 minutes"
)


def judge_declared(csr: dict[str, object], node: str, get: Callable[[], Object | None]) -> Verdict:
    """Decide about a request of a node that isn't in this master's file.

    It is denied only what isn't its own; a node that is listed nowhere may be so tomorrow. Raises
    what `get` raises while the API is away.
    """
    try:
        found = get()
    except ApiError as error:
        if error.status != 403:
            raise
        # This image is newer than the user-data of all masters.
        return _left(node, f"may not read {CONFIG_MAP}; a master with user-data rendered anew may")
    if found is None:
        return _left(node, f"there is no {CONFIG_MAP}; {TO_DO}")
    try:
        nodes = read_declared(found)
    except ValueError as error:
        return _left(node, f"{CONFIG_MAP} makes no sense ({error}); {TO_DO}")
    if node not in nodes:
        return _left(node, f"it isn't in {CONFIG_MAP}; {TO_DO}")
    return judge(csr, {node: nodes[node]})


def read_declared(found: Object) -> Addresses:
    """Read the ConfigMap; raises ValueError naming what is wrong."""
    data = found.get("data")
    text = data.get("nodes") if isinstance(data, dict) else None
    if not isinstance(text, str):
        raise ValueError("it has no data.nodes")
    return read_addresses(json.loads(text))


def _left(node: str, why: str) -> Verdict:
    return Verdict("leave", f"node {node} came after this master's user-data, and {why}")
