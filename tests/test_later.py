"""What is due later happens in its order, in one thread, whatever went wrong before."""

from __future__ import annotations

import threading

from moeviz.app.later import Later


def test_what_is_due_happens_in_the_order_in_which_it_is_due_in_one_thread() -> None:
    later, did, said, over = Later(), [], threading.Event(), threading.Event()
    by: set[int] = set()

    def do(what: str) -> None:
        by.add(threading.get_ident())
        did.append(what)

    later.call(-9_000, lambda: said.wait(300) and None)  # first of all, until all of it has been said
    later.call(-1_000, lambda: do("last"))  # due long ago, so that no stall of the machine is between them
    later.call(-1_000, over.set)
    later.call(-3_000, lambda: [].pop())
    later.call(-2_000, lambda: do("first"))
    said.set()
    assert over.wait(300)
    assert did == ["first", "last"]
    assert len(by) == 1
