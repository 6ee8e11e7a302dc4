"""The site: the guide, tutorials with their outputs, results, and the API from the docstrings."""

import sys
from pathlib import Path

from sae_lens_poly import __version__

sys.path.insert(0, str(Path(__file__).parent))

project = "sae_lens_poly"
author = "The sae_lens_poly authors"
release = __version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "myst_nb",
    "result_tables",
]
exclude_patterns = ["_templates"]
templates_path = ["_templates"]
html_theme = "furo"
nb_execution_mode = "off"  # "make tutorials" runs them; here they are shown as committed
myst_enable_extensions = ["dollarmath"]
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# What packages import again is documented where it is defined.
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
add_module_names = False
