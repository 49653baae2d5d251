"""playbooks/teardown.yml: it restores the cluster and the cloud to their state before site.yml.

The tests depend on their order: a bare cluster is set up and torn down, and then a cluster with existing
objects.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.azure_arm import AzureArm
from tests.cluster import aws, azure, openshift
from tests.cluster.adaptor import OWNER
from tests.cluster.clouds import site_variables
from tests.cluster.launcher import Cluster
from tests.cluster.processes import wait_for
from tests.cluster.releases import NEWEST
from tests.integration.site import (
    NOTHING_CHANGED,
    RoleAlone,
    Site,
    artifacts,
    failure_message,
    play_of,
    user_of,
)
from tests.support import OPERATOR_NAMESPACE, ROOT

pytestmark = pytest.mark.integration

TEARDOWN = ROOT / "playbooks" / "teardown.yml"
NAMESPACE = "osc-peerpods"

# Objects that the control plane creates and deletes by itself, such as Leases and Events.
FLEETING = ("componentstatuses", "events", "events.events.k8s.io", "leases.coordination.k8s.io")
# The history of writes is not part of the state.
BOOKKEEPING = ("generation", "managedFields", "resourceVersion")

Key = tuple[str, str | None, str]


def dump(cluster: Cluster) -> dict[Key, dict]:
    """Every object of every kind that the API server lists, except pods of a DaemonSet, whose names change."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    found = cluster.get(",".join(kind for kind in kinds if kind not in FLEETING), "-A")["items"]
    return {
        (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]): _lasting(item)
        for item in found
        if "DaemonSet" not in {owner["kind"] for owner in item["metadata"].get("ownerReferences", ())}
    }


def _lasting(item: dict) -> dict:
    for field in BOOKKEEPING:
        item["metadata"].pop(field, None)
    # cloud-api-adaptor leaves it behind (pkg/adaptor/k8sops/node.go).
    item["metadata"].get("annotations", {}).pop(OWNER, None)
    for condition in item.get("status", {}).get("conditions", ()):
        condition.pop("lastHeartbeatTime", None)
        condition.pop("lastTransitionTime", None)
    return item


def differing(before: dict[Key, dict], after: dict[Key, dict]) -> dict[Key, str | set[str]]:
    """For each changed object: whether it is new or gone, or else the fields that differ."""

    def describe_difference(key: Key) -> str | set[str]:
        one, other = before.get(key), after.get(key)
        if one is None or other is None:
            return "gone" if one else "came"
        return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}

    return {key: describe_difference(key) for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


@pytest.fixture(scope="module")
def operator(request: pytest.FixtureRequest) -> str:
    """The release that the catalog leads to."""
    return request.param


@pytest.fixture(scope="module")
def site(moto: aws.Moto, cloud_side: aws.CloudSide, operator: str) -> Iterator[Site]:
    ec2 = moto.client("ec2")
    with Cluster() as cluster:
        openshift.fill(cluster, cloud_side.workers, aws.REGION, peer_pod_configs=operator != NEWEST)
        openshift.start_stand_ins(cluster, "process", operator)
        wait_for(
            "the machine config operator's first word",
            lambda: "conditions" in cluster.get("machineconfigpool", "worker")["status"],
            seconds=30,
        )

        def groups() -> list[dict]:
            """The security groups and their rules, each with its tags."""
            return [
                *ec2.describe_security_groups()["SecurityGroups"],
                *ec2.describe_security_group_rules()["SecurityGroupRules"],
            ]

        yield Site(cluster, cloud_side, moto.environment, groups, site_variables("process"))


@pytest.fixture(scope="module")
def teardown(site: Site) -> RoleAlone:
    """Run by a user with exactly the permissions that the playbook checks first."""
    return RoleAlone(**{**vars(site), "kubeconfig": user_of(site.cluster, "teardown")}, playbook=TEARDOWN)


def succeed(run: Callable[..., subprocess.CompletedProcess[str]], *arguments: str) -> str:
    ran = run(*arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def stays(message: str) -> dict:
    """The result that the playbook published for the next job of a workflow."""
    return artifacts(message)["peerpods_teardown"]["stays"]


@pytest.fixture(scope="module")
def bare(site: Site, teardown: RoleAlone) -> tuple[dict[Key, dict], list[dict]]:
    """The cluster and the cloud before site.yml, which has been run since."""
    before = dump(site.cluster), site.rules()
    agent = ("-e", "node_capacity_manager=collection")
    succeed(site.run, "-e", "node_capacity_console_dashboard=true", *agent)
    return before


@pytest.mark.parametrize("operator", [NEWEST], indirect=True, scope="module")
class TestBareCluster:
    def test_the_teardown_is_rejected_while_peer_pods_run(self, bare, site: Site, teardown: RoleAlone):
        site.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "app", "namespace": "default"},
                "spec": {"runtimeClassName": "kata-remote", "containers": [{"name": "app", "image": "app"}]},
            }
        )
        try:
            with site.unchanged():
                message = failure_message(teardown.run())
                forced = succeed(teardown.run, "--check", "--diff", "-e", "teardown_force=true")
        finally:
            site.cluster.kubectl("delete", "pod", "app", "--force", "--grace-period=0")
        assert "(default/app). Nothing was changed. Delete them, or the workloads that create them" in message
        assert "changed=0 " not in forced

    def test_the_teardown_is_rejected_without_permission_to_remove_everything(
        self, bare, site: Site, teardown: RoleAlone
    ):
        verbs = ("list", "watch", "get", "patch")
        site.cluster.kubectl("create", "clusterrole", "looker", f"--verb={','.join(verbs)}", "--resource=*.*")
        site.cluster.kubectl("create", "clusterrolebinding", "looker", "--clusterrole=looker", "--user=looker")
        looks = replace(teardown, kubeconfig=site.cluster.user_kubeconfig("looker"))
        with site.unchanged():
            message = failure_message(looks.run())
        site.cluster.kubectl("delete", "clusterrole,clusterrolebinding", "looker")
        assert "The user of this kubeconfig may not delete configmaps, delete namespaces, " in message
        assert "and 11 more" in message
        assert "Nothing was changed. Log in as a user" in message

    def test_the_cluster_and_the_cloud_are_restored(self, bare, site: Site, teardown: RoleAlone):
        output = succeed(teardown.run)
        cluster, cloud = bare
        assert differing(cluster, dump(site.cluster)) == {}
        assert site.rules() == cloud
        assert stays(output) == {
            "operator": [],
            "namespaces": [],
            "peerpodconfigs": [],
            "advertising_nodes": 0,
            "security_rules": None,
        }

    def test_a_second_run_changes_nothing(self, site: Site, teardown: RoleAlone):
        with site.unchanged():
            assert NOTHING_CHANGED.search(succeed(teardown.run))


# What differs if the KataConfig of another installation is in use, and why.
NEEDED = "the operator of that KataConfig makes VMs by it"
DIFFERENT = {
    ("ConfigMap", OPERATOR_NAMESPACE, "peer-pods-cm"): ({"data"}, NEEDED),
    ("Secret", OPERATOR_NAMESPACE, "peer-pods-secret"): ({"data"}, NEEDED),
    ("PeerPodConfig", OPERATOR_NAMESPACE, "peerpodconfig-openshift"): (
        {"status"},
        "setupCompleted: nodes advertise what it says",
    ),
}


@pytest.fixture(scope="module")
def by_hand(site: Site, teardown: RoleAlone, moto: aws.Moto) -> Iterator[tuple[dict[Key, dict], list[dict]]]:
    """The cluster and the cloud with objects that were created by hand; site.yml has been run since."""
    site.cluster.apply(
        *(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            for name in (OPERATOR_NAMESPACE, NAMESPACE)
        ),
        {
            "apiVersion": "operators.coreos.com/v1",
            "kind": "OperatorGroup",
            "metadata": {"name": "mine", "namespace": OPERATOR_NAMESPACE},
            "spec": {"targetNamespaces": [OPERATOR_NAMESPACE]},
        },
        {
            "apiVersion": "operators.coreos.com/v1alpha1",
            "kind": "Subscription",
            "metadata": {"name": "mine", "namespace": OPERATOR_NAMESPACE},
            "spec": {
                "name": "sandboxed-containers-operator",
                "channel": "stable",
                "source": "redhat-operators",
                "sourceNamespace": "openshift-marketplace",
                "installPlanApproval": "Automatic",
            },
        },
        {
            "apiVersion": "kataconfiguration.openshift.io/v1",
            "kind": "KataConfig",
            "metadata": {"name": "mine"},
            "spec": {"enablePeerPods": True, "logLevel": "info"},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "peer-pods-cm", "namespace": OPERATOR_NAMESPACE},
            "data": {**openshift.POD_VM_SETTINGS, "PODVM_AMI_ID": "ami-0"},
        },
        openshift.POD_VM_CREDENTIALS,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "peerpods-cloud-capacity", "namespace": NAMESPACE},
            "data": {"budget": "12"},
        },
    )
    group, ec2 = site.cloud.worker_group_id, moto.client("ec2")
    rule = {
        "GroupId": group,
        "IpPermissions": [
            {"IpProtocol": "tcp", "FromPort": 9000, "ToPort": 9000, "UserIdGroupPairs": [{"GroupId": group}]}
        ],
    }
    ec2.authorize_security_group_ingress(**rule)
    config = ("peerpodconfig", "peerpodconfig-openshift", "-n", OPERATOR_NAMESPACE)
    wait_for("the operator", lambda: site.cluster.get("peerpodconfigs", "-A")["items"], seconds=60)
    site.cluster.kubectl("patch", *config, "--type=merge", "-p", '{"spec": {"limit": "7"}}')
    workers = ("nodes", "-l", "node-role.kubernetes.io/worker")

    def advertised() -> set[str | None]:
        nodes = site.cluster.get(*workers)["items"]
        return {node["status"]["allocatable"].get("kata.peerpods.io/vm") for node in nodes}

    wait_for("the operator to advertise it", lambda: advertised() == {"7"}, seconds=30)
    before = dump(site.cluster), site.rules()
    succeed(site.run, "-e", "node_capacity_manager=collection")
    yield before
    ec2.revoke_security_group_ingress(**rule)


@pytest.mark.parametrize("operator", ["1.8"], indirect=True, scope="module")
class TestExistingObjects:
    def test_existing_objects_are_restored(self, by_hand, site: Site, teardown: RoleAlone):
        output = succeed(teardown.run)
        cluster, cloud = by_hand
        nodes = {key for key in cluster if key[0] == "Node" and key[2] != openshift.CONTROL_PLANE_NODE}
        # The agent bounded the limit by the cloud's capacity. The operator advertises its limit again only when the
        # PeerPodConfig changes.
        assert differing(cluster, dump(site.cluster)) == {
            **{key: describe_difference for key, (describe_difference, _why) in DIFFERENT.items()},
            **{key: {"status"} for key in nodes},
        }
        assert site.rules() == cloud
        assert f"Namespace {NAMESPACE} stays: it does not have the label" in output
        assert "The PeerPodConfig peerpodconfig-openshift stays, with its limit of 7" in output
        assert "These nodes still advertise kata.peerpods.io/vm, until another program" in output
        assert "KataConfig mine was not created by this collection" in output
        left = stays(output)
        assert {"KataConfig/mine", "Subscription/mine", "Secret/peer-pods-secret"} <= set(left.pop("operator"))
        assert left == {
            "namespaces": [NAMESPACE],
            "peerpodconfigs": ["peerpodconfig-openshift"],
            "advertising_nodes": len(nodes),
            "security_rules": None,
        }


@pytest.mark.parametrize("operator", ["1.8"], indirect=True, scope="module")
def test_the_rules_on_azure_are_removed(site: Site, teardown: RoleAlone, tmp_path: Path):
    """The rules alone: the rest is the same on every cloud."""
    status = {"platformStatus": openshift.azure_status(f"{openshift.INFRASTRUCTURE_NAME}-rg")}
    openshift.set_status(site.cluster, "infrastructure/cluster", status)
    with AzureArm(tmp_path / "arm") as arm:
        side = azure.create_cloud_side(arm, workers=1)
        # Of the same name as one of ours.
        by_hand = {
            "priority": 111,
            "direction": "Inbound",
            "access": "Allow",
            "protocol": "Tcp",
            "sourceAddressPrefix": "10.0.128.0/17",
            "sourcePortRange": "*",
            "destinationAddressPrefix": "10.0.128.0/17",
            "destinationPortRange": "9000",
        }
        arm.put(f"{side.nsg_id}/securityRules/Allow-VXLAN-Internal", {"properties": by_hand})

        def resources() -> dict[str, dict]:
            return json.loads(re.sub(r'"etag": "(\\.|[^"\\])*"', '"etag": ""', json.dumps(arm.resources)))

        before = resources()
        tags = (
            "--tags",
            "cloud_networking",
            "-e",
            json.dumps({"cloud_networking_subnet_ids": [side.worker_subnet_id]}),
        )
        on_azure = replace(teardown, cloud_environment=arm.environment, rules=resources)
        succeed(replace(on_azure, playbook=cloud_networking(tmp_path)).run, *tags)
        assert resources() != before
        with on_azure.unchanged():
            succeed(on_azure.run, "--check", *tags)
        output = succeed(on_azure.run, *tags)
        assert resources() == before
        assert "removed Allow-Kata-Agent-Internal." in output
        assert "Allow-VXLAN-Internal stays: its description is" in output
        # A run with a tag reports only its own part.
        assert stays(output) == {
            "operator": None,
            "namespaces": None,
            "peerpodconfigs": None,
            "advertising_nodes": None,
            "security_rules": ["Allow-VXLAN-Internal"],
        }
        assert NOTHING_CHANGED.search(succeed(on_azure.run, *tags))


def cloud_networking(directory: Path) -> Path:
    """The role alone, with its required variables."""
    path = play_of("cloud_networking", directory)
    (play,) = json.loads(path.read_text())
    play["pre_tasks"] = [
        {"osc.peerpods.cluster_info": None, "register": "cluster_prerequisites_cluster", "tags": "always"}
    ]
    play["roles"] = [{"role": play["roles"][0], "tags": "cloud_networking"}]
    path.write_text(json.dumps([play]))
    return path
