"""pika's checks of arguments."""

from __future__ import annotations

from typing import Any

from ._absent import refusal

__all__ = ["require_callback", "require_string", "rpc_completion_callback", "zero_or_greater"]

__getattr__ = refusal("validators", "checks of your own")


def require_string(value: Any, value_name: str) -> None:
    """TypeError: it is not a str."""
    if not isinstance(value, str):
        raise TypeError(f"{value_name} takes a str, not {value!r}")


def require_callback(callback: Any, callback_name: str = "callback") -> None:
    """TypeError: it is not callable."""
    if not callable(callback):
        raise TypeError(f"{callback_name} takes a callable, not {callback!r}")


def rpc_completion_callback(callback: Any) -> bool:
    """Whether there is none. TypeError: it is not callable."""
    if callback is not None:
        require_callback(callback)
    return callback is None


def zero_or_greater(name: str, value: Any) -> None:
    """ValueError: it is below 0."""
    if int(value) < 0:
        raise ValueError(f"{name}={value} is not a number from 0")
