"""Where a sweep's work is done: local processes, or the workers of a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor
from contextlib import contextmanager

from moeviz.errors import SweepError


@contextmanager
def executor(jobs: int | None, address: str = "") -> Iterator[Executor]:
    """Local processes (None: one for each core), or a Dask cluster's workers.

    Raises SweepError where no scheduler answers.

    A local process ends with its parent, however that ends, and at once when the block is left by an
    exception. A task whose Dask worker died is given to another one by the scheduler, as
    often as its `allowed-failures` says.
    """
    if not address:
        before = multiprocessing.active_children()
        pool = ProcessPoolExecutor(
            jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
        )
        try:
            yield pool
        except BaseException:
            for child in multiprocessing.active_children():
                if child not in before:
                    child.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)  # waits for the pool's thread, or it would race with the exit
        return
    _knock(address)
    from distributed import Client  # most sweeps are local

    try:
        client = Client(address, timeout=30, set_as_default=False)  # it listens, on a busy machine perhaps
    except (OSError, ValueError, TypeError) as error:
        reason = str(error) or type(error).__name__
        raise SweepError(f"What listens at {address[:80]} is no Dask scheduler: {reason}.") from None
    with client, client.get_executor() as cluster:
        try:
            yield cluster
        except BaseException:
            cluster.shutdown(wait=False)  # which takes back what has not begun
            raise


def _knock(address: str) -> None:
    """Raises SweepError where nobody listens: Dask's client would go on trying while the program ends."""
    where = address.rpartition("://")[2]
    host, _, port = where.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = str(error) if host and port.isdecimal() else "it is no address"
        raise SweepError(
            f"No Dask scheduler answers at {address[:80]}: {reason}. Start one with `dask scheduler`, "
            "and give the address that it prints, as tcp://127.0.0.1:8786."
        ) from None


def _end_with_parent() -> None:
    """In a worker: SIGINT is the parent's to handle, and when the parent is gone nobody waits for rows."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="moeviz-parent", daemon=True).start()


def losses() -> tuple[type[BaseException], ...]:
    """What a future raises whose worker died for good."""
    dask = sys.modules.get("distributed")  # loaded where a cluster is used, and only there
    return (BrokenExecutor, CancelledError, *((dask.KilledWorker,) if dask else ()))
