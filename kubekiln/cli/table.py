# SPDX-License-Identifier: Apache-2.0
"""How is a table printed as a command's result?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

# Nobody wraps for a pipe: what reads it wants one line a row.
_PIPE_WIDTH = 500


def print_table(table: Table) -> None:
    """Print a table to stdout: as wide as the terminal, unwrapped into a pipe or file."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(highlight=False, width=width)
    console.print(table, crop=False)
