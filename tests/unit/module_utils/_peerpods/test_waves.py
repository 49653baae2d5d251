from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.waves import wave_problems

CANARY, GENERAL, OWN = {"name": "canary", "limit": 4}, {"name": "general"}, {"name": "peerpodconfig-openshift"}


@pytest.mark.parametrize(
    ("waves", "more", "problem"),
    [
        ([], {"pools": []}, None),
        ([CANARY, GENERAL], {}, None),
        ([CANARY, GENERAL, OWN], {"pools": ["canary", "general"]}, None),
        ([CANARY, CANARY], {}, "names a pool twice (canary, canary). Remove one"),
        # Two names of one pool, except where they are those of two PeerPodConfigs.
        (
            [OWN, {"name": "default"}],
            {"limit_in": "peer-pods-cm"},
            "names a pool twice (peerpodconfig-openshift, default)",
        ),
        ([OWN, {"name": "default"}], {"limit_in": "PeerPodConfig"}, None),
        ([{"name": ""}], {}, "has no name"),
        (
            [{"name": "Canary"}],
            {},
            "The wave Canary of peerpodconfig_rollout_waves is invalid: name must be a Kubernetes",
        ),
        (
            [{"name": "canary", "limit": -1}],
            {},
            "limit must be a whole number of peer pod VMs per node, 0 or more; got '-1'",
        ),
        ([{"name": "canary", "limit": "7"}], {}, None),
        ([{"name": "canary", "limit": ""}], {}, None),
        ([CANARY, GENERAL], {"pools": ["general"]}, "names pools that do not exist: canary. Create them"),
    ],
)
def test_waves_that_cannot_be_rolled_out_are_reported(waves: list[dict], more: dict, problem: str | None):
    problems = wave_problems(waves, **more)
    assert len(problems) == (1 if problem else 0), problems
    assert not problem or problem in problems[0]
