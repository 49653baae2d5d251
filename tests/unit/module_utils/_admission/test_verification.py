from __future__ import annotations

from ansible_collections.osc.peerpods.plugins.module_utils._admission.verification import probe_pod


def test_the_probe_fits_the_selector_and_has_resources_to_lose():
    pod = probe_pod("kata-remote", {"matchLabels": {"team": "a"}})
    assert pod["metadata"]["labels"] == {"team": "a"}
    assert pod["spec"]["runtimeClassName"] == "kata-remote"
    assert pod["spec"]["containers"][0]["resources"]["requests"]
