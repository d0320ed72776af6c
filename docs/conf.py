"""Sphinx configuration; warnings are errors (``make docs``)."""

import snntorch_bpsta

project = "snntorch-bpsta"
copyright = "2026, the snntorch-bpsta developers"
release = version = snntorch_bpsta.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.doctest"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "snntorch-bpsta"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shape"]
strip_signature_backslash = True  # or napoleon prints `input_` as `input`
