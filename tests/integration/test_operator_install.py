"""The role operator_install, its upgrade and its teardown, against stand-ins for OLM, MCO and the operator.

The tests depend on their order: objects of another installation exist, then the operator is installed, upgraded and
removed, and then installations fail. test_site.py and test_teardown.py have the installation on a bare cluster, its dry
run, and its removal; test_upgrade.py has the dry run and the second run of the upgrade.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from tests.cluster import aws, openshift
from tests.cluster.launcher import Cluster
from tests.cluster.operators import DEGRADES, LATEST_CSV, PACKAGE
from tests.cluster.processes import StartError, wait_for
from tests.integration.site import NOTHING_CHANGED, RoleAlone, artifacts, failure_message, play_of
from tests.support import OPERATOR_NAMESPACE, ROOT

WORKERS = openshift.imagined_workers(3)
NAMESPACE_ARGS = ("-n", OPERATOR_NAMESPACE)
MARK = "app.kubernetes.io/part-of=osc.peerpods"
VARIABLES = {
    "cluster_prerequisites_cluster": {
        "platform": "AWS",
        "region": aws.REGION,
        "infrastructure_name": openshift.INFRASTRUCTURE_NAME,
        "cluster_id": openshift.CLUSTER_ID,
    },
    "operator_install_aws_access_key_id": "AKIA0",
    "operator_install_aws_secret_access_key": "never shown",
    "operator_install_aws_vpc_id": "vpc-0a",
    "operator_install_aws_subnet_id": "subnet-0a",
    "operator_install_aws_security_group_ids": ["sg-0a", "sg-0b"],
    # There is no cloud that could confirm the image.
    "operator_install_confirm_image": False,
}


def csv(version: str) -> str:
    return f"{PACKAGE}.v{version}"


def manual(version: str = "") -> dict:
    return {
        "operator_install_install_plan_approval": "Manual",
        "operator_install_starting_csv": version and csv(version),
    }


class Role(RoleAlone):
    def run_with(self, variables: dict | None = None, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("-e", json.dumps(variables or {}), *arguments)

    def succeeds(self, variables: dict | None = None) -> subprocess.CompletedProcess[str]:
        completed = self.run_with(variables)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed


def names(cluster: Cluster, kind: str, *arguments: str) -> list[str]:
    return [item["metadata"]["name"] for item in cluster.get(kind, *arguments)["items"]]


def labelled(cluster: Cluster) -> set[str]:
    """The objects with the label of the collection."""
    kinds = "namespaces,operatorgroups,subscriptions,clusterserviceversions,configmaps,secrets,kataconfigs"
    labelled_objects = cluster.get(kinds, "-A", "-l", MARK)["items"]
    return {f"{item['kind']}/{item['metadata']['name']}" for item in labelled_objects}


def plans(cluster: Cluster) -> list[tuple[str, bool]]:
    """The CSV of each InstallPlan, and whether the plan is approved."""
    return [
        (name, plan["spec"]["approved"])
        for plan in cluster.get("installplans", *NAMESPACE_ARGS)["items"]
        for name in plan["spec"]["clusterServiceVersionNames"]
    ]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(definitions=openshift.definitions()) as running:
        openshift.fill(running, WORKERS, aws.REGION)
        openshift.start_stand_ins(running, "process")
        yield running


def all_objects(cluster: Cluster) -> dict:
    """All objects, without fields that the API server maintains."""
    kinds = (
        "namespaces,operatorgroups,subscriptions,installplans,clusterserviceversions,configmaps,"
        "secrets,kataconfigs,peerpodconfigs,machineconfigpools,runtimeclasses,nodes"
    )
    return {
        f"{item['kind']}/{item['metadata'].get('namespace')}/{item['metadata']['name']}": [
            item["metadata"].get("labels"),
            item.get("spec"),
            item.get("data"),
        ]
        for item in cluster.get(kinds, "-A")["items"]
    }


@pytest.fixture(scope="module")
def existing_objects(cluster: Cluster) -> dict:
    """Objects that another installation created, and all objects of the cluster with them."""
    metadata = {"namespace": OPERATOR_NAMESPACE}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}},
        {
            "apiVersion": "operators.coreos.com/v1",
            "kind": "OperatorGroup",
            "metadata": {**metadata, "name": "a-consoles"},
            "spec": {"targetNamespaces": [OPERATOR_NAMESPACE]},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**metadata, "name": "osc-feature-gates"},
            "data": {"deploymentMode": "MachineConfig", "confidential": "false"},
        },
    )
    wait_for(
        "the CA of every namespace",
        lambda: "kube-root-ca.crt" in names(cluster, "configmaps", *NAMESPACE_ARGS),
        seconds=30,
    )
    return all_objects(cluster)


@pytest.fixture(scope="module")
def role(cluster: Cluster, existing_objects: dict, tmp_path_factory: pytest.TempPathFactory) -> Role:
    playbook = play_of("operator_install", tmp_path_factory.mktemp("install"))
    return Role(cluster, None, {}, list, VARIABLES, playbook)


@pytest.fixture(scope="module")
def upgrade(cluster: Cluster) -> Role:
    return Role(cluster, None, {}, list, {}, ROOT / "playbooks" / "upgrade.yml")


@pytest.fixture(scope="module")
def teardown(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Role:
    playbook = play_of("operator_install", tmp_path_factory.mktemp("teardown"))
    (play,) = json.loads(playbook.read_text())
    role = {"name": play.pop("roles")[0], "tasks_from": "teardown"}
    playbook.write_text(json.dumps([{**play, "tasks": [{"ansible.builtin.import_role": role}]}]))
    return Role(cluster, None, {}, list, {}, playbook)


@pytest.fixture
def nothing_changes(role: Role) -> Iterator[None]:
    with role.unchanged():
        yield


@pytest.mark.usefixtures("nothing_changes")
class TestBeforeAnything:
    def test_a_missing_catalog_is_reported(self, role: Role):
        message = failure_message(role.run_with({"operator_install_source": "mirror"}))
        assert "There is no CatalogSource openshift-marketplace/mirror" in message
        assert "offered by openshift-marketplace/redhat-operators (channels candidate, preview, stable" in message
        assert "Set operator_install_source" in message

    def test_invalid_settings_are_reported_together(self, role: Role):
        message = failure_message(
            role.run_with(
                {
                    "operator_install_proxy_timeout": "5 minutes",
                    "operator_install_vxlan_port": 70000,
                    "operator_install_aws_subnet_id": "sg-0a",
                    "operator_install_podvm_ami_id": "the latest",
                    "operator_install_feature_gates": {"confidential": True, "no-gate": True},
                    "operator_install_tags": {"team": "a,b"},
                    "operator_install_extra_config": {"DISABLECVM": True},
                }
            )
        )
        assert "operator_install_proxy_timeout must be a Go duration, such as 5m or 1m30s; got '5 minutes'." in message
        assert "operator_install_vxlan_port must be a port, from 1 to 65535; got '70000'." in message
        assert "operator_install_aws_subnet_id must be the ID of a subnet, subnet-…; got 'sg-0a'." in message
        assert "operator_install_podvm_ami_id must be the ID of an AMI, ami-…; got 'the latest'." in message
        assert "'no-gate' in operator_install_feature_gates is not the name of a feature gate" in message
        assert "The tag 'team' in operator_install_tags has a comma" in message
        assert "DISABLECVM in operator_install_extra_config contradicts the feature gate" in message


class TestManualApproval:
    def test_an_install_plan_that_was_not_requested_is_not_approved(self, role: Role):
        message = failure_message(role.run_with(manual()))
        assert f"waits for approval. It installs {LATEST_CSV}, and no version is requested" in message
        assert "operator_install_starting_csv" in message
        assert plans(role.cluster) == [(LATEST_CSV, False)]

    def test_only_the_requested_version_is_approved(self, role: Role):
        """A node that cannot be rolled ends the wait immediately, and its reason is reported."""
        # The API server gives times in seconds: the plan would count as an answer to a Subscription of the same second.
        (plan,) = role.cluster.get("installplans", *NAMESPACE_ARGS)["items"]
        created = datetime.fromisoformat(plan["metadata"]["creationTimestamp"])
        wait_for("the next second", lambda: (datetime.now(UTC) - created).total_seconds() > 1, seconds=5)
        last = WORKERS[-1].name
        role.cluster.annotate("node", last, f"{DEGRADES}=disk full")
        try:
            message = failure_message(role.run_with(manual("1.7.0")))
        finally:
            role.cluster.annotate("node", last, f"{DEGRADES}-")
        # The message of the KataConfig or of the pool, whichever comes first; not an outdated message.
        assert "disk full" in message
        assert "Timed out" not in message
        assert "oc describe machineconfigpool kata-oc" in message
        assert (csv("1.7.0"), True) in plans(role.cluster)
        assert (LATEST_CSV, False) in plans(role.cluster)

    def test_the_installation_resumes_and_reports_its_progress(self, role: Role):
        def reported() -> str:
            return role.cluster.kubectl("get", "machineconfigpools,kataconfigs", "-o", "json")

        wait_for("the end of the reports about the node", lambda: "disk full" not in reported(), seconds=30)
        settings = {
            "operator_install_tags": {"team": "a", "cost": "b"},
            "operator_install_feature_gates": {"confidential": False},
        }
        completed = role.succeeds({**manual("1.7.0"), **settings})
        assert f"{csv('1.7.0')} is Succeeded" in completed.stderr
        assert "3 of 3 nodes run kata; MachineConfigPool kata-oc: 3 of 3 updated" in completed.stderr
        data = role.cluster.get("configmap", "peer-pods-cm", *NAMESPACE_ARGS)["data"]
        assert data["TAGS"] == "team=a,cost=b"
        assert "with older settings than" not in completed.stdout
        gates = role.cluster.get("configmap", "osc-feature-gates", *NAMESPACE_ARGS)["data"]
        assert gates == {"confidential": "false", "deploymentMode": "MachineConfig"}

    def test_a_second_run_changes_nothing(self, role: Role):
        """The next version is available by now and waits for an approval."""
        following = (csv("1.8.0"), False)
        wait_for("the next InstallPlan", lambda: following in plans(role.cluster), seconds=20)
        completed = role.succeeds(manual("1.7.0"))
        assert NOTHING_CHANGED.search(completed.stdout), completed.stdout
        assert "with older settings than" not in completed.stdout
        assert following in plans(role.cluster)

    def test_created_objects_are_labelled_and_existing_objects_are_not(self, role: Role):
        assert labelled(role.cluster) == {
            f"Subscription/{PACKAGE}",
            "ConfigMap/peer-pods-cm",
            "Secret/peer-pods-secret",
            "KataConfig/example-kataconfig",
        }

    def test_options_that_are_left_out_keep_the_settings(self, role: Role):
        completed = role.succeeds()
        assert NOTHING_CHANGED.search(completed.stdout), completed.stdout
        subscription = role.cluster.get("subscription", PACKAGE, *NAMESPACE_ARGS)["spec"]
        assert subscription["installPlanApproval"] == "Manual"

    def test_changing_the_objects_of_another_owner_is_a_choice(self, role: Role):
        """The settings of another owner are listed before anything is changed."""
        gates = {"operator_install_feature_gates": {"confidential": True}}
        with role.unchanged():
            message = failure_message(role.run_with(gates))
        assert "ConfigMap osc-feature-gates: confidential from false to true" in message
        assert "set operator_install_take_over to true" in message
        planned = role.run_with({**gates, "operator_install_take_over": True}, "--check", "--diff")
        assert planned.returncode == 0, planned.stdout
        assert "ConfigMap osc-feature-gates: confidential from false to true" in planned.stdout


class TestUpgrade:
    def test_a_version_that_is_not_offered_is_rejected(self, upgrade: Role):
        with upgrade.unchanged():
            message = failure_message(upgrade.run_with({"operator_install_upgrade_to": "1.8.7"}))
        assert f"has no {csv('1.8.7')}. From {csv('1.7.0')} it leads to {csv('1.8.0')}, {csv('1.8.1')}." in message

    def test_the_upgrade_installs_each_version_on_the_path(self, upgrade: Role):
        for worker in WORKERS:
            openshift.set_status(
                upgrade.cluster,
                f"node/{worker.name}",
                {key: {"kata.peerpods.io/vm": "10"} for key in ("capacity", "allocatable")},
            )
        completed = upgrade.succeeds()
        assert f"From {csv('1.7.0')} to {csv('1.8.1')}; the channel has {csv('1.8.0')} on the way" in completed.stdout
        assert f"{csv('1.8.0')}) is RequiresApproval" in completed.stderr
        assert f"{csv('1.8.1')} is Succeeded" in completed.stderr
        assert artifacts(completed.stdout) == {"peerpods_upgrade": {"from": "1.7.0", "to": "1.8.1"}}
        # One plan is left from the test in which no version was requested.
        approved = [csv("1.7.0"), csv("1.8.0"), LATEST_CSV]
        assert sorted(plans(upgrade.cluster)) == sorted([(LATEST_CSV, False), *((name, True) for name in approved)])
        assert names(upgrade.cluster, "clusterserviceversions", *NAMESPACE_ARGS) == [LATEST_CSV]

    def test_the_upgrade_rolled_the_nodes_again(self, upgrade: Role):
        nodes = upgrade.cluster.get("nodes", "-l", "node-role.kubernetes.io/kata-oc")["items"]
        key = "machineconfiguration.openshift.io/currentConfig"
        assert [node["metadata"]["annotations"][key] for node in nodes] == ["rendered-kata-oc-1.8"] * 3


class TestTeardown:
    def test_kata_pods_prevent_the_teardown_before_anything_is_deleted(self, teardown: Role):
        teardown.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "peer", "namespace": "default"},
                "spec": {"runtimeClassName": "kata-remote", "containers": [{"name": "one", "image": "none"}]},
            }
        )
        with teardown.unchanged():
            message = failure_message(teardown.run_with())
        assert "Pods with the RuntimeClass kata-remote exist: default/peer. " in message
        teardown.cluster.delete("pod", "peer", "--force", "--grace-period=0")

    def test_an_image_job_prevents_the_teardown_before_anything_is_deleted(self, teardown: Role):
        """The operator would leave the image that it creates."""
        cluster = teardown.cluster
        image = cluster.get("configmap", "peer-pods-cm", *NAMESPACE_ARGS)["data"].get("PODVM_AMI_ID", "")
        # The job that the operator creates does not end, since its pod cannot be scheduled.
        cluster.kubectl("cordon", openshift.CONTROL_PLANE_NODE)
        cluster.merge("configmap/peer-pods-cm", {"data": {"PODVM_AMI_ID": ""}}, OPERATOR_NAMESPACE)
        cluster.kubectl("wait", "--for=create", "job/osc-podvm-image-creation", "--timeout=30s", *NAMESPACE_ARGS)
        with teardown.unchanged():
            message = failure_message(teardown.run_with())
        assert "The job osc-podvm-image-creation is creating an image of the pod VMs, which would stay" in message
        cluster.merge("configmap/peer-pods-cm", {"data": {"PODVM_AMI_ID": image}}, OPERATOR_NAMESPACE)
        # The operator deletes the job without its pod, which would create an image.

        def is_deleted() -> bool:
            return all("deletionTimestamp" in job["metadata"] for job in cluster.get("jobs", *NAMESPACE_ARGS)["items"])

        wait_for("the deletion", is_deleted, seconds=60)
        cluster.kubectl("delete", "pods", "-l", "job-name=osc-podvm-image-creation", *NAMESPACE_ARGS)
        cluster.kubectl("uncordon", openshift.CONTROL_PLANE_NODE)

    def test_an_interrupted_teardown_resumes_and_leaves_existing_objects(self, teardown: Role, existing_objects: dict):
        # The operator may have released the nodes before this run begins to wait.
        teardown.cluster.delete("kataconfig", "example-kataconfig", "--wait=false")
        completed = teardown.succeeds()
        assert "OperatorGroup/a-consoles" in completed.stdout
        assert labelled(teardown.cluster) == set()
        # The operator itself never deletes the settings of its image job, and another owner needs the namespace.
        settings = f"ConfigMap/{OPERATOR_NAMESPACE}/aws-podvm-image-cm"

        def remaining() -> dict:
            return {key: value for key, value in all_objects(teardown.cluster).items() if key != settings}

        with contextlib.suppress(StartError):
            wait_for("what belonged to it to go", lambda: remaining() == existing_objects, seconds=30)
        assert remaining() == existing_objects


class TestAutomaticApproval:
    def test_a_failure_of_olm_is_reported(self, role: Role):
        message = failure_message(role.run_with({"operator_install_channel": "candidate"}))
        assert f"ClusterServiceVersion {csv('1.9.0')} failed: InstallCheckFailed, install timeout" in message
        assert "OLM does not repeat" in message
        for kind in ("subscriptions", "clusterserviceversions"):
            role.cluster.delete(kind, "--all", *NAMESPACE_ARGS)

    def test_a_bundle_that_cannot_be_unpacked_is_reported(self, cluster: Cluster, run_module: Callable[..., dict]):
        cluster.apply(
            {
                "apiVersion": "operators.coreos.com/v1alpha1",
                "kind": "Subscription",
                "metadata": {"name": PACKAGE, "namespace": OPERATOR_NAMESPACE},
                "spec": {
                    "name": PACKAGE,
                    "channel": "preview",
                    "source": "redhat-operators",
                    "sourceNamespace": "openshift-marketplace",
                },
            }
        )

        def progress() -> dict:
            result = run_module("operator_wait", {"wait_for": "operator", "kubeconfig": str(cluster.kubeconfig)})
            return result["progress"]

        failed = wait_for("a problem", lambda: (now := progress())["problem"] and now, seconds=30)
        assert "failed: bundle unpacking failed. Reason: DeadlineExceeded" in failed["problem"]
        assert "OLM does not repeat" in failed["remedy"]
        for kind in ("subscriptions", "installplans"):
            cluster.delete(kind, "--all", *NAMESPACE_ARGS)

    def test_a_version_that_olm_replaces_by_itself_is_accepted(self, role: Role):
        """With automatic approvals OLM installs the newest version, and no run waits for another one."""
        settings = {"operator_install_starting_csv": csv("1.8.0")}
        role.run_and_kill("Enable peer pods in the KataConfig", "-e", json.dumps(settings))
        assert (csv("1.8.0"), True) in plans(role.cluster)
        wait_for("the newest version", lambda: (LATEST_CSV, True) in plans(role.cluster), seconds=30)
