from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._peerpods.image_uri import uri_problem, uri_type


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("oci::quay.io/a/podvm", "oci"),
        ("oci::quay.io/a/podvm:1.0", "oci"),
        ("oci::quay.io/a/podvm:1.0::/image/podvm.qcow2", "oci"),
        ("oci::quay.io/a/podvm::/image/podvm.qcow2", "oci"),
        ("bootc::quay.io/a/podvm@sha256:0a1b", "bootc"),
        # The registry of the cluster. What follows its port counts as the tag, and both are joined again.
        ("bootc::image-registry.openshift-image-registry.svc:5000/a/podvm", "bootc"),
        ("oci::registry:5000/a/podvm:1.0", ""),
        ("oci::registry:5000/a/podvm@sha256:0a1b", ""),
        ("oci::quay.io/a/podvm:1.0@sha256:0a1b", ""),
        ("quay.io/a/podvm:1.0", ""),
        ("docker::quay.io/a/podvm", ""),
        ("oci::quay.io/a/pod vm", ""),
        ("oci::", ""),
    ],
)
def test_the_images_that_the_job_can_read(uri: str, expected: str):
    assert uri_type(uri) == expected
    assert bool(uri_problem(uri)) == (not expected)
    if not expected:
        assert f"got '{uri}'. The job splits it at its colons" in uri_problem(uri)


def test_no_image_is_given():
    assert uri_problem("") == ""
