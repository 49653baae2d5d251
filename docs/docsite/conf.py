"""How Sphinx makes the docs site of what antsibull-docs wrote; `make docs` runs both."""

project = "osc.peerpods"
copyright = "The osc.peerpods authors"
extensions = ["sphinx_antsibull_ext"]
html_theme = "furo"
html_title = "osc.peerpods"
pygments_style = "ansible"
default_role = "any"
# The pages of other collections are not built here.
suppress_warnings = ["ref.ref"]
