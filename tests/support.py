"""What more than one kind of test needs to run ansible as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OPERATOR_NAMESPACE = "openshift-sandboxed-containers-operator"

# What kubernetes' Python client, which all modules use, calls itself by version.
KUBERNETES_CLIENT = ("OpenAPI-Generator", "Swagger-Codegen")

# For whoever reads ansible's output by program.
JSON_OUTPUT = {
    "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    "ANSIBLE_LOAD_CALLBACK_PLUGINS": "True",
}


def ansible_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of an ansible command that sees nothing of the machine's own settings."""
    mine = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("AWS_", "AZURE_", "K8S_AUTH_", "KUBE", "ANSIBLE_"))
    }
    return {
        **mine,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
        "ANSIBLE_LOCALHOST_WARNING": "False",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "False",
        **(extra or {}),
    }


def local_play(variables: dict | None = None, **of_play: object) -> list[dict]:
    """A playbook of one play, which runs on this machine by the Python that runs ansible."""
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
    """The tarball that is released, built into the empty `directory`."""
    ran = subprocess.run(
        ["ansible-galaxy", "collection", "build", str(ROOT), "--output-path", str(directory)],
        env=ansible_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(ran.stdout + ran.stderr)
    (tarball,) = directory.iterdir()
    return tarball
