"""Sphinx's settings. `make docs` builds, and takes every warning for an error."""

import dploylib

project = "dploylib"
author = "the dploylib authors"
project_copyright = author
version = release = dploylib.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "dploylib"
pygments_style = "default"

# Single backticks in docstrings are Python names; those that are documented become links.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
myst_heading_anchors = 3
