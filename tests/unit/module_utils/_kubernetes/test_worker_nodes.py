"""Which instances the cluster's nodes say they are."""

from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._kubernetes.worker_nodes import (
    WorkerNodesError,
    provider_ids,
)


def node(name: str, **spec: str) -> dict:
    return {"metadata": {"name": name}, "spec": spec}


def test_every_node_needs_a_provider_id():
    known = node("w-0", providerID="aws:///a/i-0a1b2c3d")
    assert provider_ids([known], "worker", "group_ids") == ("aws:///a/i-0a1b2c3d",)
    nameless = [node("w-1"), node("w-2", providerID="")]
    with pytest.raises(WorkerNodesError, match=r"^w-1, w-2 have no spec\.providerID, so .* by ids\."):
        provider_ids([known, *nameless], "worker", "ids")
    with pytest.raises(WorkerNodesError, match=r"no node with the labels worker\. Give .* by ids\."):
        provider_ids([], "worker", "ids")
