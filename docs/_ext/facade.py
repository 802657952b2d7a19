"""The directive `errors`: entries of error classes. The directive `facade`: a connection or channel of some style, its
operations in the groups of docs/api.md.

    ```{facade} cpspika.SyncChannel
    ```

autodoc by itself would give the operations, which are inherited, in the order of the alphabet.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from docstrings import inline, of_attribute
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from cpspika.styles.lifting import attribute_doc

API = Path(__file__).parent.parent / "api.md"


def groups() -> dict[str, list[str]]:
    """The rows of the table of operations: "exchanges": ["exchange_declare", ...]."""
    table = API.read_text("utf-8").partition("| operations of a channel |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\w[^|`]*) \| (`.*) \|$", table, re.MULTILINE)
    return {title: re.findall(r"`(\w+)`", names) for title, names in rows}


def members(cls: Any) -> list[str]:
    """The public ones, in the order of their definition, the class's own first."""
    found: dict[str, None] = {}
    for base in cls.__mro__[:-1]:
        for name in (*inspect.get_annotations(base), *vars(base)):
            if not name.startswith("_") and base.__module__.startswith("cpspika"):
                found[name] = None
    annotated = {name for base in cls.__mro__ for name in inspect.get_annotations(base)}
    # A name of another library that is there for a hint in its error raises AttributeError.
    return [name for name in found if name in annotated or hasattr(cls, name)]


class Facade(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].rpartition(".")
        cls = getattr(import_module(module), name)
        rest = members(cls)
        titled = {title: [each for each in names if each in rest] for title, names in groups().items()}
        if "basic_publish" not in rest:
            titled = {}
        grouped = {each for names in titled.values() for each in names}
        methods = {each for each in rest if inspect.isroutine(getattr(cls, each, None))}
        lines = [f".. autoclass:: {self.arguments[0]}", "   :no-members:", "   :no-inherited-members:", ""]
        for title, names in {
            "": [each for each in rest if each not in methods and each not in grouped],
            "calls": [each for each in rest if each in methods and each not in grouped],
            **titled,
        }.items():
            if names and title and titled:
                lines += [f"   .. rubric:: {title.capitalize() if title != 'calls' else 'Of this style'}", ""]
            for each in names:
                kind = "method" if each in methods else self._kind(cls, each)
                lines += [f"   .. auto{kind}:: {each}", ""]
                if kind == "attribute":  # one that only an annotation declares: the class's docstring tells of it
                    text = of_attribute(attribute_doc(cls, each) or "", each)
                    lines += [f"      {inline(text, f'{self.arguments[0]}.{each}')}", ""]
        return self.parse_text_to_nodes("\n".join(["```{eval-rst}", *lines, "```"]))

    @staticmethod
    def _kind(cls: Any, name: str) -> str:
        return "property" if isinstance(inspect.getattr_static(cls, name, None), property) else "attribute"


class Errors(SphinxDirective):
    """An entry for each class of `cpspika` that is named, without the members that all errors have."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        lines = []
        for name in self.content:
            options = ("no-members", "no-inherited-members", "show-inheritance")
            lines += [f".. autoexception:: cpspika.{name}", *(f"   :{option}:" for option in options), ""]
        return self.parse_text_to_nodes("\n".join(["```{eval-rst}", *lines, "```"]))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("errors", Errors)
    app.add_directive("facade", Facade)
    return {"parallel_read_safe": True}
