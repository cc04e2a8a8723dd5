"""How Sphinx makes the site: of the pages where they stand, which are read on a code host as well.

`make docs` builds it in build/site.
"""

import importlib.metadata
import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

project = "makemore_ext"
author = "the makemore_ext developers"
version = release = importlib.metadata.version("makemore_ext")
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "examples/*.ipynb",
    "examples/*/README.md",
    "benchmarks/README.md",
    "csrc/README.md",
    "cuda_bench/README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
]
extensions = [
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]

# ---- Markdown ----

myst_enable_extensions = ["amsmath", "dollarmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are committed with what they print, which a test repeats

# ---- docstrings ----

default_role = "literal"  # `name`
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_use_ivar = True

# ---- formulas: MathML, which browsers show without a script of another host ----


def _math(translator: Any, node: nodes.Element) -> None:
    display = "inline" if isinstance(node, nodes.math) else "block"
    # A name of several letters is one word.
    words = re.sub(r"\\mathit\{([^}]*)\}", lambda m: rf"\text{{{m[1]}}}", node.astext())
    translator.body.append(convert(words.replace(r"\_", "_"), display=display))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer(
        "mathml", inline_renderers=(_math, None), block_renderers=(_math, None)
    )


html_math_renderer = "mathml"

# ---- looks ----

html_theme = "furo"
html_title = "makemore_ext"
html_static_path: list[str] = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_root"]  # an index.html where a browser looks for it
copybutton_prompt_text = "$ "
