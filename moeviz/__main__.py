"""`python -m moeviz`: see `moeviz.cli.main`."""

import os
import signal


def leave(*_: object) -> None:
    """Ends the process at once, and without a traceback, where no command can say what it keeps: while they
    are loaded, and when they are done.
    """
    os._exit(130)


asked = signal.getsignal(signal.SIGINT)
if asked is signal.default_int_handler:  # else whoever started it wants no interruption
    signal.signal(signal.SIGINT, leave)
from moeviz.cli.main import main  # noqa: E402

signal.signal(signal.SIGINT, asked)
try:
    main(prog_name="python -m moeviz")
finally:
    if asked is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)
