"""What nodes advertise, with an agent and a real API server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from agent_process import PROJECT, until


def test_only_selected_nodes_advertise_the_limit(workspace):
    selected, unselected, without_resource = (
        workspace.node("chosen"),
        workspace.node("other", selected=False),
        workspace.node("bare", selected=False),
    )
    workspace.set_status(unselected, "9")
    workspace.config("c", "3")
    agent = workspace.start()
    until(lambda: workspace.slots(selected), ("3", "3"))
    workspace.config("c", "4")
    until(lambda: workspace.slots(selected), ("4", "4"))
    assert workspace.slots(unselected) == ("9", "9")
    assert workspace.slots(without_resource) == (None, None)
    assert agent.patched(unselected) == agent.patched(without_resource) == []


def test_a_changed_limit_is_advertised_without_other_writes(workspace):
    node = workspace.node("a")
    workspace.config("c", "3")
    agent = workspace.start()
    until(lambda: workspace.slots(node), ("3", "3"))
    workspace.config("c", "1000")
    until(lambda: workspace.slots(node), ("1k", "1k"))
    workspace.relabel(node, "unrelated=label")
    # Nodes have one watch: the agent has seen the label when it sees another node.
    late = workspace.node("late")
    until(lambda: workspace.slots(late), ("1k", "1k"))
    workspace.config("c", "0")
    until(lambda: workspace.slots(node), ("0", "0"))
    until(lambda: agent.patched(node), [3, 1000, 0])


def test_an_absent_limit_defaults_to_one(workspace):
    node = workspace.node("a")
    workspace.config("c", None)
    workspace.start()
    until(lambda: workspace.slots(node), ("1", "1"))


@pytest.mark.parametrize("reset", ["0", None])
def test_a_reset_node_is_restored(workspace, reset):
    node = workspace.node("a")
    workspace.config("c", "3")
    workspace.start()
    until(lambda: workspace.slots(node), ("3", "3"))
    workspace.set_status(node, reset)
    until(lambda: workspace.slots(node), ("3", "3"))


def test_a_new_node_advertises_the_limit(workspace):
    workspace.config("c", "3")
    workspace.start()
    node = workspace.node("late")
    until(lambda: workspace.slots(node), ("3", "3"))


def test_a_deselected_node_loses_the_resource(workspace):
    deselected, selected = workspace.node("leaving"), workspace.node("staying")
    workspace.config("c", "3")
    workspace.start()
    until(lambda: workspace.slots(deselected), ("3", "3"))
    workspace.relabel(deselected, f"{workspace.label}-")
    until(lambda: workspace.slots(deselected), (None, None))
    assert workspace.slots(selected) == ("3", "3")


def test_without_any_limit_nodes_keep_their_slots(workspace):
    """A missing limit is not zero: an upgrade of the operator deletes its PeerPodConfig."""
    node = workspace.node("a")
    workspace.config("c", "3")
    agent = workspace.start()
    until(lambda: workspace.slots(node), ("3", "3"))
    assert agent.metrics()[("peerpods_limits_found",)] == 1

    def warned() -> list[dict]:
        return [r for r in agent.warnings() if r["message"].startswith("No valid limit")]

    assert warned() == []
    workspace.delete_config("c")
    until(lambda: len(warned()), 1)
    assert agent.metrics()[("peerpods_limits_found",)] == 0
    assert agent.get("/readyz") == 200
    assert "no limit found" in agent.body("/readyz")
    workspace.set_status(node, "9")
    new_node = workspace.node("late")
    workspace.config("d", "4", selector={"no": "node"})
    until(lambda: agent.metrics().get(("peerpods_limits_found",)), 1)
    assert agent.body("/readyz") == "ok"
    assert workspace.slots(node) == ("9", "9")
    assert workspace.slots(new_node) == (None, None)
    until(lambda: agent.patched(node), [3])


def test_nodes_of_a_vanished_pool_keep_their_slots(workspace):
    """They keep them even if another pool exists, and after a restart of the agent."""
    node, other_node = workspace.node("mine"), workspace.node("other", selected=False)
    workspace.relabel(other_node, f"{workspace.label}-other=")
    workspace.config("c", "3")
    workspace.config("d", "4", selector={f"{workspace.label}-other": ""})
    agent = workspace.start()
    until(lambda: [workspace.slots(node), workspace.slots(other_node)], [("3", "3"), ("4", "4")])
    workspace.delete_config("c")
    workspace.config("d", "5", selector={f"{workspace.label}-other": ""})
    until(lambda: workspace.slots(other_node), ("5", "5"))
    workspace.relabel(node, f"{workspace.label}-")
    agent.process.kill()
    workspace.start()
    workspace.config("d", "6", selector={f"{workspace.label}-other": ""})
    until(lambda: workspace.slots(other_node), ("6", "6"))
    assert workspace.slots(node) == ("3", "3")


def test_a_deselected_node_keeps_the_resource_of_another_writer(workspace):
    node = workspace.node("a")
    workspace.config("c", "3")
    agent = workspace.start()
    until(lambda: workspace.slots(node), ("3", "3"))
    # The number is the same and needs no correction, but another program owns it now.
    workspace.share(node, 3)
    workspace.relabel(node, f"{workspace.label}-")
    until(lambda: [r.get("node") for r in agent.log("info") if "stays" in r["message"]], [node])
    workspace.config("c", "4")
    until(lambda: agent.metrics().get(("peerpods_pool_limit", "c", "PeerPodConfig")), 4)
    workspace.relabel(node, "unrelated=label")
    gets = ("peerpods_node_capacity_requests_total", "200", "get")
    assert agent.metrics()[gets] == 1
    assert workspace.slots(node) == ("3", "3")
    until(lambda: agent.patched(node), [3])


def test_the_smallest_of_overlapping_limits_wins(workspace):
    node = workspace.node("a")
    workspace.config("large", "8")
    workspace.config("small", "5")
    workspace.start()
    until(lambda: workspace.slots(node), ("5", "5"))
    workspace.config("small", "12")
    until(lambda: workspace.slots(node), ("8", "8"))
    workspace.delete_config("large")
    until(lambda: workspace.slots(node), ("12", "12"))


def test_after_an_invalid_limit_the_last_valid_one_stays_in_force(workspace, cluster):
    node = workspace.node("a")
    workspace.config("c", "3")
    agent = workspace.start()
    until(lambda: workspace.slots(node), ("3", "3"))

    workspace.config("c", "three")
    until(lambda: [record.get("pool") for record in agent.warnings()], ["c"])
    cluster.label("peerpodconfig", "c", "-n", workspace.id, "unrelated=label")
    new_node = workspace.node("late")
    until(lambda: workspace.slots(new_node), ("3", "3"))
    workspace.set_status(node, "0")
    until(lambda: workspace.slots(node), ("3", "3"))
    # The problem of c is not announced again with the next one.
    workspace.config("d", "four", selector={"no": "node"})
    until(lambda: [record.get("pool") for record in agent.warnings()], ["c", "d"])

    # A new agent has never read a valid limit: nodes keep their slots.
    agent.process.kill()
    successor = workspace.start()
    until(lambda: [r["pool"] for r in successor.log("warning") if "pool" in r], ["c", "d"])
    workspace.config("c", "4")
    until(lambda: workspace.slots(node), ("4", "4"))
    until(lambda: successor.patched(node), [4])


def test_changes_during_a_broken_connection_are_applied_later(workspace, cluster):
    link = workspace.link()
    changed, deleted = workspace.node("changed"), workspace.node("deleted")
    workspace.config("c", "3")

    link.cut()
    agent = workspace.start(link.server, ready=503)
    assert agent.get("/healthz") == 200
    link.restore()
    until(lambda: [workspace.slots(changed), workspace.slots(deleted)], [("3", "3")] * 2)
    assert agent.get("/readyz") == 200

    warnings = len(agent.log("warning"))
    link.cut()
    until(lambda: len(agent.log("warning")) >= warnings + 2, True)
    workspace.config("c", "4")
    cluster.delete("node", deleted)
    new_node = workspace.node("late")
    link.restore()
    until(lambda: [workspace.slots(changed), workspace.slots(new_node)], [("4", "4")] * 2)


def test_sigterm_stops_the_agent(workspace):
    workspace.node("a")
    workspace.config("c", "3")
    agent = workspace.start()
    assert agent.get("/healthz") == 200
    assert agent.get("/elsewhere") == 404
    agent.stop()
    assert agent.log("info")[-1]["message"] == "Stopped."
    assert agent.warnings() == []


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"KUBECONFIG": "/nowhere/kubeconfig"}, "Loading the Kubernetes login failed: .*/nowhere/kubeconfig"),
        ({"KUBECONFIG": ""}, "Loading the Kubernetes login failed: .*serviceaccount"),
        ({"KUBECONFIG": "no-login"}, "Loading the Kubernetes login failed: user it has neither a token nor"),
        ({"HEALTH_PORT": "http"}, "HEALTH_PORT must be .* got 'http'"),
    ],
)
def test_an_invalid_setting_is_logged_in_one_line(environment, message, tmp_path):
    (tmp_path / "no-login").write_text(
        json.dumps(
            {
                "current-context": "it",
                "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                "clusters": [{"name": "it", "cluster": {"server": "https://127.0.0.1:1"}}],
                "users": [{"name": "it", "user": {}}],
            }
        )
    )
    completed = subprocess.run(
        [sys.executable, "-m", "peerpods_node_capacity"],
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        cwd=tmp_path,
    )
    assert (completed.returncode, completed.stderr) == (1, "")
    (line,) = completed.stdout.splitlines()
    record = json.loads(line)
    assert record["level"] == "error"
    assert re.search(message, record["message"])
