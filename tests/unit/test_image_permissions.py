"""When the permissions to create an image are removed from the identity of cloud-api-adaptor: with the image."""

from __future__ import annotations

import jinja2
import pytest
import yaml

from tests.support import ROOT


@pytest.mark.parametrize(
    ("platform", "settings", "expected"),
    [
        ("AWS", [{"data": {"PODVM_AMI_ID": "ami-1"}}], True),
        ("Azure", [{"data": {"AZURE_IMAGE_ID": "/subscriptions/s"}}], True),
        ("Azure", [{"data": {"AZURE_IMAGE_ID": ""}}], False),
        ("AWS", [{"data": {"CLOUD_PROVIDER": "aws"}}], False),
        ("Azure", [{}], False),
        ("Azure", [], False),
    ],
)
def test_they_are_removed_when_the_image_exists(platform: str, settings: list[dict], expected: bool):
    written = yaml.safe_load((ROOT / "roles/operator_install/vars/main/main.yml").read_text())
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters["bool"] = lambda text: text == "True"
    variables = {
        "cluster_prerequisites_cluster": {"platform": platform},
        "operator_install_image_settings": {"resources": settings},
    }
    for name in ("operator_install_is_on_aws", "operator_install_has_image"):
        variables[name] = environment.from_string(written[name]).render(variables)
    assert variables["operator_install_has_image"] == str(expected)
