"""Modules for the controller's host run inside the controller, with the same results; otherwise they are started."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.processes import wait_for
from tests.support import JSON_OUTPUT, ansible_environment

# The text that ansible prints with -vvv when it starts a module.
STARTED = "EXEC /bin/sh -c"

INFO = "osc.peerpods.cluster_info"
SECRET = "not-to-be-seen"


def started(
    directory: Path, *tasks: dict, hosts: str = "localhost", settings: dict | None = None, **of_play
) -> subprocess.Popen[str]:
    playbook = directory / "play.yml"
    playbook.write_text(yaml.safe_dump([{"hosts": hosts, "gather_facts": False, "tasks": list(tasks), **of_play}]))
    environment = {
        **JSON_OUTPUT,
        "HOME": str(directory),
        "ANSIBLE_ASYNC_DIR": str(directory / "async"),
        **(settings or {}),
    }
    return subprocess.Popen(
        ["ansible-playbook", "-vvv", "-i", "localhost,elsewhere,", str(playbook)],
        env=ansible_environment(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., tuple[dict[str, dict], str]]:
    """Run a play of these tasks; returns their results by name, and the output of ansible with -vvv."""

    def play(
        *tasks: dict, hosts: str = "localhost", settings: dict | None = None, **of_play
    ) -> tuple[dict[str, dict], str]:
        with started(tmp_path, *tasks, hosts=hosts, settings=settings, **of_play) as run:
            printed, _errors = run.communicate()
        (played,) = json.loads(printed[printed.index("\n{\n") :])["plays"]
        return {task["task"]["name"]: next(iter(task["hosts"].values())) for task in played["tasks"]}, printed

    return play


LOCAL = {"connection": "local", "vars": {"ansible_python_interpreter": sys.executable}}


def test_a_module_runs_in_the_controller_for_each_item_with_the_defaults_of_its_group_and_hides_secrets(cluster, play):
    arguments = {"kubeconfig": str(cluster.kubeconfig)}
    secret = {"host": cluster.server, "api_key": SECRET, "validate_certs": False}
    results, printed = play(
        {"name": "each", INFO: {**arguments, "worker_selector": "{{ item }}"}, "loop": ["a", "b"]},
        {"name": "without", INFO: {}, "ignore_errors": True},
        {"name": "defaults", INFO: {}, "module_defaults": {"group/osc.peerpods.kubernetes": arguments}},
        {"name": "secret", INFO: secret, "ignore_errors": True},
        **LOCAL,
    )
    assert [item["is_openshift"] for item in results["each"]["results"]] == [True, True]
    assert results["without"]["failed"]
    assert results["defaults"]["is_openshift"]
    assert "401" in results["secret"]["msg"]
    assert SECRET not in json.dumps(results["secret"])
    assert SECRET not in printed
    assert STARTED not in printed


def inline(kubeconfig: Path) -> dict:
    """The content of a kubeconfig, with the content of the files that it names."""
    content = yaml.safe_load(kubeconfig.read_text())
    for entry in (content["clusters"][0]["cluster"], content["users"][0]["user"]):
        for name in entry.keys() - {"server"}:
            entry[f"{name}-data"] = base64.b64encode(Path(entry.pop(name)).read_bytes()).decode()
    return content


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Path]]]:
    """Find the files with a key that modules leave in the directory for temporary files."""
    # ansible-core 2.21 has a Unix socket in it, whose path has 107 bytes at most.
    with tempfile.TemporaryDirectory() as temporary:
        monkeypatch.setenv("TMPDIR", temporary)
        yield lambda: [path for path in Path(temporary).iterdir() if has_key(path)]


def has_key(path: Path) -> bool:
    """Whether the path is a file with a key, which a module may delete meanwhile."""
    try:
        return path.is_file() and b"PRIVATE KEY" in path.read_bytes()
    except FileNotFoundError:
        return False


def test_a_module_leaves_no_key_behind(cluster, play, keys, tmp_path: Path):
    """Kubernetes' client writes what a kubeconfig contains to files, and deletes them at its exit."""
    kubeconfig = inline(cluster.kubeconfig)
    (tmp_path / "inline").write_text(yaml.safe_dump(kubeconfig))
    results, printed = play(
        {"name": "module", INFO: {"kubeconfig": str(tmp_path / "inline")}},
        {"name": "of kubernetes.core", "osc.peerpods.k8s_info": {"kubeconfig": kubeconfig, "kind": "Node"}},
        **LOCAL,
    )
    assert results["module"]["is_openshift"]
    assert results["of kubernetes.core"]["resources"]
    assert STARTED not in printed
    assert keys() == []


@pytest.fixture
def silent(cluster, tmp_path: Path) -> Iterator[tuple[dict, Callable[[], socket.socket]]]:
    """A task with a module that waits for an API server, and a function that returns its connection."""
    kubeconfig = inline(cluster.kubeconfig)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        kubeconfig["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{server.getsockname()[1]}"
        (tmp_path / "silent").write_text(yaml.safe_dump(kubeconfig))
        yield {"name": "info", INFO: {"kubeconfig": str(tmp_path / "silent")}}, lambda: server.accept()[0]


def test_the_timeout_of_the_task_ends_a_module(play, silent, keys):
    task, accept = silent
    results, _printed = play({**task, "timeout": 2, "ignore_errors": True}, **LOCAL)
    assert "imed out after 2 second" in results["info"]["msg"]
    with accept() as connection:
        connection.settimeout(10)
        while connection.recv(4096):
            pass  # The module has ended.
    assert keys() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_module_leaves_no_key_behind(silent, keys, tmp_path: Path, number: signal.Signals):
    task, accept = silent
    with started(tmp_path, task, **LOCAL) as run, accept():
        assert keys()
        os.killpg(run.pid, number)
        run.communicate(timeout=30)
        wait_for("the end of the module", lambda: not keys(), seconds=30)


def test_a_module_that_cannot_run_in_the_controller_is_started_as_a_process(cluster, play, tmp_path: Path):
    """With its own environment, since kubernetes' client reads KUBECONFIG when it is imported; with async; and with
    another Python. Each is another module, since ansible prints the name of the module that it starts."""
    python_link = tmp_path / "python"
    python_link.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python_link.chmod(0o755)
    kubeconfig = {"kubeconfig": str(cluster.kubeconfig)}
    tasks = {
        "cluster_info": {"environment": {"KUBECONFIG": str(cluster.kubeconfig)}, INFO: {}},
        "peerpod_info": {"async": 60, "poll": 1, "osc.peerpods.peerpod_info": kubeconfig},
        "operator_info": {
            "vars": {"ansible_python_interpreter": str(python_link)},
            "osc.peerpods.operator_info": kubeconfig,
        },
    }
    results, printed = play(*({"name": name, **task} for name, task in tasks.items()), **LOCAL)
    assert results["cluster_info"]["is_openshift"]
    for name, result in results.items():
        assert not result.get("failed"), result
        assert f"AnsiballZ_{name}.py" in printed


def test_a_module_whose_files_are_kept_is_started_as_a_process(cluster, play):
    info = {"name": "info", INFO: {"kubeconfig": str(cluster.kubeconfig)}}
    results, printed = play(info, settings={"ANSIBLE_KEEP_REMOTE_FILES": "1"}, **LOCAL)
    assert results["info"]["is_openshift"]
    assert STARTED in printed


def test_delegated_modules_run_in_the_controller(cluster, play):
    info = {INFO: {"kubeconfig": str(cluster.kubeconfig)}, "name": "info"}
    local_connection = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    results, printed = play({**info, "delegate_to": "localhost", "vars": local_connection}, hosts="elsewhere")
    assert results["info"]["is_openshift"]
    assert STARTED not in printed


def test_modules_of_kubernetes_core_run_in_the_controller_with_the_same_results(cluster, play, tmp_path: Path):
    """This includes what the action plugin of that collection adds: templates, and the search for a kubeconfig."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "admin").write_bytes(cluster.kubeconfig.read_bytes())
    (tmp_path / "object.j2").write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": "in-controller",
                    "namespace": "default",
                    "labels": {"app.kubernetes.io/part-of": "osc.peerpods"},
                },
                "data": {"key": "{{ value }}"},
            }
        )
    )
    named = {"kind": "ConfigMap", "name": "in-controller", "namespace": "default"}

    def tasks(collection: str) -> list[dict]:
        module, info = f"{collection}.k8s", f"{collection}.k8s_info"
        template = {"template": str(tmp_path / "object.j2")}
        steps = [
            {"name": "created", module: template, "vars": {"value": "a"}},
            {"name": "same", module: template, "vars": {"value": "a"}},
            {"name": "predicted", module: template, "vars": {"value": "b"}, "check_mode": True, "diff": True},
            {"name": "read", info: named},
            {"name": "invalid", module: {"kind": "ConfigMap", "state": "gone"}, "ignore_errors": True},
            {"name": "deleted", module: {**named, "state": "absent"}},
        ]
        return [
            {**step, "module_defaults": {module: {"kubeconfig": "admin"}, info: {"kubeconfig": "admin"}}}
            for step in steps
        ]

    kubernetes_results, _printed = play(*tasks("kubernetes.core"), **LOCAL)
    collection_results, printed = play(*tasks("osc.peerpods"), **LOCAL)
    assert STARTED not in printed
    changed = {name: result["changed"] for name, result in collection_results.items()}
    assert changed == {
        "created": True,
        "same": False,
        "predicted": True,
        "read": False,
        "invalid": False,
        "deleted": True,
    }
    assert collection_results["predicted"]["diff"]
    own_options = {"alternative", "take_over"}
    assert _lasting(collection_results, own_options) == _lasting(kubernetes_results)


def _lasting(results: object, without: Collection[str] = ()) -> object:
    """The result without fields that differ for each object, file or second, and without others."""
    if isinstance(results, list):
        return [_lasting(item, without) for item in results]
    if not isinstance(results, dict):
        return results
    changing_fields = {
        "action",
        "creationTimestamp",
        "duration",
        "kubeconfig",
        "managedFields",
        "resourceVersion",
        "time",
        "uid",
    }
    omitted = {*changing_fields, *without}
    lasting = {name: _lasting(value, without) for name, value in results.items() if name not in omitted}
    return {name: value for name, value in lasting.items() if value != {}}
