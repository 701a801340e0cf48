"""The documentation's configuration.

Builds offline and runs no notebook: the tutorials are committed with their outputs.
"""

from __future__ import annotations

import os
import shutil
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import NumpyDocstring

DOCS = Path(__file__).parent
TUTORIALS = DOCS.parent / "tutorials"

# -- the project ----------------------------------------------------------------------------

project = "scldm"
author = "the scldm developers"
copyright = f"2026, {author}"
release = installed_version("scldm-tools")
version = release

# -- sphinx ---------------------------------------------------------------------------------

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

# Links into other projects need the network, so only a build that asks for them has them.
if os.environ.get("READTHEDOCS") == "True" or os.environ.get("SCLDM_DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
intersphinx_mapping = {
    "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
    "mudata": ("https://mudata.readthedocs.io/stable/", None),
    "numpy": ("https://numpy.org/doc/stable/", None),
    "pandas": ("https://pandas.pydata.org/docs/", None),
    "python": ("https://docs.python.org/3/", None),
    "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
    "scipy": ("https://docs.scipy.org/doc/scipy/", None),
    "scvi": ("https://docs.scvi-tools.org/en/stable/", None),
    "torch": ("https://docs.pytorch.org/docs/stable/", None),
}

# -- the reference --------------------------------------------------------------------------

autosummary_generate = True
# A room's page lists what its ``__all__`` lists.
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_member_order = "bysource"
# Types stand in the signatures; the descriptions take them from there.
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = False
napoleon_use_rtype = False

# -- pages and notebooks --------------------------------------------------------------------

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
# Progress bars that a notebook kept as widgets fall back to their text.
suppress_warnings = ["mystnb.unknown_mime_type"]

# -- html -----------------------------------------------------------------------------------

html_theme = "sphinx_book_theme"
html_title = f"scldm {release}"
html_show_sourcelink = False
html_theme_options = {"show_navbar_depth": 1}


def copy_tutorials() -> None:
    """Bring the notebooks of the top-level folder to where Sphinx can see them.

    Its README becomes the section's first page and gets a table of contents of the notebooks.
    """
    target = DOCS / "tutorials"
    shutil.rmtree(target, ignore_errors=True)
    ignored = shutil.ignore_patterns(".ipynb_checkpoints", "README.md", "*.h5ad", "*.h5mu")
    shutil.copytree(TUTORIALS, target, ignore=ignored)
    page = (TUTORIALS / "README.md").read_text(encoding="utf-8")
    names = sorted(path.stem for path in target.glob("*.ipynb"))
    if names:
        page += "\n".join(["\n```{toctree}", ":maxdepth: 1", ":hidden:", "", *names, "```\n"])
    (target / "index.md").write_text(page, encoding="utf-8")


copy_tutorials()


def parse_returns(self: NumpyDocstring, section: str) -> list[str]:
    """Read a "Returns" section as prose: the type stands in the signature.

    Numpy's own rule would take the first line of an untyped section for a type.
    """
    lines = self._dedent(self._consume_to_next_section())
    while lines and not lines[-1]:
        lines.pop()
    return [*self._format_block(":returns: ", lines), ""] if lines else []


def skip_foreign_member(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what a class inherits from torch, Lightning or scvi-tools."""
    if what != "class":
        return None
    owner = getattr(obj, "__func__", None) or getattr(obj, "fget", None) or obj
    module = getattr(owner, "__module__", None)
    if isinstance(module, str) and not module.startswith("scldm"):
        return True
    return None


def setup(app: Sphinx) -> None:
    """Connect the hooks above."""
    NumpyDocstring._parse_returns_section = parse_returns
    app.connect("autodoc-skip-member", skip_foreign_member)
