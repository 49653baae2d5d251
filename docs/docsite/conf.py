"""The configuration of Sphinx, which builds the docs site from what antsibull-docs wrote; `make docs` runs both."""

from __future__ import annotations

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

project = "osc.peerpods"
copyright = "The osc.peerpods authors"
extensions = ["sphinx_antsibull_ext"]
html_theme = "furo"
html_title = "osc.peerpods"
html_static_path = ["_static"]
html_css_files = ["site.css"]
pygments_style = "ansible"
default_role = "any"


def remove_contents(app: Sphinx, tree: nodes.document) -> None:
    """Remove the table of contents that antsibull-docs puts on each page, and the links of the titles to it.

    Furo shows a table of contents next to each page, and an error box instead of a second one.
    """
    for topic in list(tree.findall(lambda node: isinstance(node, nodes.topic) and "contents" in node["classes"])):
        topic.parent.remove(topic)
    for title in tree.findall(nodes.title):
        title.attributes.pop("refid", None)


def unlink_other_collections(
    app: Sphinx, env: BuildEnvironment, reference: pending_xref, text: nodes.TextElement
) -> nodes.TextElement | None:
    """Show links to the pages of other collections and of Ansible, which are not built here, as text."""
    return None if reference["reftarget"].startswith("ansible_collections.osc.peerpods.") else text


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", remove_contents)
    app.connect("missing-reference", unlink_other_collections)
