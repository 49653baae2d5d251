"""The target of egress that the role verify derives from an image."""

from __future__ import annotations

import jinja2
import pytest
import yaml

from tests.support import ROOT


@pytest.mark.parametrize(
    ("image", "target"),
    [
        ("registry.access.redhat.com/ubi9/python-312-minimal:latest", "registry.access.redhat.com:443"),
        ("quay.io/a/b@sha256:0123", "quay.io:443"),
        ("mirror.example:5000/a/b:1", "mirror.example:5000"),
        ("localhost/a:1", "localhost:443"),
        # Without a host, the tag is not a port.
        ("python:3.12", "registry-1.docker.io:443"),
        ("library/python:3.12", "registry-1.docker.io:443"),
        ("docker.io/library/python", "registry-1.docker.io:443"),
    ],
)
def test_egress_is_verified_to_the_registry_of_the_image(image: str, target: str):
    files = [ROOT / "roles/verify" / name / "main.yml" for name in ("vars", "defaults")]
    written = {name: value for file in files for name, value in yaml.safe_load(file.read_text()).items()}
    variables = {"verify_image": image}
    for name in ("verify_first", "verify_host", "verify_registry", "verify_egress"):
        variables[name] = jinja2.Environment().from_string(written[name]).render(variables)
    assert variables["verify_egress"] == target
