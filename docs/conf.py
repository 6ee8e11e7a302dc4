"""The site: tutorials with their outputs, and the API from the docstrings."""

from importlib.metadata import version as installed

project = "sae_lens_poly"
release = installed("sae-lens-poly")
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "myst_nb",
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
