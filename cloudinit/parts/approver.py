# SPDX-License-Identifier: Apache-2.0
"""Who says yes to a kubelet's serving certificate? (Part: the approver and the nodes it knows.)"""

from __future__ import annotations

import json

from cloudinit.credentials import identity
from cloudinit.part import Context, NodeFile, Part, unit

CONFIG_PATH = "/etc/kubekiln/csr-approver.json"


def render(context: Context) -> Part:
    """Give the approver; it compares a request's names and addresses with those rendered here.

    The controller manager approves none of them by design: only whoever knows the nodes can.
    """
    document = {
        "kubeconfig": "/etc/kubernetes/csr-approver.conf",
        "nodes": {
            node.name: [str(node.address)] for node in context.cluster.nodes if node.runs_pods
        },
    }
    config = NodeFile(
        CONFIG_PATH,
        (json.dumps(document, indent=1) + "\n").encode(),
        "parts/approver.py",
        ("nodes.name", "nodes.address", "nodes.role"),
        mode=0o600,
    )
    name = "kubekiln-csr-approver.service"
    return Part(
        files=(
            *identity(context, "csr-approver", "kubekiln:csr-approver", own_api=True),
            config,
            unit(name),
        ),
        units=(name,),
    )
