"""The loggers of the library.

The logger "cpspika" has a handler that does nothing. Without one, Python prints warnings and errors to the standard
error output of a program that has not set logging up. `logging` is imported only when something is logged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


def get_logger(name: str = "cpspika") -> logging.Logger:
    """The logger of this name, "cpspika" or one below it."""
    import logging

    top = logging.getLogger("cpspika")
    if not top.handlers:
        top.addHandler(logging.NullHandler())
    return logging.getLogger(name)
