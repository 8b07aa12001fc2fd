"""Host memory for reads past the page cache."""

from __future__ import annotations

from moeviz.engine.aligned import aligned, pages
from moeviz.engine.tiers import ALIGNMENT


def test_host_memory_begins_with_a_page_whatever_its_size() -> None:
    for size in (1, ALIGNMENT, 2**21 - 1, 2**21, 5 * 2**20 + 1):
        found = pages(size)
        assert (len(found), found.data_ptr() % ALIGNMENT) == (size, 0)
        assert int(found[0]) == int(found[-1]) == 0
        found.fill_(7)
        assert not (aligned(2, ALIGNMENT) != 0).any()
