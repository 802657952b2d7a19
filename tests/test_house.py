"""The law of the floors: import strictly downwards, or sideways where no circle comes of it.

Every import of every module counts, those inside functions and under TYPE_CHECKING as well.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cpspika

HOUSE = Path(cpspika.__file__).parent
FLOORS = [
    ["version", "spec"],
    ["errors", "reactor"],
    ["fields", "frames", "states", "tags"],
    ["parameters", "codec", "continuations"],
    ["message", "handshake", "sender", "lanes", "receive_lane"],
    ["link", "publishing", "channel", "dialing"],
    ["connection"],
    ["lifting", "recovery", "facade", "operations", "workers"],
    ["sync_operations", "sync", "promises", "broker"],
    ["adapters"],
    ["doors"],
    ["sync_doors", "tasks", "task_operations", "threads", "thread_operations", "thread_messages", "styles"],
    ["cli", "pytest_plugin", "stubs", "__init__", "__main__"],
]
CORE = 8  # the highest floor that needs nothing but the standard library
FLOOR = {f"cpspika.{room}": number for number, rooms in enumerate(FLOORS) for room in rooms}


def _module(path: Path) -> str:
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {_module(path): path for path in sorted(HOUSE.rglob("*.py"))}


def _imports(module: str) -> Iterator[tuple[str, int]]:
    """(what is imported, line): every import statement's module, wherever in the file it stands."""
    path = MODULES[module]
    package = path.relative_to(HOUSE.parent).parent.parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            source = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield (name if name in MODULES else source), node.lineno


def _floor(module: str) -> int:
    if module == "cpspika.broker":
        return FLOOR["cpspika.doors"]  # the package's own __init__ is a door: its rooms are behind it
    if module.startswith("cpspika.adapters.") and module.endswith(("_adapter", "_operations")):
        return FLOOR["cpspika.styles"]  # the door of a foreign loop's style
    if module.startswith("cpspika.adapters.conformance"):
        return FLOOR["cpspika.styles"]  # tests an adapter at the doors
    room = ".".join((module if module != "cpspika" else "cpspika.__init__").split(".")[:2])
    assert room in FLOOR, f"{module} has no floor: give it one in FLOORS, and in the table of the design"
    return FLOOR[room]


def _inside(module: str) -> dict[str, int]:
    """The modules of the house that one imports, with a line."""
    found = dict(_imports(module))
    return {
        "cpspika.__init__" if name == "cpspika" else name: line
        for name, line in found.items()
        if name.split(".")[0] == "cpspika"
    }


def test_the_walk_sees_imports_of_every_form() -> None:
    """So that the tests below cannot pass by blindness."""
    assert {"cpspika.spec", "copy", "typing", "__future__"} <= set(dict(_imports("cpspika.errors")))
    assert "cpspika.fields" in dict(_imports("cpspika.codec"))  # from . import fields
    assert "cpspika.reactor" in dict(_imports("cpspika.adapters.select_reactor"))  # from ..reactor import
    assert "asyncore" in dict(_imports("cpspika.adapters.asyncore_reactor"))  # inside a function
    assert "cpspika.message" in dict(_imports("cpspika.publishing"))
    assert len(MODULES) > 25


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_from_above(module: str) -> None:
    mine = _floor(module)
    up = [f"line {line}: {name}" for name, line in _inside(module).items() if _floor(name) > mine]
    assert not up, f"{module} (floor {mine}) imports upwards: {up}"


def test_no_imports_go_in_a_circle() -> None:
    graph = {module: set(_inside(module)) & MODULES.keys() - {module} for module in MODULES}
    # What imports nothing (of the rest), and what nothing (of the rest) imports, is in no circle.
    while outside := graph.keys() - set().union(*graph.values()) | {name for name in graph if not graph[name]}:
        graph = {name: imported - outside for name, imported in graph.items() if name not in outside}
    assert not graph, f"in a circle: { {name: sorted(imported) for name, imported in graph.items()} }"


@pytest.mark.parametrize("module", [module for module in MODULES if _floor(module) <= CORE])
def test_the_core_imports_only_the_standard_library(module: str) -> None:
    foreign = {
        name
        for name, _ in _imports(module)
        if name.split(".")[0] not in sys.stdlib_module_names and name.split(".")[0] != "cpspika"
    }
    assert not foreign


def test_nothing_of_the_broker_imports_the_client() -> None:
    """They meet only at the link."""
    for module in MODULES:
        if module.startswith("cpspika.broker"):
            assert not _inside(module).keys() & {"cpspika.channel", "cpspika.connection", "cpspika.publishing"}


def test_import_cpspika_loads_no_third_party_module_and_warns_of_nothing() -> None:
    script = (
        "import sys; before = set(sys.modules); import cpspika;"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, cwd=HOUSE.parent, check=False
    )
    assert (done.stderr, done.stdout.split()) == ("", ["cpspika"])
