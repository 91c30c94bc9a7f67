# SPDX-License-Identifier: Apache-2.0
"""Where does the `kubekiln` command start, and how do its errors become exit codes?"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import click

from kubekiln.errors import EXIT_INTERRUPTED, KubekilnError


def main() -> NoReturn:
    """Run the command line; a user's mistake prints its lines, never a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = _run()
    except KubekilnError as error:
        print(error, file=sys.stderr)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("interrupted: nothing half-made is left; run it again to go on", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) went away: not an error, but Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _run() -> int:
    from kubekiln.cli.main import app

    # Not standalone: typer would turn an interrupt into exit code 1 and swallow our own errors.
    result = app(standalone_mode=False)
    return result if isinstance(result, int) else 0


def _interrupt(_signum: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
