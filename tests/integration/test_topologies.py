"""The role operator_install and its teardown where kata is not installed by a pool of worker nodes.

One cluster is first one with a hosted control plane, and then a compact one; each test begins in the state of the
previous test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster import aws, openshift
from tests.cluster.launcher import Cluster
from tests.cluster.operators import INSTALL_STATE, MASTER_LABEL, REBOOTED
from tests.cluster.processes import wait_for
from tests.integration.site import RoleAlone, failure_message, play_of
from tests.integration.test_operator_install import VARIABLES
from tests.support import OPERATOR_NAMESPACE

WORKERS = openshift.imagined_workers(2)
NAMES = [worker.name for worker in WORKERS]
NAMESPACE_ARGS = ("-n", OPERATOR_NAMESPACE)
CONFIRMED = {"operator_install_confirm": openshift.INFRASTRUCTURE_NAME}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster with a hosted control plane, which has no machine config operator."""
    with Cluster(definitions=openshift.definitions(peer_pod_configs=False)) as running:
        openshift.fill(running, WORKERS, aws.REGION)
        group = "machineconfiguration.openshift.io"
        running.delete("crd", f"machineconfigpools.{group}", f"machineconfigs.{group}")
        openshift.set_status(running, "infrastructure/cluster", {"controlPlaneTopology": "External"})
        openshift.start_stand_ins(running, "process", "1.13")
        yield running


@pytest.fixture(scope="module")
def role(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> RoleAlone:
    playbook = play_of("operator_install", tmp_path_factory.mktemp("install"))
    return RoleAlone(cluster, None, {}, list, VARIABLES, playbook)


@pytest.fixture(scope="module")
def teardown(role: RoleAlone, tmp_path_factory: pytest.TempPathFactory) -> RoleAlone:
    (play,) = json.loads(role.playbook.read_text())
    task = {"ansible.builtin.import_role": {"name": play.pop("roles")[0], "tasks_from": "teardown"}}
    playbook = tmp_path_factory.mktemp("teardown") / "teardown.yml"
    playbook.write_text(json.dumps([{**play, "tasks": [task]}]))
    return RoleAlone(role.cluster, None, {}, list, {}, playbook)


def node_labels(cluster: Cluster, label: str) -> list[str | None]:
    nodes = {node["metadata"]["name"]: node["metadata"]["labels"] for node in cluster.get("nodes")["items"]}
    return [nodes[name].get(label) for name in NAMES]


def succeed(role: RoleAlone, variables: dict | None = None) -> str:
    completed = role.run("-e", json.dumps(variables or {}))
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stderr


class TestHosted:
    def test_a_daemon_set_installs_kata(self, role: RoleAlone):
        progress = succeed(role)
        assert "2 of 2 nodes run kata" in progress
        assert "MachineConfigPool" not in progress
        assert node_labels(role.cluster, INSTALL_STATE) == ["installed"] * 2

    def test_a_removal_names_the_nodes_that_nothing_reboots(self, teardown: RoleAlone):
        """The role alone has not read the cluster, and so not the gallery that the operator would delete."""
        settings = ("configmap", "peer-pods-cm", *NAMESPACE_ARGS)
        teardown.cluster.annotate(*settings, "IMAGE_GALLERY_NAME=Gallery_1")
        completed = teardown.run()
        assert "The gallery Gallery_1 stays, because its content could not be read (this play has" in completed.stdout
        annotations = teardown.cluster.get(*settings)["metadata"]["annotations"]
        assert "IMAGE_GALLERY_NAME" not in annotations
        assert annotations["osc.peerpods/image-gallery"] == "Gallery_1"
        message = failure_message(completed)
        assert f"takes effect at the next boot of {', '.join(NAMES)}" in message
        assert "osc-rpm-" in message
        assert "machineconfigpool" not in message

    def test_the_removal_resumes_after_the_reboots(self, teardown: RoleAlone):
        teardown.cluster.annotate("node", *NAMES, f"{REBOOTED}=yes")
        succeed(teardown)
        assert node_labels(teardown.cluster, INSTALL_STATE) == [None] * 2
        assert not teardown.cluster.get("kataconfigs")["items"]


@pytest.fixture(scope="module")
def compact(cluster: Cluster) -> None:
    """The workers are the nodes of the control plane."""
    cluster.define(*cluster.definitions)
    openshift.fill(cluster, WORKERS, aws.REGION)
    cluster.label("node", *NAMES, f"{MASTER_LABEL}=")

    def is_converged() -> bool:
        pools = {pool["metadata"]["name"]: pool["status"] for pool in cluster.get("machineconfigpools")["items"]}
        return (pools["master"]["machineCount"], pools["worker"]["machineCount"]) == (2, 0)

    wait_for("the pools", is_converged, seconds=30)


@pytest.mark.usefixtures("compact")
class TestCompact:
    @pytest.mark.parametrize("variables", [{}, {"operator_install_confirm": "another"}], ids=["without", "other"])
    def test_reboots_of_the_control_plane_need_a_confirmation(self, role: RoleAlone, variables: dict):
        with role.unchanged():
            message = failure_message(role.run("-e", json.dumps(variables)))
        assert "reboots the 2 nodes of the control plane" in message
        assert f"Set operator_install_confirm to {openshift.INFRASTRUCTURE_NAME}" in message

    def test_with_it_kata_is_installed_by_the_pool_of_the_control_plane(self, role: RoleAlone):
        assert "2 of 2 nodes run kata" in succeed(role, CONFIRMED)
        pools = {pool["metadata"]["name"]: pool["spec"] for pool in role.cluster.get("machineconfigpools")["items"]}
        assert pools.keys() == {"master", "worker"}
        assert pools["master"]["configuration"]["name"] == "rendered-kata-oc-1.13"
        daemon_set = role.cluster.get("daemonset", "osc-caa-ds", *NAMESPACE_ARGS)
        assert daemon_set["spec"]["template"]["spec"]["nodeSelector"] == {MASTER_LABEL: ""}

    def test_a_teardown_needs_it_again(self, teardown: RoleAlone):
        with teardown.unchanged():
            message = failure_message(teardown.run())
        assert f"Set operator_install_confirm to {openshift.INFRASTRUCTURE_NAME}" in message
