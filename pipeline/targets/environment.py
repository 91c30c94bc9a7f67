# SPDX-License-Identifier: Apache-2.0
"""What did the user's environment say to a platform's own tools?

Kubekiln has no variables of its own here: it reads those that the tools of the platform read, where
the platform's library doesn't do it itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping


def tools_environment() -> Mapping[str, str]:
    """Give the environment, to look up what is documented in docs/platforms."""
    return dict(os.environ)
