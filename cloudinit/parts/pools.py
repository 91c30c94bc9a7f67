# SPDX-License-Identifier: Apache-2.0
"""What do masters know of machines that nobody listed? (Part: the pools' tokens and rights.)"""

from __future__ import annotations

from cloudinit.bootstraptoken import token_object
from cloudinit.part import Context, Part, from_template
from cloudinit.parts.bootstrap import DIRECTORY
from kubekiln.yamltext import dump_all


def render(context: Context) -> Part:
    """Give the objects that let a pool's machines ask for certificates; nothing without a pool.

    To ask is all that a token is good for: parts/approver.py says who is answered.
    """
    pools, state = context.cluster.pools, context.state
    if not pools:
        return Part(files=())
    objects = [token_object(p, state.token(p.name, hours=p.token_ttl_hours)) for p in pools]
    view = {
        "groups": [pool.group for pool in pools],
        "tokens": dump_all(objects).rstrip(),
    }
    keys = ("pools.name", "pools.token_ttl_hours")
    return Part(files=(from_template(f"{DIRECTORY}/20-pools.yaml", view, keys=keys),))
