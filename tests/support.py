"""Helpers to run ansible as a user does, for all kinds of tests."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
GUIDES = ROOT / "docs/docsite/rst"
OPERATOR_NAMESPACE = "openshift-sandboxed-containers-operator"

# The user agents of the Kubernetes client for Python, which all modules use, by version.
KUBERNETES_CLIENT = ("OpenAPI-Generator", "Swagger-Codegen")

# Settings for ansible output in JSON.
JSON_OUTPUT = {
    "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    "ANSIBLE_LOAD_CALLBACK_PLUGINS": "True",
}


def ansible_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of an ansible command without the settings of this machine."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("AWS_", "AZURE_", "K8S_AUTH_", "KUBE", "ANSIBLE_"))
    }
    return {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(ROOT / "tests" / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_LOCALHOST_WARNING": "False",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "False",
        **(extra or {}),
    }


def json_blocks(guide: str) -> list[dict]:
    """The policies and roles in a guide."""
    text = (GUIDES / guide).read_text()
    return [json.loads(block) for block in re.findall(r"code-block:: json\n\n((?:   .*\n|\n)+)", text)]


class AnsibleLoader(yaml.CSafeLoader):
    """Reads a value with a tag of Ansible, such as !unsafe, as the value without the tag."""


AnsibleLoader.add_multi_constructor("!", lambda loader, _suffix, node: loader.construct_scalar(node))


def ansible_yaml(path: Path) -> Any:
    """The content of a YAML file of a playbook or a role."""
    return yaml.load(path.read_text(), AnsibleLoader)


def role_options() -> dict[str, dict]:
    """Every option of every role, by name, as the argument specifications have it."""
    return {
        name: option
        for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))
        for entry_point in ansible_yaml(path)["argument_specs"].values()
        for name, option in entry_point["options"].items()
    }


def local_play(variables: dict | None = None, **of_play: object) -> list[dict]:
    """A playbook with one play, which runs on this machine with the Python of ansible."""
    python = {"ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    return [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": python | (variables or {}),
            **of_play,
        }
    ]


def build_collection(directory: Path) -> Path:
    """Build the tarball of the collection in the empty `directory`."""
    completed = subprocess.run(
        ["ansible-galaxy", "collection", "build", str(ROOT), "--output-path", str(directory)],
        env=ansible_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode:
        raise RuntimeError(completed.stdout + completed.stderr)
    (tarball,) = directory.iterdir()
    return tarball


def service_account_token(issuer: str, account: str = "default", audience: str = "openshift") -> str:
    """The token of a service account of the operator, as the API server issues it, without a signature."""
    subject = f"system:serviceaccount:{OPERATOR_NAMESPACE}:{account}"
    parts = ({"alg": "RS256"}, {"iss": issuer, "sub": subject, "aud": [audience]})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "signature"])
