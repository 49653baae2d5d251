from __future__ import annotations

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._operator.image_job import ImageJob
from ansible_collections.osc.peerpods.plugins.module_utils._operator.node_rollout import (
    check_pods_ended,
    check_removal,
    check_rollout,
    describe_pool,
    lacks_image_settings,
    needs_image,
)
from ansible_collections.osc.peerpods.plugins.module_utils._operator.progress import Progress

from tests.unit.module_utils._operator.objects import NOW, ago, condition


def kata(count=3, ready=0, status="True", reason="Installing", message="", classes=(), **nodes) -> dict:
    return {
        "metadata": {"name": "k"},
        "status": {
            "kataNodes": {"nodeCount": count, "readyNodeCount": ready, **nodes},
            "runtimeClasses": list(classes),
            "conditions": [condition("InProgress", status, reason, message)],
        },
    }


def pool(name="kata-oc", updated=1, conditions=(), **spec) -> dict:
    return {
        name: {
            "metadata": {"name": name},
            "spec": spec,
            "status": {"machineCount": 3, "updatedMachineCount": updated, "conditions": list(conditions)},
        }
    }


def rollout_of(kata_config, pools=None, since=None) -> Progress:
    return check_rollout(kata_config, pools or {}, "kata-remote", since or {}, NOW)


class TestDaemonSet:
    """Where a DaemonSet installs kata: without MachineConfigPools (None), or with the states of nodes."""

    @pytest.mark.parametrize("pools", [None, {**pool("worker", paused=True), **pool("master")}])
    def test_pools_of_nodes_do_not_matter(self, pools):
        states = {} if pools is None else {"w1": "installed", "w2": "installing"}
        progress = check_rollout(kata(ready=1, installing=["w2"]), pools, "kata-remote", {}, NOW, states)
        assert (progress.summary, progress.problem) == ("1 of 3 nodes run kata; working on w2 (for 0 s)", "")
        assert "osc-rpm-" in progress.remedy
        removing = kata(3, 0, reason="Uninstalling", uninstalling=["w2"])
        assert check_removal(removing, pools, {}, NOW, {**states, "w2": "uninstalling"}).problem == ""

    def test_the_end_is_the_same(self):
        assert check_rollout(kata(1, 1, "False", classes=["kata-remote"]), None, "kata-remote", {}, NOW).done

    @pytest.mark.parametrize(
        ("states", "problem"),
        [
            (
                {"w1": "waiting_for_reboot", "w2": "waiting_for_reboot"},
                "the next boot of w1, w2, and the operator does",
            ),
            ({"w1": "waiting_for_reboot", "w2": "uninstalling"}, ""),
            ({"w1": "waiting_to_uninstall"}, ""),
        ],
    )
    def test_nodes_that_nothing_reboots_are_a_problem(self, states, problem):
        progress = check_removal(kata(2, 0, waitingToUninstall=["w1"]), None, {}, NOW, states)
        assert (problem in progress.problem) if problem else not progress.problem

    def test_without_a_reboot_that_is_needed_the_installation_has_ended(self):
        ready = kata(1, 1, "False", classes=["kata-remote"])
        states = {"w1": "waiting_for_reboot"}
        assert check_rollout(ready, None, "kata-remote", {}, NOW, states).problem == ""


def test_the_description_of_a_pool():
    updating = pool(conditions=[condition("Updating")], paused=True)["kata-oc"]
    assert describe_pool(updating) == {
        "name": "kata-oc",
        "machines": 3,
        "updated": 1,
        "paused": True,
        "updating": True,
        "problem": "MachineConfigPool kata-oc is paused: no node is rolled until spec.paused is false.",
    }
    new = describe_pool({"metadata": {"name": "worker"}})
    assert (new["machines"], new["paused"], new["updating"], new["problem"]) == (0, False, False, "")


class TestRoll:
    def test_the_summary_has_the_current_node_and_its_duration(self):
        updating = condition("Updating", minutes=75)
        progress = rollout_of(
            kata(ready=1, installing=["w2"], waitingToInstall=["w3"]),
            pool(conditions=[updating]),
            {"w2": ago(minutes=4), "w1": ago(hours=1)},
        )
        assert progress.summary == (
            "1 of 3 nodes run kata; working on w2 (for 4 min); 1 waiting; "
            "MachineConfigPool kata-oc: 1 of 3 updated, for 1 h 15 min"
        )
        assert progress.since == {"w2": ago(minutes=4)}

    def test_elapsed_time_does_not_change_the_status(self):
        working = kata(installing=["w2"])
        before = rollout_of(working, since={"w2": ago(minutes=4)})
        assert rollout_of(working, since={"w2": ago(minutes=9)}).status == before.status
        assert rollout_of(kata(ready=1, installing=["w2"])).status != before.status

    def test_only_some_of_many_nodes_are_named(self):
        progress = rollout_of(kata(100, installing=[f"w{index}" for index in range(20)]))
        assert "w4 (for 0 s) and 15 more" in progress.summary

    @pytest.mark.parametrize(
        ("kata_config", "done"),
        [
            (kata(3, 3, "False", classes=["kata", "kata-remote"]), True),
            (kata(3, 3, "False", classes=["kata"]), False),
            (kata(3, 2, "False", classes=["kata", "kata-remote"]), False),
            (kata(3, 3, "True", classes=["kata", "kata-remote"]), False),
            ({"metadata": {"name": "new"}}, False),
        ],
    )
    def test_completion(self, kata_config, done):
        progress = rollout_of(kata_config)
        assert (progress.done, progress.problem) == (done, "")

    @pytest.mark.parametrize(
        ("kata_config", "pools", "expected"),
        [
            (kata(reason="Failed", message="Node w1 Degraded: disk full"), {}, "Node w1 Degraded: disk full"),
            (
                kata(),
                pool(conditions=[condition("NodeDegraded", message="w1: disk full")]),
                "MachineConfigPool kata-oc is degraded: w1: disk full",
            ),
            (kata(), pool(paused=True), "MachineConfigPool kata-oc is paused"),
            (kata(0, 0, "False", classes=["kata-remote"]), {}, "The KataConfig selects no node"),
            (None, {}, "There is no KataConfig"),
        ],
    )
    def test_problems_that_stop_the_progress(self, kata_config, pools, expected):
        assert expected in rollout_of(kata_config, pools).problem

    def test_a_pool_that_was_degraded_earlier_is_not_a_problem(self):
        assert not rollout_of(kata(), pool(conditions=[condition("NodeDegraded", "False")])).problem


class TestTheImage:
    """When all nodes run kata, the operator creates the image of the pod VMs."""

    COMPLETED = kata(3, 3, "False", classes=["kata", "kata-remote"])
    CREATING = kata(3, 3, "True", "PodVMImageJobRunning", "Creating Pod VM Image", classes=["kata"])
    ACTIVE = ImageJob(summary="job, for 4 min", status="job", is_active=True)
    WAITS = ImageJob(summary="the operator waits for a key", status="the operator waits for a key")

    @staticmethod
    def progress(kata_config, image: ImageJob, *, is_requested: bool = False) -> Progress:
        return check_rollout(kata_config, {}, "kata-remote", {}, NOW, {}, image, is_requested)

    def test_only_an_image_completes_the_installation(self):
        progress = self.progress(self.COMPLETED, ImageJob("ami-0"))
        assert (progress.done, progress.problem) == (True, "")

    def test_a_job_is_shown_while_it_runs(self):
        progress = self.progress(self.CREATING, self.ACTIVE)
        assert (progress.summary, progress.status) == (
            "3 of 3 nodes run kata; job, for 4 min",
            "3 of 3 nodes run kata; job",
        )
        assert (progress.done, progress.problem) == (False, "")

    @pytest.mark.parametrize("kata_config", [COMPLETED, CREATING])
    def test_a_failed_job_ends_the_wait(self, kata_config):
        """Also where the operator has reset its condition, and with a problem of a node later."""
        progress = self.progress(kata_config, ImageJob(failure="It failed."))
        assert (progress.done, progress.problem) == (False, "It failed.")
        assert "run the playbook again" in progress.remedy

    @pytest.mark.parametrize(
        ("kata_config", "image", "is_requested", "is_problem"),
        [
            (COMPLETED, WAITS, False, True),
            # The operator was made to begin again, and has not done so yet.
            (COMPLETED, WAITS, True, False),
            # It runs the job again after a failure.
            (COMPLETED, ACTIVE, False, False),
            (kata(3, 3, "True", classes=["kata"]), WAITS, False, False),
        ],
    )
    def test_a_completion_without_an_image(self, kata_config, image, is_requested, is_problem):
        progress = self.progress(kata_config, image, is_requested=is_requested)
        assert not progress.done
        assert bool(progress.problem) == is_problem
        if is_problem:
            assert progress.problem.endswith("no peer pod starts: the operator waits for a key.")

    @pytest.mark.parametrize(
        ("kata_config", "expected"),
        [
            ({**kata(3, 3), "spec": {"enablePeerPods": True}}, True),
            ({**kata(3, 2), "spec": {"enablePeerPods": True}}, False),
            ({**kata(0, 0), "spec": {"enablePeerPods": True}}, False),
            ({**kata(3, 3), "spec": {}}, False),
            ({"spec": {"enablePeerPods": True}}, False),
            (None, False),
        ],
    )
    def test_when_it_is_looked_for(self, kata_config, expected):
        assert needs_image(kata_config) is expected


class TestRemoval:
    def test_a_deletion_of_the_image_that_cannot_begin(self):
        """The reason alone is also that of a job that has just begun."""
        failed = kata(3, 3, "True", "PodVMImageJobFailed", "Failed to delete Pod VM Image")
        assert lacks_image_settings(failed)
        assert not check_removal(failed, {}, {}, NOW).problem
        progress = check_removal(failed, {}, {}, NOW, {}, "AWS_SG_IDS of peer-pods-cm")
        assert "The operator needs AWS_SG_IDS of peer-pods-cm to delete the image" in progress.problem
        assert "Restore it" in progress.remedy

    def test_the_removal_ends_with_the_kataconfig(self):
        assert check_removal(None, {}, {}, NOW).done

    def test_the_summary_of_the_removal(self):
        kata_config = kata(0, 0, reason="Uninstalling", uninstalling=["w1"], waitingToUninstall=["w2"])
        progress = check_removal(kata_config, pool("worker"), {}, NOW)
        assert progress.summary.startswith("nodes that still have kata: 2; working on w1 (for 0 s); 1 waiting")
        assert not progress.problem

    def test_blocking_pods_are_a_problem(self):
        kata_config = kata(3, 3, "False", "BlockedByExistingKataPods", "existing pods found")
        assert check_removal(kata_config, {}, {}, NOW).problem == "The operator waits: existing pods found."


def test_pods_that_must_end():
    assert check_pods_ended([]).done
    progress = check_pods_ended([f"n/{number}" for number in range(7)])
    assert not progress.done
    assert "7 running: n/0" in progress.summary
