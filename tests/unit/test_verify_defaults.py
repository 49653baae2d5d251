"""The target of egress that the role verify derives from an image and from the cluster-wide proxy."""

from __future__ import annotations

import jinja2
import pytest
import yaml

from tests.support import ROOT

IMAGE = "registry.access.redhat.com/ubi9/python-312-minimal:latest"


def target_of(image: str, proxy: dict | None = None) -> str:
    files = [ROOT / "roles/verify" / name / "main.yml" for name in ("vars", "defaults")]
    written = {name: value for file in files for name, value in yaml.safe_load(file.read_text()).items()}
    variables = {"verify_image": image, "cluster_prerequisites_cluster": {"details": {"proxy": proxy}}}
    for name in [*filter(_decides, written), "verify_egress"]:
        variables[name] = jinja2.Environment().from_string(written[name]).render(variables)
    return variables["verify_egress"]


def _decides(name: str) -> bool:
    return name in ("verify_first", "verify_host") or name.startswith(("verify_registry", "verify_proxy"))


@pytest.mark.parametrize(
    ("image", "target"),
    [
        (IMAGE, "registry.access.redhat.com:443"),
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
    assert target_of(image) == target
    assert target_of(image, {"https_proxy": None}) == target


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://proxy.example:3128", "proxy.example:3128"),
        ("http://***@proxy.example:3128/", "proxy.example:3128"),
        ("http://proxy.example", "proxy.example:80"),
        ("https://proxy.example", "proxy.example:443"),
        ("http://[fd00::1]:3128", "[fd00::1]:3128"),
        ("http://[fd00::1]", "[fd00::1]:80"),
    ],
)
def test_in_a_cluster_with_a_proxy_egress_is_verified_to_the_proxy(url: str, target: str):
    """A healthy cluster may have no other way out."""
    assert target_of(IMAGE, {"https_proxy": url}) == target
