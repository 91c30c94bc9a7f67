# SPDX-License-Identifier: Apache-2.0
"""On which of several places (zones, hosts) does a node go, the same one each time it is asked?"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence


def pick_for(node: str, choices: Sequence[str]) -> str:
    """Pick by the number that the node's name ends with, so that neighbours are kept apart.

    A name without a number gets its place by a checksum (hash() differs in each process).
    """
    number = re.search(r"\d+$", node)
    index = int(number[0]) if number else zlib.crc32(node.encode())
    return choices[index % len(choices)]
