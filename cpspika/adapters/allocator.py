"""A hint to the memory allocator, given once by the first transport of a process."""

from __future__ import annotations

from functools import cache

LARGEST_KEPT = 4 * 1024 * 1024  # bytes


@cache
def keep_freed_blocks() -> None:
    """Makes glibc's malloc keep freed blocks of up to LARGEST_KEPT bytes for the next allocation.

    Without this, glibc returns every block of more than 128 KiB to the kernel and page-faults each new one back in. For
    the writes of a turn and for large bodies this costs up to four times the rest of the work. glibc learns the size of
    the blocks to keep from the largest block that was freed. The block here is never written to, so it uses
    address space for a moment, and no memory.
    """
    bytes(LARGEST_KEPT)
