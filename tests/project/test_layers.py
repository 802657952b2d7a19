"""The layers: imports go downwards, or sideways without a circle.

Every import of every module counts, also inside functions and under TYPE_CHECKING, and in stubs.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

import cpspika

ROOT = Path(cpspika.__file__).parent
# Folders and modules, the lowest layer first. docs/architecture.md says what each holds.
LAYERS = [
    ["spec", "version"],
    ["errors", "interrupts", "logs", "pika_names", "parameters", "reactor", "registry"],
    ["wire"],
    ["client", "broker"],
    ["recovery"],
    ["styles"],
    ["adapters"],
    ["connecting", "blocking", "tasks", "threads"],
    ["integrations", "testing"],
    ["cli", "__main__", "__init__"],
]
ENTRY = 7  # the layer that picks defaults: connecting, blocking, tasks, threads
# Modules of another layer than their folder's: the layer, and the reason.
EXCEPTIONS = {
    "broker.__init__": (
        ENTRY,
        "`cpspika.broker` is a promised name; it picks the reactor that a broker runs on",
    ),
    "adapters.*_adapter": (
        ENTRY,
        "promised names; each is where a program enters the style of one foreign loop",
    ),
    "styles.*_operations.pyi": (
        ENTRY,
        "for type checkers alone: a stub names the classes of its style, wherever these are",
    ),
}
STANDARD_LIBRARY_ONLY = [
    "spec",
    "version",
    "errors",
    "interrupts",
    "logs",
    "pika_names",
    "parameters",
    "reactor",
    "registry",
    "wire",
    "client",
    "broker",
    "recovery",
]


def _name(path: Path) -> str:
    """ "wire.link", "wire.__init__", "styles.sync_operations.pyi"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts) + (".pyi" if path.suffix == ".pyi" else "")


MODULES = {_name(path): path for pattern in ("*.py", "*.pyi") for path in sorted(ROOT.rglob(pattern))}


def _resolve(dotted: str) -> str:
    """The module of ours that is imported by this name, or the name as it is."""
    own, _, inside = dotted.partition(".")
    if own != "cpspika":
        return dotted
    package = f"{inside}.__init__" if inside else "__init__"
    return inside if inside in MODULES else package if package in MODULES else dotted


@cache
def _imports(module: str) -> list[tuple[str, int]]:
    """(imported module, line) of every import statement, wherever in the file it stands."""
    path = MODULES[module]
    package = path.relative_to(ROOT.parent).parent.parts
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(_resolve(alias.name), node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            source = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                whole = _resolve(f"{source}.{alias.name}")
                found.append((whole if whole in MODULES else _resolve(source), node.lineno))
    return found


def _layer(module: str) -> int:
    excepted = (layer for pattern, (layer, _) in EXCEPTIONS.items() if fnmatch(module, pattern))
    return next(excepted, None) or _layer_of_folder(module)


def _layer_of_folder(module: str) -> int:
    folder = module.partition(".")[0]
    for number, folders in enumerate(LAYERS):
        if folder in folders:
            return number
    raise AssertionError(f"{module} has no layer: give its folder one in LAYERS and in docs/architecture.md")


def _inside(module: str) -> dict[str, int]:
    """The modules of the package that one imports, with a line."""
    return {name: line for name, line in _imports(module) if name in MODULES and name != module}


def test_the_walk_sees_imports_of_every_form() -> None:
    """Else the tests below could pass because they see nothing."""
    assert {"spec", "copy", "typing", "__future__"} <= set(dict(_imports("errors")))
    assert "wire.fields" in _inside("wire.codec")  # from . import fields
    assert "reactor" in _inside("adapters.select_reactor")  # from ..reactor import
    assert "asyncore" in dict(_imports("adapters.asyncore_reactor"))  # inside a function
    assert "styles.sync" in _inside("__init__")  # under TYPE_CHECKING
    assert "broker.__init__" in _inside("connecting")
    assert "styles.sync" in _inside("styles.sync_operations.pyi")
    assert len(MODULES) > 60


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_from_a_higher_layer(module: str) -> None:
    mine = _layer(module)
    up = [f"line {line}: {name}" for name, line in _inside(module).items() if _layer(name) > mine]
    assert not up, f"{module} (layer {mine}) imports upwards: {up}"


def test_every_exception_is_needed() -> None:
    for pattern, (layer, reason) in EXCEPTIONS.items():
        matching = [module for module in MODULES if fnmatch(module, pattern)]
        own = _layer_of_folder(matching[0])
        assert any(own < _layer(name) <= layer for module in matching for name in _inside(module)), (pattern, reason)


def test_no_imports_go_in_a_circle() -> None:
    graph = {module: set(_inside(module)) - {module} for module in MODULES if not module.endswith(".pyi")}
    # A module that imports none of the rest, or that none of the rest imports, is in no circle.
    while outside := graph.keys() - set().union(*graph.values()) | {name for name in graph if not graph[name]}:
        graph = {name: imported - outside for name, imported in graph.items() if name not in outside}
    assert not graph, f"in a circle: { {name: sorted(imported) for name, imported in graph.items()} }"


@pytest.mark.parametrize("module", [name for name in MODULES if name.partition(".")[0] in STANDARD_LIBRARY_ONLY])
def test_the_core_imports_only_the_standard_library(module: str) -> None:
    foreign = {name for name, _ in _imports(module) if name not in MODULES}
    # typing_extensions: for type checkers alone; the last test here sees that nothing loads it.
    known = {*sys.stdlib_module_names, "typing_extensions"}
    assert not {name for name in foreign if name.split(".")[0] not in known}


def test_client_and_broker_share_only_the_wire() -> None:
    for module in MODULES:
        for one, other in (("client", "broker"), ("broker", "client")):
            if module.startswith(f"{one}."):
                assert not [name for name in _inside(module) if name.startswith(f"{other}.")], module


def test_import_cpspika_loads_no_third_party_module_and_warns_of_nothing() -> None:
    script = (
        "import sys; before = set(sys.modules); import cpspika;"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, cwd=ROOT.parent, check=False
    )
    assert (done.stderr, done.stdout.split()) == ("", ["cpspika"])
