from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.image_names import image_version


@pytest.mark.parametrize(
    ("cluster_id", "version"),
    [("0f9f3c6e-6d1c", "262093934.0.1"), ("ffffffff-0", "2147483647.0.1"), ("none", "0.0.1"), ("", "0.0.1")],
)
def test_the_version_of_an_image(cluster_id: str, version: str):
    assert image_version(cluster_id) == version
