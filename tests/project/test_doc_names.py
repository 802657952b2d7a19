"""The documents name modules, functions and public names as they are, and leave out no module and no public name."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import cpspika

PACKAGE = Path(cpspika.__file__).parent
ROOT = PACKAGE.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"`([^`\n]+)`")
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FUNCTION = re.compile(r"([\w/]+\.py): ([\w.]+)")  # `client/channel.py: Channel._handle`
FILE = re.compile(r"[\w./]+\.(?:py|pyi|md|toml|cfg|yaml|in)")
FOLDER = re.compile(r"[\w./]+/")
DOTTED = re.compile(r"cpspika(?:\.\w+)+")
LINK = re.compile(r"\]\(([^)#]+)?(?:#[^)]*)?\)")
EXTRAS = ("kombu", "trio", "twisted")


def _spans(document: Path) -> list[str]:
    """What stands in backticks, outside of blocks of code."""
    return CODE.findall(BLOCK.sub("", document.read_text("utf-8")))


def _spans_of_all() -> list[tuple[str, str]]:
    return [(document.name, span) for document in DOCUMENTS for span in _spans(document)]


def _matching(pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    """(document, span) of the spans that are such a name as a whole."""
    found = [(document, span) for document, span in _spans_of_all() if pattern.fullmatch(span)]
    assert found, f"no document has a span like {pattern.pattern}: the test sees nothing"
    return found


def _is_installed(extra: str) -> bool:
    # A module that is loaded may have no spec: kombu puts an object of its own in its place.
    return extra in sys.modules or find_spec(extra) is not None


def _exists(name: str) -> bool:
    """A path from the root, from the package or from the documents; or the bare name of a file of the tests."""
    bases = (ROOT, PACKAGE, PACKAGE / "integrations", ROOT / "docs")
    return any((base / name).exists() for base in bases) or ("/" not in name and any(ROOT.glob(f"tests/**/{name}")))


def _resolve(dotted: str) -> Any:
    """The module or attribute that a dotted name stands for. AttributeError, ImportError: there is none."""
    found: Any = cpspika
    for name in dotted.split(".")[1:]:
        try:
            found = getattr(found, name)
        except AttributeError:
            found = import_module(f"{found.__name__}.{name}")
    return found


def test_files_and_folders_exist() -> None:
    # Programs that a document shows have names too: they are written to files by test_docs.py.
    shown = {
        name for document in DOCUMENTS for name in re.findall(r"^# (\w+\.py)$", document.read_text(), re.MULTILINE)
    }
    named = {*_matching(FILE), *_matching(FOLDER)}
    assert not sorted((document, name) for document, name in named if name not in shown and not _exists(name))


def test_functions_exist() -> None:
    wrong = []
    for document, span in _matching(FUNCTION):
        path, function = FUNCTION.fullmatch(span).groups()  # type: ignore[union-attr]
        try:
            _resolve(".".join(["cpspika", *path.removesuffix(".py").split("/"), function]))
        except (AttributeError, ImportError):
            wrong.append((document, span))
    assert not wrong


def test_dotted_names_exist() -> None:
    wrong = []
    for document, span in _matching(DOTTED):
        extra = next((extra for extra in EXTRAS if extra in span), None)
        if extra is not None and not _is_installed(extra):
            continue
        try:
            _resolve(span)
        except (AttributeError, ImportError):
            wrong.append((document, span))
    assert not wrong


def test_names_in_the_tables_of_modules_exist() -> None:
    """`| `cpspika.tasks` | `run`, `spawn` |` in docs/api.md."""
    wrong, rows = [], 0
    for row in re.findall(r"^\| (`cpspika\..*)\|$", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE):
        module, *names = CODE.findall(row)
        extra = next((extra for extra in EXTRAS if extra in module), None)
        if extra is None or _is_installed(extra):
            rows += 1
            found = import_module(module)
            wrong += [(module, name) for name in names if name.isidentifier() and not hasattr(found, name)]
    assert rows
    assert not wrong


def test_links_between_documents_lead_somewhere() -> None:
    targets = [
        (document, target) for document in DOCUMENTS for target in LINK.findall(document.read_text("utf-8")) if target
    ]
    assert targets
    assert not [(document.name, target) for document, target in targets if not (document.parent / target).exists()]


def test_the_architecture_names_every_module() -> None:
    """Each in the section of its folder ("### `wire/`: the protocol"), those of no folder in the table of layers."""
    titled = re.split(r"^##+ (.*)$", (ROOT / "docs" / "architecture.md").read_text("utf-8"), flags=re.MULTILINE)
    sections = dict(zip(titled[1::2], titled[2::2], strict=True))
    missing = []
    for path in PACKAGE.rglob("*.py"):
        title = "Layers" if path.parent == PACKAGE else f"`{path.parent.name}/`"
        text = "".join(text for heading, text in sections.items() if title in heading)
        if path.stem != "__init__" and path.stem not in CODE.findall(text):
            missing.append(path.relative_to(PACKAGE).as_posix())
    assert not missing


@pytest.mark.parametrize("name", sorted({*cpspika.__all__, *cpspika.errors.__all__} - {"__version__"}))
def test_the_reference_names_every_public_name(name: str) -> None:
    assert name in {span.removeprefix("cpspika.").partition("(")[0] for span in _spans(ROOT / "docs" / "api.md")}


def test_the_reference_names_every_operation() -> None:
    marks = ("__operation__", "__registration__")
    spans = {span.partition("(")[0] for span in _spans(ROOT / "docs" / "api.md")}
    for core in (cpspika.Connection, cpspika.Channel):
        marked = {name for name in dir(core) if any(hasattr(getattr(core, name), mark) for mark in marks)}
        assert marked
        assert not marked - spans
