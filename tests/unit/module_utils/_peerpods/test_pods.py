from __future__ import annotations

from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.names import EXTENDED_RESOURCE
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.pods import peer_pods_by_node

from tests.unit.module_utils._peerpods.objects import pod


def test_every_pod_with_a_vm_counts_once():
    vm = {EXTENDED_RESOURCE: "1"}
    used = peer_pods_by_node(
        [
            pod("a", "kata-remote", vm),
            pod("a", "kata-remote"),
            pod("a", None, {"cpu": "1"}, vm),
            pod("a", None, {"cpu": "1"}),
            pod("b", "kata", {"cpu": "1"}),
        ]
    )
    assert used == {"a": 3}
