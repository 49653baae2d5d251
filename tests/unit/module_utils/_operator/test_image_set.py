from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_set import (
    ImageSetError,
    image_set_configuration,
)

from tests.support import ROOT, ansible_environment


def package(*arguments: object) -> dict:
    (catalog,) = image_set_configuration(*arguments)["mirror"]["operators"]
    (package,) = catalog["packages"]
    return {**package, "catalog": catalog["catalog"].rpartition(":")[2]}


NAME = "sandboxed-containers-operator"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("4.18", "stable"), {"channels": [{"name": "stable"}], "catalog": "v4.18"}),
        (("4.18.38", "stable"), {"channels": [{"name": "stable"}], "catalog": "v4.18"}),
        (
            ("4.20.0-rc.1", "stable", "1.13.0"),
            {"channels": [{"name": "stable", "minVersion": "1.13.0"}], "catalog": "v4.20"},
        ),
        (
            ("4.18", "stable", f"{NAME}.v1.12.1"),
            {"channels": [{"name": "stable", "minVersion": "1.12.1"}], "catalog": "v4.18"},
        ),
        # The catalog must have the default channel that the package names.
        (
            ("4.18", "candidate"),
            {"defaultChannel": "candidate", "channels": [{"name": "candidate"}], "catalog": "v4.18"},
        ),
    ],
)
def test_the_operator_of_a_channel(arguments, expected):
    assert package(*arguments) == {"name": NAME, **expected}


def test_further_images_are_listed_once():
    configuration = image_set_configuration("4.18", "stable", "", ["a:1", "", "b@sha256:0", "a:1"])
    assert configuration["mirror"]["additionalImages"] == [{"name": "a:1"}, {"name": "b@sha256:0"}]
    assert "additionalImages" not in image_set_configuration("4.18", "stable")["mirror"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "stable"), "'' is not a version of OpenShift"),
        (("stable-4.18", "stable"), "'stable-4.18' is not a version of OpenShift"),
        (("4.18", ""), "'' is not the name of a channel"),
        (("4.18", "a b"), "'a b' is not the name of a channel"),
        (("4.18", "stable", "newest"), "'newest' is not a version of the operator"),
        (("4.18", "stable", "other-operator.v1.0.0"), "is not a version of the operator, such as 1.13.0"),
    ],
)
def test_bad_values_are_reported(arguments, message):
    with pytest.raises(ImageSetError, match=re.escape(message)):
        image_set_configuration(*arguments)


def test_the_guide_shows_what_is_written():
    guide = (ROOT / "docs/docsite/rst/guide_disconnected.rst").read_text()
    blocks = re.findall(r"code-block:: yaml\n\n((?:   .*\n|\n)+)", guide)
    (shown,) = [loaded for block in blocks if (loaded := yaml.safe_load(block)).get("kind") == "ImageSetConfiguration"]
    defaults = yaml.safe_load((ROOT / "roles/operator_install/defaults/main.yml").read_text())
    images = defaults["operator_install_image_set_images"]
    assert shown == image_set_configuration("4.18", "stable", "1.13.0", images)


def test_the_playbook_needs_no_cluster(tmp_path: Path):
    completed = subprocess.run(
        [
            "ansible-playbook",
            str(ROOT / "playbooks/image_set.yml"),
            "--extra-vars=operator_install_image_set_openshift=4.20 operator_install_starting_csv=1.13.0",
        ],
        cwd=tmp_path,
        env=ansible_environment({"K8S_AUTH_KUBECONFIG": "/none"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    written = yaml.safe_load((tmp_path / "imageset-config.yaml").read_text())
    defaults = yaml.safe_load((ROOT / "roles/operator_install/defaults/main.yml").read_text())
    images = defaults["operator_install_image_set_images"]
    assert written == image_set_configuration("4.20", "stable", "1.13.0", images)
    assert "oc-mirror --v2 --config" in completed.stdout
