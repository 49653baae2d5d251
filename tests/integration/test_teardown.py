"""playbooks/teardown.yml on a cluster with objects that existed before site.yml, and the rules on Azure.

The teardown of an installation on a bare cluster is tested in test_site.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.azure_arm import AzureArm, roles
from tests.azure_arm.faults import Fault, authorization_failed, work
from tests.cluster import aws, azure, openshift
from tests.cluster.clouds import site_variables
from tests.cluster.image_builder import MOTO_IMAGE
from tests.cluster.launcher import Cluster
from tests.cluster.processes import wait_for
from tests.integration.site import (
    Key,
    RoleAlone,
    Site,
    bad_weather_of_azure,
    differing,
    dump,
    failure_message,
    play_of,
    stays,
    succeed,
    teardown_of,
    wait_for_machine_config_operator,
)
from tests.support import OPERATOR_NAMESPACE

# Only site.yml gets it. teardown.yml finds the webhook and the agent in it.
NAMESPACE = "infra"
IN_NAMESPACE = {"node_capacity_namespace": NAMESPACE, "webhook_namespace": NAMESPACE}

VM_GROUP = "vms"


@pytest.fixture(scope="module")
def site(moto: aws.Moto, cloud_side: aws.CloudSide) -> Iterator[Site]:
    ec2 = moto.client("ec2")
    ec2.create_security_group(GroupName=VM_GROUP, Description="VMs of peer pods", VpcId=cloud_side.vpc_id)
    with Cluster(definitions=openshift.definitions()) as cluster:
        openshift.fill(cluster, cloud_side.workers, aws.REGION)
        openshift.start_stand_ins(cluster, "process", "1.8")
        wait_for_machine_config_operator(cluster)

        def groups() -> list[dict]:
            """The security groups of the cluster's VPC and their rules, each with its tags."""
            vpc = {"Name": "vpc-id", "Values": [cloud_side.vpc_id]}
            in_vpc = ec2.describe_security_groups(Filters=[vpc])["SecurityGroups"]
            of_groups = {"Name": "group-id", "Values": [group["GroupId"] for group in in_vpc]}
            return [*in_vpc, *ec2.describe_security_group_rules(Filters=[of_groups])["SecurityGroupRules"]]

        # A teardown waits for the end of the webhook's pods.
        variables = {
            **site_variables("process"),
            "webhook_shutdown_delay": 0,
            "cloud_networking_security_group_ids": [cloud_side.worker_group_id],
        }
        yield Site(cluster, cloud_side, moto.environment, groups, variables)


def vm_group_of(site: Site) -> str:
    (group_id,) = [group["GroupId"] for group in site.rules() if group.get("GroupName") == VM_GROUP]
    return group_id


@pytest.fixture(scope="module")
def teardown(site: Site) -> RoleAlone:
    return teardown_of(site)


# The differences if the KataConfig of another installation is in use, and their reasons. site.yml keeps its settings:
# the manual approval, the configuration of cloud-api-adaptor and the credentials, although the environment has others.
DIFFERENT = {
    ("PeerPodConfig", OPERATOR_NAMESPACE, "peerpodconfig-openshift"): (
        {"status"},
        "setupCompleted: nodes advertise what it says",
    ),
}


@pytest.fixture(scope="module")
def manual_setup(site: Site, teardown: RoleAlone, moto: aws.Moto) -> Iterator[tuple[dict[Key, dict], list[dict]]]:
    """The cluster and the cloud with objects that were created by hand; site.yml has been run since."""
    vm_group = vm_group_of(site)
    ec2 = moto.client("ec2")
    in_vpc = [{"Name": "vpc-id", "Values": [site.cloud.vpc_id]}]
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
            "data": {
                **openshift.POD_VM_SETTINGS,
                "PODVM_AMI_ID": MOTO_IMAGE,
                "AWS_SG_IDS": vm_group,
                "AWS_VPC_ID": site.cloud.vpc_id,
                "AWS_SUBNET_ID": ec2.describe_subnets(Filters=in_vpc)["Subnets"][0]["SubnetId"],
            },
        },
        openshift.POD_VM_CREDENTIALS,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "peerpods-cloud-capacity", "namespace": NAMESPACE},
            "data": {"budget": "12"},
        },
        # It has the name of a ConfigMap of the collection.
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "peerpods-limits", "namespace": NAMESPACE}},
    )
    group = site.cloud.worker_group_id
    rule = {
        "GroupId": group,
        "IpPermissions": [
            {"IpProtocol": "tcp", "FromPort": 9000, "ToPort": 9000, "UserIdGroupPairs": [{"GroupId": group}]}
        ],
    }
    ec2.authorize_security_group_ingress(**rule)
    wait_for("the operator", lambda: site.cluster.get("peerpodconfigs", "-A")["items"], seconds=60)
    site.cluster.merge("peerpodconfig/peerpodconfig-openshift", {"spec": {"limit": "7"}}, OPERATOR_NAMESPACE)
    workers = ("nodes", "-l", "node-role.kubernetes.io/worker")

    def advertised() -> set[str | None]:
        nodes = site.cluster.get(*workers)["items"]
        return {node["status"]["allocatable"].get("kata.peerpods.io/vm") for node in nodes}

    def available() -> list[int | None]:
        sets = site.cluster.get("daemonsets", "-n", OPERATOR_NAMESPACE)["items"]
        return [each.get("status", {}).get("numberAvailable") for each in sets]

    wait_for("the operator to advertise it", lambda: advertised() == {"7"}, seconds=30)
    wait_for("cloud-api-adaptor", lambda: available() == [len(site.cloud.workers)], seconds=60)
    site.cluster.merge("subscription/mine", {"spec": {"installPlanApproval": "Manual"}}, OPERATOR_NAMESPACE)
    before = dump(site.cluster), site.rules()
    succeed(site.run, "-e", json.dumps({"node_capacity_manager": "collection", **IN_NAMESPACE}))
    yield before
    ec2.revoke_security_group_ingress(**rule)


def test_the_ports_are_open_between_the_workers_and_the_group_in_peer_pods_cm(manual_setup, site: Site):
    """In addition to a rule of the user, which does not admit the VMs. The operator's settings are complete."""
    vm_group = vm_group_of(site)
    worker_group = site.cloud.worker_group_id
    assert {
        (rule["GroupId"], rule["FromPort"], rule["ReferencedGroupInfo"]["GroupId"])
        for rule in site.rules()
        if {"Key": "osc.peerpods/managed", "Value": "true"} in rule["Tags"]
    } == {(vm_group, 15150, worker_group), (vm_group, 9000, worker_group), (worker_group, 9000, vm_group)}
    data = site.cluster.get("configmap/peer-pods-cm", "-n", OPERATOR_NAMESPACE)["data"]
    assert (data["AWS_SG_IDS"], data["AWS_VPC_ID"]) == (vm_group, site.cloud.vpc_id)


@pytest.fixture
def left_namespaces(manual_setup, site: Site) -> Iterator[tuple[str, str]]:
    """Those of agents that gave way to the operator, with what they left; in the second, a user has an object, too."""
    names = ("agent-left", "agent-left-in-use")
    labels = {"app.kubernetes.io/part-of": "osc.peerpods"}
    limits = {"default": json.dumps({"limit": 5})}
    bounds = {"instance-quota": "9"}
    for name in names:
        site.cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
            *(
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": config_map, "namespace": name, "labels": labels},
                    "data": data,
                }
                for config_map, data in (("peerpods-limits", limits), ("peerpods-cloud-capacity", bounds))
            ),
        )
    site.cluster.kubectl("create", "configmap", "mine", "-n", names[1])
    yield names
    site.cluster.delete("namespace", *names, "--ignore-not-found")


def test_existing_objects_are_restored(manual_setup, left_namespaces, site: Site, teardown: RoleAlone):
    output = succeed(teardown.run)
    removed, in_use = left_namespaces
    namespaces = [item["metadata"]["name"] for item in site.cluster.get("namespaces")["items"]]
    assert (removed in namespaces, in_use in namespaces) == (False, True)
    config_maps = site.cluster.get("configmaps", "-n", in_use)["items"]
    assert {item["metadata"]["name"] for item in config_maps} == {"kube-root-ca.crt", "mine"}
    assert f"Namespace {in_use} stays: it contains ConfigMap/mine, which this collection did not create." in output
    site.cluster.delete("namespace", in_use)
    assert "is already in use" not in output
    cluster, cloud = manual_setup
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
    remaining = stays(output)
    assert {"KataConfig/mine", "Subscription/mine", "Secret/peer-pods-secret"} <= set(remaining.pop("operator"))
    assert remaining == {
        "namespaces": sorted([in_use, NAMESPACE]),
        "peerpodconfigs": ["peerpodconfig-openshift"],
        "advertising_nodes": len(nodes),
        "security_rules": [],
        "nat_gateways": None,
        "images": None,
        "image_resources": None,
        "identities": None,
    }


def test_the_rules_on_azure_are_removed(site: Site, teardown: RoleAlone, tmp_path: Path):
    """Also in a group that the workers' subnet no longer has, with pod VMs in a subnet of their own.

    The rest is the same on every cloud. test_nsg_rules.py tests the dry run and the second run of the module.
    """
    status = {"platformStatus": openshift.azure_status(f"{openshift.INFRASTRUCTURE_NAME}-rg")}
    openshift.set_status(site.cluster, "infrastructure/cluster", status)
    with AzureArm(tmp_path / "arm") as arm:
        side = azure.create_cloud_side(arm, workers=1)
        # The rule has the name of a rule of the collection.
        manual_rule = {
            "priority": 111,
            "direction": "Inbound",
            "access": "Allow",
            "protocol": "Tcp",
            "sourceAddressPrefix": "10.0.128.0/17",
            "sourcePortRange": "*",
            "destinationAddressPrefix": "10.0.128.0/17",
            "destinationPortRange": "9000",
        }
        arm.put(f"{side.nsg_id}/securityRules/Allow-VXLAN-Internal", {"properties": manual_rule})

        def resources() -> dict[str, dict]:
            return json.loads(re.sub(r'"etag": "(\\.|[^"\\])*"', '"etag": ""', json.dumps(arm.resources)))

        def rule_names() -> set[str]:
            return {rule["name"] for rule in arm.resources[side.nsg_id.lower()]["properties"]["securityRules"]}

        variables = {
            "cloud_networking_subnet_ids": [side.worker_subnet_id],
            "operator_install_azure_subnet_id": side.worker_subnet_id.replace("-worker-", "-master-"),
            "cloud_networking_azure_nat_gateway": True,
        }
        tags = ("--tags", "cloud_networking", "-e", json.dumps(variables))
        on_azure = replace(teardown, cloud_environment=arm.environment, rules=resources)
        detached = {"properties": {"addressPrefix": azure.WORKER_SUBNET_CIDR}}
        arm.put(side.worker_subnet_id, detached)
        before = resources()
        attached = {"properties": {**detached["properties"], "networkSecurityGroup": {"id": side.nsg_id}}}
        arm.put(side.worker_subnet_id, attached)
        names_before = rule_names()
        with bad_weather_of_azure(arm):
            succeed(replace(on_azure, playbook=cloud_networking(tmp_path)).run, *tags)
        added = [
            f"{name}-{openshift.INFRASTRUCTURE_NAME}"
            for name in (
                "Allow-Kata-Agent-Internal",
                "Allow-VXLAN-Internal",
                "Allow-VXLAN-Internal-To-Workers",
                "Allow-VXLAN-UDP-Internal",
                "Allow-VXLAN-UDP-Internal-To-Workers",
            )
        ]
        assert rule_names() - names_before == {*added}
        (gateway,) = (body for body in resources().values() if body["type"].endswith("/natGateways"))
        assert [subnet["id"] for subnet in gateway["properties"]["subnets"]] == [
            variables["operator_install_azure_subnet_id"]
        ]
        arm.put(side.worker_subnet_id, detached)
        permissions, arm.permissions = arm.permissions, [roles.READER]
        refused = on_azure.run(*tags, "--tags", "policy")
        assert "This identity lacks permission for" in failure_message(refused)
        assert "Read the policies" not in refused.stdout
        arm.permissions = permissions
        # The first read is that of the check.
        arm.faults += [Fault("GET", "/networkSecurityGroups$", act) for act in (work, authorization_failed)]
        arm.faults.append(Fault("DELETE", "/publicIPAddresses/", authorization_failed))
        half = on_azure.run(*tags)
        assert f"removed {gateway['name']}. " in half.stdout
        for part in ("rules", "NAT gateways"):
            assert f"The {part} of the cluster could not be removed: " in failure_message(half)
        # A run with a tag reports only its own part.
        nothing = dict.fromkeys(
            ("operator", "namespaces", "peerpodconfigs", "advertising_nodes", "images", "image_resources", "identities")
        )
        assert stays(half.stdout) == {**nothing, "security_rules": None, "nat_gateways": None}
        assert names_before < rule_names()
        with bad_weather_of_azure(arm):
            output = succeed(on_azure.run, *tags)
        assert resources() == before
        assert f"removed {', '.join(added)}." in output
        assert "Allow-VXLAN-Internal stays: its description is" in output
        assert stays(output) == {**nothing, "security_rules": ["Allow-VXLAN-Internal"], "nat_gateways": []}


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
