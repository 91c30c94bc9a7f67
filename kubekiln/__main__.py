# SPDX-License-Identifier: Apache-2.0
"""Where does the `kubekiln` command start, and how do its errors become exit codes?"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from kubekiln.errors import EXIT_INTERRUPTED, KubekilnError


def main() -> NoReturn:
    """Run the command line; a user's mistake prints its lines, never a traceback."""
    from kubekiln.cli.main import app

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(standalone_mode=True)
    except KubekilnError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) went away: not an error, but Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


def _interrupt(_signum: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
