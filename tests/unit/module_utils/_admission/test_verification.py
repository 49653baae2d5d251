from __future__ import annotations

from ansible_collections.osc.peerpods.plugins.module_utils._admission.verification import probe_pod


def test_the_probe_matches_the_selector_and_has_resources():
    pod = probe_pod("kata-remote", {"matchLabels": {"team": "a"}})
    assert pod["metadata"]["labels"] == {"team": "a"}
    assert pod["spec"]["runtimeClassName"] == "kata-remote"
    assert pod["spec"]["containers"][0]["resources"]["requests"]
