"""The playbook upgrade.yml from the operator's first generation to the second, and the renewal of the pod VM image."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.cluster import openshift
from tests.cluster.aws import Moto
from tests.cluster.image_builder import IMAGINED
from tests.cluster.launcher import Cluster
from tests.cluster.operators import IMAGE_JOB_FAILS
from tests.cluster.processes import wait_for
from tests.integration.agent import AGENT_NAMESPACE, start_agent
from tests.integration.site import NOTHING_CHANGED, RoleAlone, artifacts, bad_weather, failure_message
from tests.integration.test_stand_ins import NAMESPACE_ARGS, World, first_generation, make_peer_pods
from tests.support import OPERATOR_NAMESPACE, ROOT

BACKUP = "peerpods-kataconfig"

# A finalizer of another owner.
HOLD = "example.com/hold"

# The annotations with which an interrupted run keeps what it must restore.
KEPT_IMAGE = "osc.peerpods/pod-vm-image"
KEPT_GALLERY = "osc.peerpods/image-gallery"
HELD = "osc.peerpods/caa-update-strategy"

# The image that the operator's job makes.
RENEWED_IMAGE = IMAGINED["aws"]


class Upgrade(RoleAlone):
    """The playbook, and the cluster that it upgrades."""

    def run_with(self, *arguments: str, **variables: object) -> subprocess.CompletedProcess[str]:
        return self.run("-e", json.dumps(variables), *arguments)

    def succeeds(self, *arguments: str, **variables: object) -> subprocess.CompletedProcess[str]:
        completed = self.run_with(*arguments, **variables)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed

    def image(self) -> str:
        return self.cluster.get("configmap", "peer-pods-cm", *NAMESPACE_ARGS)["data"].get("PODVM_AMI_ID", "")

    def kata_configs(self) -> list[dict]:
        return self.cluster.get("kataconfigs")["items"]

    def wait_for_deletion(self) -> None:
        """Wait until the playbook, which runs meanwhile, has deleted the KataConfig."""
        wait_for("the deletion", lambda: "deletionTimestamp" in self.kata_configs()[0]["metadata"], seconds=300)


def made_by_job(cluster: Cluster, image: str) -> None:
    """Mark the image as the image job does."""
    cluster.annotate("configmap", "peer-pods-cm", f"LATEST_AMI_ID={image}", *NAMESPACE_ARGS)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with first_generation(PODVM_AMI_ID="ami-0") as first:
        wait_for("the default limit", lambda: first.advertised() == ["10", "10"], seconds=60)
        first.cluster.merge("peerpodconfig/peerpodconfig-openshift", {"spec": {"limit": "5"}}, OPERATOR_NAMESPACE)
        made_by_job(first.cluster, "ami-0")
        yield first


@pytest.fixture(scope="module")
def upgrade(world: World) -> Upgrade:
    # There is no cloud that could confirm the image.
    variables = {"operator_install_confirm_image": False}
    return Upgrade(world.cluster, None, {}, list, variables, ROOT / "playbooks" / "upgrade.yml")


def test_peer_pods_are_not_lost_without_confirmation(world: World, upgrade: Upgrade):
    make_peer_pods(world, kept="Always")
    with upgrade.unchanged():
        message = failure_message(upgrade.run_with())
    assert "Peer pods are running and would be lost" in message
    assert "default/kept" in message
    assert "operator_install_upgrade_disruption" in message
    assert world.version() == "1.8.1"


def test_the_wait_for_peer_pods_has_a_timeout(upgrade: Upgrade):
    with upgrade.unchanged():
        message = failure_message(
            upgrade.run_with(operator_install_upgrade_disruption="wait", operator_install_disruption_timeout=1)
        )
    assert "default/kept" in message


def test_a_dry_run_lists_the_affected_peer_pods(upgrade: Upgrade):
    with upgrade.unchanged():
        completed = upgrade.run_with("--check", operator_install_upgrade_disruption="allow")
    assert completed.returncode == 0, completed.stdout
    assert "Peer pods that would be lost: 1 running: default/kept" in completed.stdout


RENEW = {"operator_install_renew_image": True}
# The KataConfig is not of this collection.
NOT_TAKEN_OVER = {**RENEW, "operator_install_confirm": openshift.INFRASTRUCTURE_NAME}
CONFIRMED = {**NOT_TAKEN_OVER, "operator_install_take_over": True}


def test_a_renewal_requires_a_confirmation(upgrade: Upgrade):
    """Before the upgrade, as all that a renewal requires."""
    with upgrade.unchanged():
        message = failure_message(upgrade.run_with(**RENEW, operator_install_confirm="another"))
    assert f"Set operator_install_confirm to {openshift.INFRASTRUCTURE_NAME}" in message


def test_a_renewal_of_a_kata_config_of_another_owner(upgrade: Upgrade):
    with upgrade.unchanged():
        message = failure_message(upgrade.run_with(**NOT_TAKEN_OVER))
    assert "This collection did not create the KataConfig kata." in message


def test_a_renewal_while_kata_pods_run(upgrade: Upgrade):
    with upgrade.unchanged():
        message = failure_message(upgrade.run_with(**CONFIRMED, operator_install_upgrade_disruption="allow"))
    assert "default/kept" in message
    assert "The KataConfig was not changed" in message


def test_the_loss_of_the_limit_of_a_pool_is_reported(world: World, upgrade: Upgrade):
    """The new operator ignores the PeerPodConfig of the pool, and no agent that enforces its limit is deployed."""
    other_config = openshift.peer_pod_config("none")
    other_config["metadata"]["name"] = "memory"
    world.cluster.apply(other_config)
    with upgrade.unchanged():
        message = failure_message(upgrade.run_with(operator_install_upgrade_disruption="allow"))
    assert "The PeerPodConfigs memory set limits for pools of nodes" in message
    assert "node_capacity_manager=collection" in message


def test_the_upgrade_across_the_migration(world: World, upgrade: Upgrade):
    """The limit and another PeerPodConfig are preserved, and the run reports both."""
    labels = {"app.kubernetes.io/name": "peerpods-node-capacity"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "agent", "image": "i"}]},
    }
    world.cluster.kubectl("create", "namespace", AGENT_NAMESPACE)
    world.cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "peerpods-node-capacity", "namespace": AGENT_NAMESPACE},
            # The agent runs as a process outside the cluster.
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
        }
    )
    start_agent(world.cluster)
    with bad_weather(upgrade) as troubled:
        completed = troubled.succeeds(operator_install_upgrade_disruption="allow")
    assert (
        "from the PeerPodConfig peerpodconfig-openshift (5) to PEERPODS_LIMIT_PER_NODE of peer-pods-cm (5)"
        in completed.stdout
    )
    assert "PeerPodConfigs that stay: memory" in completed.stdout
    # The last PeerPodConfig that 1.8 has read.
    assert "because the PeerPodConfig memory owns it" in completed.stdout
    assert artifacts(completed.stdout) == {"peerpods_upgrade": {"from": "1.8.1", "to": "1.13.0"}}
    # The last pods of cloud-api-adaptor may still be replaced.
    wait_for("the limit", lambda: world.advertised() == ["5", "5"], seconds=60)


def test_a_second_run_changes_nothing(world: World, upgrade: Upgrade):
    """Running peer pods are not checked, since nothing is replaced."""
    with upgrade.unchanged():
        completed = upgrade.succeeds()
    assert NOTHING_CHANGED.search(completed.stdout), completed.stdout
    assert "nothing to upgrade" in completed.stdout


def test_a_renewal_whose_image_job_would_fail(world: World, upgrade: Upgrade, moto: Moto):
    """The credentials are given, and the bucket was deleted after the first image."""
    openshift.remove_pods(world.cluster)
    on_moto = replace(upgrade, cloud_environment=moto.environment)
    with upgrade.unchanged():
        completed = on_moto.run_with(**{**CONFIRMED, "operator_install_confirm_image": True})
    message = failure_message(completed)
    assert "and it fails without what does not exist: S3 bucket podvm-image-262093934.0.1" in message
    assert message.endswith("The KataConfig was not changed.")


def test_a_renewal(world: World, upgrade: Upgrade):
    """A gallery that cannot be read may have images of other owners: the operator does not find its name."""
    settings = ("configmap", "peer-pods-cm", *NAMESPACE_ARGS)
    world.cluster.annotate(*settings, "IMAGE_GALLERY_NAME=Gallery_1")
    world.cluster.annotate("kataconfig", "kata", "argocd.argoproj.io/tracking-id=apps:kata")
    # An owner that exists, and one that was deleted.
    namespace = world.cluster.get("namespace", "default")["metadata"]
    owner = {"apiVersion": "v1", "kind": "Namespace", "name": "default", "uid": namespace["uid"]}
    lost_owner = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "name": "gone",
        "uid": "7f1c8c1e-30a5-4a2b-9a53-1f5d1f3f4a3e",
    }
    world.cluster.merge("kataconfig/kata", {"metadata": {"ownerReferences": [owner, lost_owner]}})
    (before,) = upgrade.kata_configs()
    found: list[dict] = []

    def watch() -> None:
        upgrade.wait_for_deletion()
        found.append(world.cluster.get(*settings)["metadata"]["annotations"])

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        completed = upgrade.succeeds(**CONFIRMED)
        watching.result()
    assert "The gallery Gallery_1 stays, because its content could not be read (" in completed.stdout
    (meanwhile,) = found
    assert ("IMAGE_GALLERY_NAME" in meanwhile, meanwhile[KEPT_GALLERY]) == (False, "Gallery_1")
    restored = world.cluster.get(*settings)["metadata"]["annotations"]
    assert (restored["IMAGE_GALLERY_NAME"], KEPT_GALLERY in restored) == ("Gallery_1", False)
    world.cluster.annotate(*settings, "IMAGE_GALLERY_NAME-")
    (after,) = upgrade.kata_configs()
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert [after["spec"], *(after["metadata"].get(key) for key in ("name", "labels", "annotations"))] == [
        before["spec"],
        *(before["metadata"].get(key) for key in ("name", "labels", "annotations")),
    ]
    assert after["metadata"]["ownerReferences"] == [owner]
    assert upgrade.image() == RENEWED_IMAGE
    assert "in place of ami-0" in completed.stdout
    names = [config_map["metadata"]["name"] for config_map in world.cluster.get("configmaps", *NAMESPACE_ARGS)["items"]]
    assert BACKUP not in names


def test_an_interrupted_renewal_is_resumed(world: World, upgrade: Upgrade):
    """The KataConfig was deleted, and a ConfigMap contains a copy of it."""
    (before,) = upgrade.kata_configs()
    saved_config = {"name": before["metadata"]["name"], "labels": {}, "spec": before["spec"]}
    world.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": BACKUP,
                "namespace": OPERATOR_NAMESPACE,
                "labels": {"app.kubernetes.io/part-of": "osc.peerpods"},
            },
            "data": {"kataconfig": json.dumps(saved_config), "image": "ami-0"},
        }
    )
    world.cluster.delete("kataconfig", saved_config["name"])
    wait_for("the image to go", lambda: not upgrade.image(), seconds=20)
    stored = json.dumps(saved_config)
    world.cluster.merge(f"configmap/{BACKUP}", {"data": {"kataconfig": stored[:-1]}}, OPERATOR_NAMESPACE)
    assert f"in the key kataconfig of ConfigMap {BACKUP} in {OPERATOR_NAMESPACE}" in failure_message(
        upgrade.run_with(**CONFIRMED)
    )
    world.cluster.merge(f"configmap/{BACKUP}", {"data": {"kataconfig": stored}}, OPERATOR_NAMESPACE)
    upgrade.succeeds(**CONFIRMED)
    assert [kata_config["spec"] for kata_config in upgrade.kata_configs()] == [before["spec"]]
    assert upgrade.image() == RENEWED_IMAGE


def test_an_image_of_a_user_is_not_renewed(upgrade: Upgrade):
    """The operator would delete it."""
    made_by_job(upgrade.cluster, "ami-0")
    with upgrade.unchanged():
        message = failure_message(upgrade.run_with(**CONFIRMED))
    made_by_job(upgrade.cluster, RENEWED_IMAGE)
    assert f"PODVM_AMI_ID of peer-pods-cm is {RENEWED_IMAGE}, which no image job of the operator made" in message


def test_an_image_that_the_operator_does_not_delete(upgrade: Upgrade):
    """The KataConfig is created again."""
    (before,) = upgrade.kata_configs()
    upgrade.cluster.annotate("kataconfig", "kata", f"{IMAGE_JOB_FAILS}=delete")
    message = failure_message(upgrade.run_with(**CONFIRMED))
    assert "the operator did not delete the image" in message
    assert [kata_config["spec"] for kata_config in upgrade.kata_configs()] == [before["spec"]]


def test_a_teardown_keeps_what_is_of_another_owner(upgrade: Upgrade, run_module: Callable[..., dict]):
    """The image that peer-pods-cm names, which the operator would delete, and objects that another owner takes over or
    creates again while the nodes are rolled."""
    cluster = upgrade.cluster
    meanwhile: list[dict] = []
    attempts: list[dict] = []

    def another_owner() -> None:
        upgrade.wait_for_deletion()
        # The operator would delete the image if another run restored its ID now.
        attempts.append(run_module("adaptor_config", {"kubeconfig": str(cluster.kubeconfig)}, check=True))
        meanwhile.append(cluster.get("configmap", "peer-pods-cm", *NAMESPACE_ARGS))
        cluster.label("configmap", "osc-feature-gates", "app.kubernetes.io/part-of-", *NAMESPACE_ARGS)
        cluster.delete("secret", "peer-pods-secret", *NAMESPACE_ARGS)
        cluster.apply(openshift.POD_VM_CREDENTIALS)
        held = [HOLD]
        wait_for("the operator", lambda: upgrade.kata_configs()[0]["metadata"]["finalizers"] == held, seconds=300)
        cluster.merge("kataconfig/kata", {"metadata": {"finalizers": None}})

    # An interrupted teardown has taken the image out, and the operator has made one meanwhile.
    cluster.annotate("configmap", "peer-pods-cm", f"{KEPT_IMAGE}=ami-mine", *NAMESPACE_ARGS)
    # A run that holds a replacement of cloud-api-adaptor pods was interrupted.
    gates = {"name": "osc-feature-gates", "namespace": OPERATOR_NAMESPACE, "annotations": {HELD: "RollingUpdate"}}
    held_gates = {"caaUpdateStrategy": "OnDelete"}
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": gates, "data": held_gates})
    for name in ("configmap/osc-feature-gates", "secret/peer-pods-secret", "kataconfig/kata"):
        cluster.label(name, "app.kubernetes.io/part-of=osc.peerpods", *NAMESPACE_ARGS)
    teardown = replace(upgrade, playbook=ROOT / "playbooks" / "teardown.yml")
    # The parts after one that fails are planned, too.
    with upgrade.unchanged():
        planned = teardown.run_with("--check", "--tags", "webhook,operator_install", webhook_timeout="soon")
    (failure,) = artifacts(planned.stdout)["peerpods_teardown"]["failures"]
    assert "webhook_timeout" in failure
    assert f"These tasks failed: {failure} The parts that do not depend" in failure_message(planned)
    cluster.merge("configmap/peer-pods-cm", {"data": {"PODVM_AMI_ID": "ami-mine"}}, OPERATOR_NAMESPACE)
    finalizers = upgrade.kata_configs()[0]["metadata"]["finalizers"]
    cluster.merge("kataconfig/kata", {"metadata": {"finalizers": [*finalizers, HOLD]}})
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(another_owner)
        removed = teardown.succeeds("--tags", "operator_install")
        other.result()
    for completed in (planned, removed):
        assert artifacts(completed.stdout)["peerpods_teardown"]["stays"]["images"] == ["ami-mine"]
        assert "The image of the VMs, ami-mine, stays" in completed.stdout
    assert not upgrade.kata_configs()
    (attempt,) = attempts
    assert "ConfigMap/peer-pods-cm" not in attempt["written"]
    assert any("does not name the image of the pod VMs yet" in warning for warning in attempt["warnings"])
    (settings,) = meanwhile
    assert settings["metadata"]["annotations"][KEPT_IMAGE] == "ami-mine"
    assert settings["data"]["PODVM_AMI_ID"] != "ami-mine"
    # The pods of deleted jobs stay.
    containers = [pod["spec"]["containers"][0] for pod in cluster.get("pods", *NAMESPACE_ARGS)["items"]]
    assert {"name": "AMI_ID", "value": "ami-mine"} not in [each for one in containers for each in one.get("env", ())]
    # A user has created peer-pods-cm.
    assert upgrade.image() == "ami-mine"
    assert KEPT_IMAGE not in cluster.get("configmap", "peer-pods-cm", *NAMESPACE_ARGS)["metadata"]["annotations"]
    restored = cluster.get("configmap", "osc-feature-gates", *NAMESPACE_ARGS)
    assert (restored["data"], HELD in restored["metadata"].get("annotations", {})) == (
        {"caaUpdateStrategy": "RollingUpdate"},
        False,
    )
    assert artifacts(removed.stdout)["peerpods_teardown"]["failures"] == []
    kept = {"ConfigMap/osc-feature-gates", "Secret/peer-pods-secret"}
    assert kept <= {*artifacts(removed.stdout)["peerpods_teardown"]["stays"]["operator"]}
    for name in ("configmap/osc-feature-gates", "secret/peer-pods-secret"):
        assert cluster.get(name, *NAMESPACE_ARGS)
