"""The stub of `cpspika.integrations.pika._methods`, made from the same table: `python -m tests.support.pika_stub`."""

from __future__ import annotations

from pathlib import Path

from cpspika import spec
from cpspika.integrations.pika import _methods

STUB = Path(_methods.__file__).with_suffix(".pyi")
TYPES = {"bit": "bool", "shortstr": "str", "longstr": "str | bytes", "table": "dict[str, Any] | None"}


def stub() -> str:
    """The text of the stub, before ruff formats it."""
    lines = ["from typing import Any", "from . import amqp_object", "methods: dict[int, Any]"]
    for row in spec.load("0-9-1"):
        lines.append(f"class {_methods._camel(row.name)}(amqp_object.Class):")
        for method in row.methods:
            lines.append(f"    class {_methods._camel(method.name.partition('.')[2])}(amqp_object.Method):")
            typed = [(_methods._NAMES.get(name, name), TYPES.get(kind, "int")) for name, kind in method.arguments]
            lines += [f"        {name}: {kind}" for name, kind in typed]
            shown = "".join(f", {name}: {kind} = ..." for name, kind in typed)
            lines.append(f"        def __init__(self{shown}) -> None: ...")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    STUB.write_text(stub(), "utf-8")
