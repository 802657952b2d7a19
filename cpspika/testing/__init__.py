"""Helpers for tests: pytest fixtures, the conformance tests for a reactor, and simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .simulation import Simulation as Simulation

__all__ = ["Simulation"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: the pytest plugin is imported in every run of pytest.
    if name == "Simulation":
        from .simulation import Simulation

        return Simulation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
