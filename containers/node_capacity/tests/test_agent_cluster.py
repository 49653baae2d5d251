"""What nodes advertise, by an agent that runs against a real API server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from agent_process import PROJECT, until


def test_selected_nodes_advertise_the_limit_and_others_are_left_alone(place):
    chosen, other, bare = (
        place.node("chosen"),
        place.node("other", selected=False),
        place.node("bare", selected=False),
    )
    place.set_status(other, "9")
    place.config("c", "3")
    agent = place.start()
    until(lambda: place.slots(chosen), ("3", "3"))
    place.config("c", "4")
    until(lambda: place.slots(chosen), ("4", "4"))
    assert place.slots(other) == ("9", "9")
    assert place.slots(bare) == (None, None)
    assert agent.patched(other) == agent.patched(bare) == []


def test_a_changed_limit_is_advertised_and_nothing_else_is_written(place):
    node = place.node("a")
    place.config("c", "3")
    agent = place.start()
    until(lambda: place.slots(node), ("3", "3"))
    place.config("c", "1000")
    until(lambda: place.slots(node), ("1k", "1k"))
    place.relabel(node, "unrelated=label")
    place.config("c", "0")
    until(lambda: place.slots(node), ("0", "0"))
    until(lambda: agent.patched(node), [3, 1000, 0])


def test_an_absent_limit_is_one(place):
    node = place.node("a")
    place.config("c", None)
    place.start()
    until(lambda: place.slots(node), ("1", "1"))


@pytest.mark.parametrize("reset", ["0", None])
def test_a_reset_is_put_back(place, reset):
    node = place.node("a")
    place.config("c", "3")
    place.start()
    until(lambda: place.slots(node), ("3", "3"))
    place.set_status(node, reset)
    until(lambda: place.slots(node), ("3", "3"))


def test_a_new_node_gets_it(place):
    place.config("c", "3")
    place.start()
    node = place.node("late")
    until(lambda: place.slots(node), ("3", "3"))


def test_a_node_no_longer_selected_loses_it(place):
    leaving, staying = place.node("leaving"), place.node("staying")
    place.config("c", "3")
    place.start()
    until(lambda: place.slots(leaving), ("3", "3"))
    place.relabel(leaving, f"{place.label}-")
    until(lambda: place.slots(leaving), (None, None))
    assert place.slots(staying) == ("3", "3")


def test_without_any_limit_nodes_keep_what_they_have(place):
    """No limits found is not zero: an operator that is upgraded deletes its PeerPodConfig."""
    node = place.node("a")
    place.config("c", "3")
    agent = place.start()
    until(lambda: place.slots(node), ("3", "3"))
    assert agent.metrics()[("peerpods_limits_found",)] == 1
    assert agent.log("warning") == []
    place.delete_config("c")
    until(lambda: [r["message"][:14] for r in agent.log("warning")], ["No valid limit"])
    assert agent.metrics()[("peerpods_limits_found",)] == 0
    assert agent.get("/readyz") == 200
    assert "no limit found" in agent.body("/readyz")
    place.set_status(node, "9")
    late = place.node("late")
    place.config("d", "4", selector={"no": "node"})
    until(lambda: agent.metrics()[("peerpods_limits_found",)], 1)
    assert agent.body("/readyz") == "ok"
    assert place.slots(node) == ("9", "9")
    assert place.slots(late) == (None, None)
    until(lambda: agent.patched(node), [3])


def test_a_vanished_pool_does_not_take_its_nodes_slots_away(place):
    """Not even while another one exists; after a restart of the agent neither."""
    mine, other = place.node("mine"), place.node("other", selected=False)
    place.relabel(other, f"{place.label}-other=")
    place.config("c", "3")
    place.config("d", "4", selector={f"{place.label}-other": ""})
    agent = place.start()
    until(lambda: [place.slots(mine), place.slots(other)], [("3", "3"), ("4", "4")])
    place.delete_config("c")
    place.config("d", "5", selector={f"{place.label}-other": ""})
    until(lambda: place.slots(other), ("5", "5"))
    place.relabel(mine, f"{place.label}-")
    agent.process.kill()
    place.start()
    place.config("d", "6", selector={f"{place.label}-other": ""})
    until(lambda: place.slots(other), ("6", "6"))
    assert place.slots(mine) == ("3", "3")


def test_what_another_writer_advertised_stays_on_a_node_that_leaves(place):
    node = place.node("a")
    place.config("c", "3")
    agent = place.start()
    until(lambda: place.slots(node), ("3", "3"))
    # The same number: nothing to correct, but another owner of it.
    place.share(node, 3)
    place.relabel(node, f"{place.label}-")
    place.config("c", "4")
    until(lambda: [r.get("node") for r in agent.log("info") if "stays" in r["message"]], [node])
    place.relabel(node, "unrelated=label")
    gets = ("peerpods_node_capacity_requests_total", "200", "get")
    assert agent.metrics()[gets] == 1
    assert place.slots(node) == ("3", "3")
    until(lambda: agent.patched(node), [3])


def test_the_smallest_of_overlapping_limits_wins(place):
    node = place.node("a")
    place.config("large", "8")
    place.config("small", "5")
    place.start()
    until(lambda: place.slots(node), ("5", "5"))
    place.config("small", "12")
    until(lambda: place.slots(node), ("8", "8"))
    place.delete_config("large")
    until(lambda: place.slots(node), ("12", "12"))


def test_a_bad_limit_leaves_the_last_good_one_in_force(place, cluster):
    node = place.node("a")
    place.config("c", "3")
    agent = place.start()
    until(lambda: place.slots(node), ("3", "3"))

    place.config("c", "three")
    until(lambda: [record["pool"] for record in agent.log("warning")], ["c"])
    cluster.kubectl("label", "peerpodconfig", "c", "-n", place.id, "not=news")
    late = place.node("late")
    until(lambda: place.slots(late), ("3", "3"))
    place.set_status(node, "0")
    until(lambda: place.slots(node), ("3", "3"))
    until(lambda: len(agent.log("warning")), 1)

    # A new agent never saw a good limit: what each node has now stays.
    agent.process.kill()
    successor = place.start()
    until(lambda: [r["pool"] for r in successor.log("warning") if "pool" in r], ["c"])
    place.config("c", "4")
    until(lambda: place.slots(node), ("4", "4"))
    until(lambda: successor.patched(node), [4])


def test_a_broken_connection_is_outlived_and_caught_up_with(place, cluster):
    link = place.link()
    changed, deleted = place.node("changed"), place.node("deleted")
    place.config("c", "3")

    link.cut()
    agent = place.start(link.server, ready=503)
    assert agent.get("/healthz") == 200
    link.mend()
    until(lambda: [place.slots(changed), place.slots(deleted)], [("3", "3")] * 2)
    assert agent.get("/readyz") == 200

    warnings = len(agent.log("warning"))
    link.cut()
    until(lambda: len(agent.log("warning")) >= warnings + 2, True)
    place.config("c", "4")
    cluster.kubectl("delete", "node", deleted)
    late = place.node("late")
    link.mend()
    until(lambda: [place.slots(changed), place.slots(late)], [("4", "4")] * 2)


def test_sigterm_ends_it_within_two_seconds(place):
    place.node("a")
    place.config("c", "3")
    agent = place.start()
    assert agent.get("/healthz") == 200
    assert agent.get("/elsewhere") == 404
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(timeout=2) == 0
    assert agent.log("info")[-1]["message"] == "Stopped."
    assert agent.log("warning") == []


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"KUBECONFIG": "/nowhere/kubeconfig"}, "No cluster to talk to: .*/nowhere/kubeconfig"),
        ({"KUBECONFIG": ""}, "No cluster to talk to: .*serviceaccount"),
        ({"KUBECONFIG": "no-login"}, "No cluster to talk to: user it has neither a token nor"),
        ({"HEALTH_PORT": "http"}, "HEALTH_PORT is 'http'"),
    ],
)
def test_a_wrong_setting_is_said_in_one_line(environment, said, tmp_path):
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
    ran = subprocess.run(
        [sys.executable, "-m", "peerpods_node_capacity"],
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        cwd=tmp_path,
    )
    assert (ran.returncode, ran.stderr) == (1, "")
    (line,) = ran.stdout.splitlines()
    record = json.loads(line)
    assert record["level"] == "error"
    assert re.search(said, record["message"])
