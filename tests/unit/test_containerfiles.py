"""The Containerfiles of both containers are the same, except for names and ports."""

from __future__ import annotations

from tests.support import ROOT

NAMES = {
    "webhook": ("peerpods-webhook", "peerpods_webhook", "EXPOSE 9443 8080"),
    "node_capacity": ("peerpods-node-capacity", "peerpods_node_capacity", "EXPOSE 8081"),
}


def template(container: str) -> str:
    """The Containerfile, without the names and ports of its container."""
    text = (ROOT / "containers" / container / "Containerfile").read_text()
    for number, name in enumerate(NAMES[container]):
        assert name in text
        text = text.replace(name, f"<{number}>")
    return text


def test_the_containerfiles_differ_in_names_and_ports_only():
    webhook, node_capacity = (template(container) for container in NAMES)
    assert webhook == node_capacity


def test_both_containers_ignore_the_same_files():
    webhook, node_capacity = ((ROOT / "containers" / c / ".containerignore").read_text() for c in NAMES)
    assert webhook == node_capacity
