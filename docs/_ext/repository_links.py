"""Makes links that are right in the repository right in the site as well.

- A page such as docs/changelog.md stands for a file of the repository's root; in the site it has the text of this file.
- A link to such a file becomes one to its page: (../RELEASING.md), (docs/styles.md) in a file of the root.
- A link whose text is the name of a page's file gets the title of the page.
- A link to a folder or a program of the repository, which the site does not have, becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent.parent
PAGES = {
    "CHANGELOG.md": "docs/changelog.md",
    "CONTRIBUTING.md": "docs/contributing.md",
    "RELEASING.md": "docs/releasing.md",
    "SECURITY.md": "docs/security.md",
    "README.md": "docs/index.md",
}
LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def rewrite(app: Sphinx, docname: str, source: list[str]) -> None:
    page = f"docs/{docname}.md"
    written_in = page  # the file whose folder its links start from
    for file, stands_in in PAGES.items():
        if stands_in == page and file != "README.md":
            source[0], written_in = (ROOT / file).read_text("utf-8"), file
            app.env.note_dependency(str(ROOT / file))

    def linked(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(written_in), target))
        path = PAGES.get(path, path)
        if path.startswith("docs/"):
            text = "" if text.endswith(".md") else text  # MyST puts the title of the page for it
            return f"[{text}]({posixpath.relpath(path, posixpath.dirname(page))}{anchor})"
        if (ROOT / path).exists():
            return text if "`" in text else f"`{text}`"
        return found[0]

    source[0] = LINK.sub(linked, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", rewrite)
    return {"parallel_read_safe": True}
