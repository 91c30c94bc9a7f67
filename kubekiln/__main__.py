# SPDX-License-Identifier: Apache-2.0
"""Where does the `kubekiln` command start, and how do its errors become exit codes?"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

from kubekiln.errors import EXIT_INTERRUPTED, KubekilnError


def main() -> NoReturn:
    """Run the command line; a user's mistake prints its lines, never a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _run()
    except KubekilnError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    except SystemExit as exit_:  # typer turns an interrupt into this
        sys.exit(_interrupted() if exit_.code == EXIT_INTERRUPTED else exit_.code)
    sys.exit(0)


def _run() -> None:
    from kubekiln.cli.main import app

    app()


def _interrupted() -> int:
    print("interrupted: nothing half-made is left; run it again to go on", file=sys.stderr)
    return EXIT_INTERRUPTED


def _interrupt(_signum: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
