"""The process that holds the model: takes jobs from the app's pipe, one after the other, and says what
happens.

Started by `moeviz.engine.client`; the pipe belongs to the two of them, so nobody else can send it a job.
What does the work is
imported when the pipe stands, so that the app hears from this process from its first moment on.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from queue import Queue
from typing import Any

from moeviz.engine.imports import import_engine
from moeviz.engine.pipe import AppPipe

GRACE = 5.0  # seconds in which a run may end when the app is gone


def main() -> None:
    pipe = AppPipe(sys.argv[1:])
    os.dup2(
        sys.stderr.fileno(), sys.stdout.fileno()
    )  # libraries print, and the app's standard output is not theirs
    stop = threading.Event()
    jobs: Queue[dict[str, Any] | None] = Queue()

    def listen() -> None:
        for message in pipe.messages():
            if message == {"kind": "stop"}:
                stop.set()
            else:
                stop.clear()
                jobs.put(message)
        stop.set()  # the app is gone
        jobs.put(None)
        time.sleep(GRACE)
        os._exit(1)  # whatever hangs here must not outlive the app

    threading.Thread(target=listen, daemon=True).start()
    import_engine()
    from moeviz.engine.loader import use_threads
    from moeviz.engine.work import Worker

    use_threads(
        int(os.environ.get("MOEVIZ_THREADS", "1"))
    )  # two threads on two busy cores are slower than one
    worker = Worker(pipe.send, stop)
    while (job := jobs.get()) is not None:
        worker.do(job)


if __name__ == "__main__":
    main()
