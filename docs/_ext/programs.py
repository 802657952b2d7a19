"""The directive `programs`: one program in every style, a tab for each, from files that the tests run.

    ```{programs} examples/tutorials/1_hello/<style>/send.py
    ```

<style> is the folder of each style: "sync", "asyncio"... Several paths give several programs in each tab. All tabs of
the site turn together: a reader chooses a style once.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parent.parent.parent
STYLES = {
    "sync": "Synchronous",
    "callbacks": "Callbacks",
    "asyncio": "asyncio",
    "tasks": "Tasks",
    "threads": "Threads",
    "trio": "trio",
    "twisted": "Twisted",
    "greenlets": "Greenlets",
}
OTHER_NAMES = {"callbacks": "async"}  # the folder of the callbacks' examples outside of the tutorials


class Programs(SphinxDirective):
    required_arguments = 1
    optional_arguments = 100

    def run(self) -> list[nodes.Node]:
        up = "../" * (self.env.docname.count("/") + 1)
        lines = ["::::{tab-set}", ":sync-group: style", ""]
        for style, title in STYLES.items():
            lines += [f":::{{tab-item}} {title}", f":sync: {style}", ""]
            for pattern in self.arguments:
                path = self._path(pattern, style)
                lines += [f"```{{literalinclude}} {up}{path}", f":caption: {path}", "```", ""]
            lines += [":::", ""]
        return self.parse_text_to_nodes("\n".join([*lines, "::::"]))

    def _path(self, pattern: str, style: str) -> str:
        for folder in (style, OTHER_NAMES.get(style, style)):
            path = pattern.replace("<style>", folder)
            if (ROOT / path).is_file():
                return path
        raise self.error(f"no program {pattern.replace('<style>', style)}")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("programs", Programs)
    return {"parallel_read_safe": True}
