"""The credential type of the role awx, against the stand-in for AWX's API: one of another owner is not changed."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from tests.integration.test_awx import TOKEN, Controller, controller  # noqa: F401
from tests.playbook_runs import run_playbook
from tests.support import ROOT, ansible_environment, ansible_yaml, local_play

VARIABLES = ansible_yaml(ROOT / "roles/awx/vars/main.yml")
OURS = VARIABLES["awx_kubeconfig_type"]
OTHER_INPUTS = {"fields": [{"id": "config", "label": "Config", "type": "string"}]}


def test_a_credential_type_of_another_owner_is_not_changed(
    controller: tuple[Controller, str],  # noqa: F811
    tmp_path: Path,
):
    stored, url = controller
    existing = {
        "theirs": {**OURS, "inputs": OTHER_INPUTS, "description": "Ours"},
        "same": {**OURS, "description": "Ours"},
        "ours": {**OURS, "inputs": OTHER_INPUTS},
    }
    before = {
        name: copy.deepcopy(stored._create("credential_types", {"name": name, "managed": False, **content}))
        for name, content in existing.items()
    }
    role = {"ansible.builtin.include_role": {"name": "osc.peerpods.awx", "tasks_from": "credential_type"}}
    tasks = [
        {"block": [{**role, "vars": {"awx_credential_type": name}}], "rescue": [{"ansible.builtin.meta": "noop"}]}
        for name in existing
    ]
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps(local_play(tasks=tasks)))
    environment = ansible_environment({"CONTROLLER_HOST": url, "CONTROLLER_OAUTH_TOKEN": TOKEN})
    completed = run_playbook(["ansible-playbook", str(playbook)], environment)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    output = " ".join(completed.stdout.split())
    assert "The credential type theirs has other inputs or injectors" in output
    assert "Set awx_credential_type to another name." in output
    assert "rescued=1" in output
    after = {name: stored.named("credential_types", name) for name in existing}
    assert after == {**before, "ours": {**before["ours"], **OURS}}
