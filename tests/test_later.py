"""What is due later happens in its order, in one thread, whatever went wrong before."""

from __future__ import annotations

import threading

from moeviz.app.later import Later


def test_what_is_due_happens_in_the_order_in_which_it_is_due_in_one_thread() -> None:
    later, did, over = Later(), [], threading.Event()
    threads = threading.active_count()
    later.call(0.2, lambda: did.append("last"))
    later.call(0.2, over.set)
    later.call(0.0, lambda: [].pop())
    later.call(0.1, lambda: did.append("first"))
    assert threading.active_count() == threads + 1
    assert over.wait(300)
    assert did == ["first", "last"]
