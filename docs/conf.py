"""Sphinx configuration; built with -W in the gate, and without network."""

import sys
from pathlib import Path

import dni

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "dni"
author = "The dni developers"
release = dni.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "back",
    "bases",
    "dark",
    "formulas",
    "inventories",
]
exclude_patterns = ["build", "_extensions", "_static", "inventories"]

html_math_renderer = "mathml"  # _extensions/formulas.py
html_theme = "furo"
pygments_dark_style = "github-dark"  # furo's own underlines what is imported
html_title = f"dni {release}"
html_static_path = ["_static"]
html_css_files = ["dni.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "exclude-members": "extra_repr",
}
autosummary_generate = False  # the API pages are written by hand
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shapes", ("Buffers", "params_style")]
maximum_signature_line_length = 80
python_display_short_literal_types = True

inventories = {
    "python": "https://docs.python.org/3/",
    "torch": "https://docs.pytorch.org/docs/stable/",
}
nitpicky = True
nitpick_ignore = [
    ("py:class", "dni.decoupling.attach.Model"),  # a type variable: any module
]
