"""Reactors: what drives a connection. One a file; `Reactor` in `cpspika.reactor` is what they all fulfil."""

from __future__ import annotations

from .asyncore_reactor import AsyncoreReactor
from .blocking_reactor import BlockingReactor
from .memory_reactor import MemoryReactor
from .select_reactor import SelectReactor

__all__ = ["AsyncoreReactor", "BlockingReactor", "MemoryReactor", "SelectReactor"]
