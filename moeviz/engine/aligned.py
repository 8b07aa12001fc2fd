"""Host memory that begins with a page, which reads past the page cache ask for."""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch


def pages(size: int) -> torch.Tensor:
    """Page-aligned host memory, uint8 [size], in huge pages where Linux has them to give: a matrix that is
    read through pages of 4 KB needs a walk through the page tables for each of them. Backed by real pages
    when it is written.
    """
    huge = 2**21 if size >= 2**21 and hasattr(mmap, "MADV_HUGEPAGE") else 1
    # private: the shared memory that python maps by default has no huge pages
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    memory = mmap.mmap(-1, size + huge - 1, **private)
    if huge > 1:
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    found = torch.frombuffer(memory, dtype=torch.uint8)
    return found[-found.data_ptr() % huge :][:size]


def aligned(records: int, record_bytes: int) -> torch.Tensor:
    """Page-aligned host memory, uint8 [records, record_bytes], already backed by real pages."""
    return pages(records * record_bytes).zero_().view(records, record_bytes)
