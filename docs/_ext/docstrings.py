"""Shows the docstrings of cpspika, which are prose for help(), as reStructuredText for autodoc.

- A paragraph "name: text. other: text." about arguments becomes a list of parameters; "Result:" and "Errors:" become
  fields.
- What is indented by four becomes a block of code.
- A name in backticks that has an entry in the reference becomes a link, and so does the name of an error.
- The operations of a style other than the core and the synchronous facade get their first sentence alone, and a link
  to the whole text at the core's `Channel` or `Connection`.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

from sphinx.application import Sphinx

import cpspika
from cpspika.styles.lifting import attributes, operations, other_methods, registrations

CORE = {"Channel": cpspika.Channel, "Connection": cpspika.Connection}
LIFTED = {
    name: {*attributes(core), *operations(core), *other_methods(core), *registrations(core)}
    for name, core in CORE.items()
}
WHOLE = re.compile(r"cpspika\.(Sync)?(Channel|Connection)\.")
FACADE = re.compile(r"cpspika\..*?(?:Asyncio|Twisted|Trio|Task|Threaded)(Channel|Connection)\.(\w+)$")
FIELD = re.compile(r"(?:^|(?<=[.;)])\s+)((?:[a-z]\w*(?:\([^)]*\))?, )*[a-z]\w*(?:\([^)]*\))?|Errors|Result): ")
WORD = re.compile(r"(?<![\w`.])(" + "|".join(sorted(cpspika.errors.__all__, key=len, reverse=True)) + r")(?![\w`])")


def rewrite(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    text = inspect.cleandoc("\n".join(lines))
    elsewhere = FACADE.match(name)
    if elsewhere and elsewhere[2] in LIFTED[elsewhere[1]] and what != "class":
        lines[:] = _in_short(text, elsewhere[1], elsewhere[2])
        return
    parameters = set(_parameters(obj))
    lines[:] = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines += [*_paragraph(paragraph, name, parameters), ""]


def _in_short(text: str, core: str, member: str) -> list[str]:
    first = re.split(r"(?<=\.)\s", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0]
    whole = f":py:obj:`The whole text <cpspika.{core}.{member}>`"
    return [f"{_inline(first, f'cpspika.{core}.{member}')} {whole}." if first else f"{whole}.", ""]


def _parameters(obj: Any) -> list[str]:
    try:
        return list(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        return []


def _paragraph(text: str, name: str, parameters: set[str]) -> list[str]:
    lines = text.split("\n")
    if all(line.startswith("    ") for line in lines if line):
        if re.match(r" {4}[a-z]\w*(, \w+)*: ", text):
            return _list_of_names(textwrap.dedent(text), name)
        language = "text" if not re.search(r"[(=]", text) else "python"
        return [f".. code-block:: {language}", "", *lines]
    if re.match(r"\s*(- |\d\. )", text):
        return [_inline(line, name) for line in lines]
    code = next((number for number, line in enumerate(lines) if line.startswith("    ")), None)
    if code is not None:
        return [*_paragraph("\n".join(lines[:code]), name, parameters), "",
                *_paragraph("\n".join(lines[code:]), name, parameters)]  # fmt: skip
    joined = " ".join(line.strip() for line in lines)
    return _fields(joined, name, parameters) or [_inline(joined, name)]


def _list_of_names(text: str, name: str) -> list[str]:
    """Lines "name: text", of which some go on in lines that are indented, as a list."""
    items = re.split(r"\n(?=\S)", text)
    return [f"- ``{item.partition(': ')[0]}``: {_inline(' '.join(item.partition(': ')[2].split()), name)}"
            for item in items]  # fmt: skip


def _fields(text: str, name: str, parameters: set[str]) -> list[str]:
    """The paragraph as a field list; empty: it is prose."""
    found = [field for field in FIELD.finditer(text) if _is_field(field[1], parameters)]
    if not found or found[0].start() > 0:
        if found and found[0][1] in ("Errors", "Result"):  # "Removes it. Errors: NotFound (404), ..."
            start = found[0].start(1)
            return [_inline(text[:start].strip(), name), "", *_fields(text[start:], name, parameters)]
        return []
    ends = [*(field.start() for field in found[1:]), len(text)]
    lines = []
    for field, end in zip(found, ends, strict=True):
        body = _inline(text[field.end() : end].strip(), name)
        if field[1] in ("Errors", "Result"):
            lines.append(f":{field[1]}: {body}")
        else:
            lines.append(f":param {_escaped(field[1])}: {body}")
    return lines


def _escaped(names: str) -> str:
    """Several names stay one field: "routing_key, arguments"; a comma and a space would be a type."""
    return names.replace(", ", ",\N{NO-BREAK SPACE}")


def _is_field(names: str, parameters: set[str]) -> bool:
    if names in ("Errors", "Result"):
        return True
    bare = [each.partition("(")[0] for each in re.sub(r"\([^)]*\)", "", names).split(", ")]
    return any(each in parameters for each in bare)


def _inline(text: str, name: str) -> str:
    """Backticks as roles; the rest as it is, with errors linked."""
    parts = re.split(r"`([^`]+)`", text)
    shown = []
    for number, part in enumerate(parts):
        if number % 2:
            shown.append(_code(part, name))
        else:
            part = re.sub(r"([*_|\\])(?=\w|$)|(?<=\w)([*_])(?=\W|$)", lambda found: "\\" + found[0], part)
            shown.append(WORD.sub(lambda found: f":py:exc:`~cpspika.{found[1]}`", part))
    return "".join(shown)


def _code(text: str, name: str) -> str:
    target = _target(text, name)
    return f":py:obj:`{text} <{target}>`" if target else f"``{text}``"


def _target(text: str, name: str) -> str | None:
    """The entry that a name in backticks stands for."""
    bare = text.removesuffix("()").removeprefix("cpspika.")
    if not re.fullmatch(r"\w+(\.\w+)*", bare) or bare == name.rpartition(".")[2]:
        return None
    owner, _, member = bare.rpartition(".")
    if not owner and bare in cpspika.__all__ and bare not in ("broker", "__version__"):
        return f"cpspika.{bare}"
    classes = [owner] if owner else [*re.findall(r"cpspika\.(\w+)", name), "Channel", "Connection", "Message"]
    for each in classes:
        cls = getattr(cpspika, each, None)
        if inspect.isclass(cls) and callable(getattr(cls, member, None)) and not member.startswith("_"):
            return f"cpspika.{each}.{member}"
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", rewrite)
    return {"parallel_read_safe": True}
