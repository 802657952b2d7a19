"""How Sphinx makes the site of these pages: python -m sphinx -W --keep-going docs build/site"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "_ext")]

from cpspika import __version__  # noqa: E402 (found by the line above)

project = "cpspika"
author = "The cpspika developers"
project_copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_design",
    "sphinx_copybutton",
    # The project's own, in docs/_ext:
    "docstrings",
    "complete",
    "facade",
    "programs",
    "repository_links",
]

# A link to a page or a heading that does not exist is a warning, and the build turns warnings into errors.
nitpicky = True
# Types in signatures: aliases of the package, and classes of other packages, have no page.
nitpick_ignore_regex = [("py:class", r".*"), ("py:obj", r".*\.T$")]
# tasks and trio each have a class Promise, which signatures name without its module.
suppress_warnings = ["ref.python"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

autodoc_default_options = {"members": True, "undoc-members": True, "inherited-members": True}
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
add_module_names = False
smartquotes = False  # "--" is an option here
default_role = "code"

html_theme = "furo"
html_title = f"cpspika {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "default"
pygments_dark_style = "github-dark"
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
