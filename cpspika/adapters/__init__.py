"""The reactors, which drive connections; each has a file. `cpspika.reactor.Reactor` is their contract."""

from __future__ import annotations

from .asyncore_reactor import AsyncoreReactor
from .blocking_reactor import BlockingReactor
from .memory_reactor import MemoryReactor
from .select_reactor import SelectReactor

__all__ = ["AsyncoreReactor", "BlockingReactor", "MemoryReactor", "SelectReactor"]
