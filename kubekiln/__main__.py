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
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup(1) sets it
        _interrupt_by_hang_up()
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


def _interrupt_by_hang_up() -> None:
    """Take the loss of our terminal as an interrupt, and say nothing more to it."""
    at_terminal = [fd for fd in (1, 2) if os.isatty(fd)]

    def hang_up(_signum: int, _frame: object) -> NoReturn:
        silent = os.open(os.devnull, os.O_WRONLY)
        for fd in at_terminal:
            # A line that can't be written would be an error in the middle of the clean-up.
            os.dup2(silent, fd)
        raise KeyboardInterrupt

    signal.signal(signal.SIGHUP, hang_up)


if __name__ == "__main__":
    main()
