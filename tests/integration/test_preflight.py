"""preflight.yml: its findings on clusters with and without problems, and that it changes nothing.

The findings of each check are tested in tests/unit/module_utils/_preflight/test_findings.py; here, the checks run
against real servers.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ansible_collections.osc.peerpods.plugins.module_utils._preflight.finding import TITLES

from tests.azure_arm import AzureArm, roles
from tests.cluster import aws, azure, openshift
from tests.cluster.launcher import Cluster
from tests.ec2_proxy import Ec2Proxy, ec2_proxy, refuse
from tests.integration.site import NOTHING_CHANGED, Reporting, artifacts, failure_message, play_of
from tests.integration.test_cloud_capacity import STANDARD, ServiceQuotas, reservations
from tests.support import ROOT

PREFLIGHT = ROOT / "playbooks" / "preflight.yml"

# Checks without a finding here: the first three need an installed operator, aro Azure Red Hat OpenShift, and the others
# report only an error, or only for credentials that are a role.
SILENT = {"adaptor-settings", "limit-pools", "migration", "aro", "cluster", "limit", "options", "images", "vm-identity"}
SILENT |= {"needed-ports"}

IMAGE = {"node_capacity_image": "registry.example.com/agent:1"}
# The other formats have the same content.
ONLY_FINDINGS = {**IMAGE, "report_formats": ["json"]}

PACKAGE = {
    "apiVersion": "packages.operators.coreos.com/v1",
    "kind": "PackageManifest",
    "metadata": {"name": "sandboxed-containers-operator", "namespace": "openshift-marketplace"},
    "status": {
        "catalogSource": "redhat-operators",
        "catalogSourceNamespace": "openshift-marketplace",
        "packageName": "sandboxed-containers-operator",
        "channels": [
            {
                "name": "stable",
                "currentCSV": "sandboxed-containers-operator.v1.10.1",
                "entries": [{"name": "sandboxed-containers-operator.v1.10.1"}],
            }
        ],
    },
}
FOREIGN_WEBHOOK = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "MutatingWebhookConfiguration",
    "metadata": {"name": "another-program"},
    "webhooks": [
        {
            "name": "mwebhook.peerpods.io",
            "clientConfig": {"url": "https://127.0.0.1:1/"},
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
        }
    ],
}


@dataclass
class Preflight(Reporting):
    """A cluster to check, and the directory of the report."""

    def statuses(self) -> dict[str, str]:
        return {check: finding["status"] for check, finding in self.findings().items()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(definitions=openshift.definitions()) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(moto: aws.Moto) -> Iterator[Ec2Proxy]:
    with ec2_proxy(moto.endpoint_url) as running:
        yield running


@pytest.fixture(scope="module")
def quotas() -> Iterator[ServiceQuotas]:
    with ServiceQuotas() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def on_aws(
    cluster: Cluster,
    moto: aws.Moto,
    proxy: Ec2Proxy,
    quotas: ServiceQuotas,
    tmp_path_factory: pytest.TempPathFactory,
) -> Preflight:
    cloud = aws.create_cloud_side(moto, workers=3)
    openshift.fill(cluster, cloud.workers, aws.REGION)
    cluster.apply(PACKAGE)
    environment = {
        **moto.environment,
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ENDPOINT_URL_SERVICE_QUOTAS": quotas.url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }

    def rules() -> list[dict]:
        return moto.client("ec2").describe_security_group_rules()["SecurityGroupRules"]

    directory = tmp_path_factory.mktemp("aws")
    return Preflight(cluster, cloud, environment, rules, ONLY_FINDINGS, PREFLIGHT, directory=directory)


@pytest.fixture(autouse=True)
def answers(proxy: Ec2Proxy, quotas: ServiceQuotas) -> None:
    """An AWS account with permissions and room; instances of other tests count, too."""
    proxy.faults.clear()
    proxy.faults["DescribeCapacityReservations"] = [lambda _pass_on: (200, reservations())] * 2
    proxy.take_calls()
    quotas.values[STANDARD] = 10_000.0


def test_a_cluster_without_problems(on_aws: Preflight):
    with on_aws.unchanged():
        completed = replace(on_aws, variables=IMAGE).run()
    assert completed.returncode == 0, completed.stdout + completed.stderr
    # The workers are in three zones, and the VMs in one. moto cannot simulate the policies of its own user. The cloud
    # credential operator has no root credential, of which 1.10 requests those of its image job.
    others = {"vm-zone": "warning", "vm-identity": "unknown", "pod-vm-image": "warning"}
    assert on_aws.statuses() == {**dict.fromkeys(TITLES.keys() - SILENT, "ok"), **others}
    for finding in on_aws.findings().values():
        assert f"{finding['title']:30} {finding['found']}" in completed.stdout
    assert "v1.10.1, which needs OpenShift 4.15 or newer" in on_aws.findings()["operator-version"]["found"]
    ports = on_aws.findings()["ports"]["found"]
    assert f"Not open yet: 15150/tcp of {on_aws.cloud.worker_group_id}" in ports
    assert "ok       Cluster version" in completed.stdout
    published = artifacts(completed.stdout)["peerpods_preflight"]
    files = [on_aws.report / f"preflight.{extension}" for extension in ("html", "json", "junit.xml")]
    assert published.pop("report") == [str(file) for file in files]
    assert published == {"errors": 0, "warnings": 2, "failed_checks": []}
    assert all(file.stat().st_size for file in files)


@pytest.fixture
def defective_cluster(on_aws: Preflight) -> Iterator[dict[str, str]]:
    """A cluster with many problems; yields the environment of the user."""
    cluster = on_aws.cluster
    nameless = openshift.Worker("nameless", None, "eu-central-1a", "m6i.large", "10.0.0.99")
    cluster.apply(openshift.node(nameless, aws.REGION), FOREIGN_WEBHOOK)
    cluster.kubectl("create", "clusterrole", "looker", "--verb=get,list", "--resource=*.*")
    cluster.kubectl("create", "clusterrolebinding", "looker", "--clusterrole=looker", "--user=looker")
    yield {"K8S_AUTH_KUBECONFIG": str(cluster.user_kubeconfig("looker"))}
    cluster.delete("node/nameless", "mutatingwebhookconfiguration/another-program")


@pytest.fixture
def ports_of_another_cluster(on_aws: Preflight, moto: aws.Moto) -> Iterator[None]:
    """The ports are open by rules of another cluster, which need the tag of this one."""
    ec2, group = moto.client("ec2"), on_aws.cloud.worker_group_id
    tags = {"osc.peerpods/managed": "true", "osc.peerpods/cluster/id-b": "demo-b"}
    added = {
        "GroupId": group,
        "IpPermissions": [
            {"IpProtocol": protocol, "FromPort": port, "ToPort": port, "UserIdGroupPairs": [{"GroupId": group}]}
            for port, protocol in ((9000, "tcp"), (9000, "udp"), (15150, "tcp"))
        ],
    }
    specification = {
        "ResourceType": "security-group-rule",
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }
    ec2.authorize_security_group_ingress(**added, TagSpecifications=[specification])
    yield
    ec2.revoke_security_group_ingress(**added)


@pytest.mark.usefixtures("ports_of_another_cluster")
def test_all_problems_are_reported_in_one_run(
    on_aws: Preflight, defective_cluster: dict[str, str], proxy: Ec2Proxy, quotas: ServiceQuotas
):
    proxy.faults["CreateTags"] = [refuse(403, "UnauthorizedOperation")] * 2
    quotas.values[STANDARD] = 1.0
    variables = {
        "cluster_prerequisites_minimum_version": "4.99",
        "cluster_prerequisites_quota": "fail",
        "operator_install_channel": "preview",
        # The roles of later steps would fail, with a message of their own.
        "webhook_replicas": "two",
        "verify_namespace": None,
        # Not reported, since the approval is automatic.
        "operator_install_starting_csv": "sandboxed-containers-operator.v1.12.1",
    }
    with on_aws.unchanged():
        completed = on_aws.run("-e", json.dumps(variables), **defective_cluster)
    message = failure_message(completed)
    assert "7 checks failed." in message
    for words in (
        "argument 'webhook_replicas' is of type str and we were unable to convert to int",
        "verify_namespace is null. Correct these options",
        f"The cluster is OpenShift {openshift.VERSION}; peer pods need 4.99 or newer. Upgrade",
        "is not a cluster administrator, and may not create configmaps",
        "whose instances cannot be found in the cloud: nameless. Check that the cloud controller",
        "does not have the channel preview. Set operator_install_source",
        "rejected CreateTags with UnauthorizedOperation",
        "10 peer pods on each of 4 nodes are 40 VMs, but AWS has room for 0 more VMs of t3.medium",
    ):
        assert words in message
    statuses = on_aws.statuses()
    errors = {check for check, status in statuses.items() if status == "error"}
    assert errors == {
        "options",
        "version",
        "cluster-admin",
        "provider-ids",
        "operator-channel",
        "port-permissions",
        "quota",
    }
    assert statuses["other-webhooks"] == "warning"
    # Later jobs of a workflow can read the result of a failed preflight.
    published = artifacts(completed.stdout)["peerpods_preflight"]
    assert (published["errors"], set(published["failed_checks"])) == (7, errors)
    assert published["warnings"] == list(statuses.values()).count("warning")
    assert statuses["ports"] == statuses["subnet-addresses"] == "ok"
    assert "operator-version" not in statuses
    assert on_aws.findings()["other-webhooks"]["found"] in completed.stdout


def test_a_cluster_that_does_not_respond(on_aws: Preflight, tmp_path: Path):
    """The report is written in this case, too."""
    completed = on_aws.run(K8S_AUTH_KUBECONFIG=str(tmp_path / "none"))
    assert "No cluster is configured" in failure_message(completed)
    assert on_aws.statuses() == {"cluster": "error"}


def test_a_site_reads_from_aws_what_no_later_role_does(
    on_aws: Preflight, proxy: Ec2Proxy, moto: aws.Moto, tmp_path: Path
):
    """Preflight does not send requests of later roles, and does not print passed checks."""
    site = replace(on_aws, playbook=play_of("cluster_prerequisites", tmp_path))
    with site.unchanged():
        completed = site.run()
    assert NOTHING_CHANGED.search(completed.stdout), completed.stdout
    of_types = ["DescribeInstances", "DescribeSubnets", "DescribeInstanceTypeOfferings"]
    # The last one is for the bucket of an earlier image job, on which the next job would fail after ports were opened.
    assert proxy.take_calls() == ["GetCallerIdentity", "ListAccountAliases", *of_types, "HEAD"]
    assert "Cluster version" not in completed.stdout

    # A type that only other zones of the region offer.
    zone = f"{aws.REGION}c"
    ids = [worker.provider_id.rpartition("/")[2] for worker in on_aws.cloud.workers if worker.zone == zone]
    (reservation,) = moto.client("ec2").describe_instances(InstanceIds=ids)["Reservations"]
    subnet = reservation["Instances"][0]["SubnetId"]
    missing = "sg-0123456789abcdef0"
    left = "podvm-left"
    location = {"LocationConstraint": aws.REGION}
    moto.client("s3").create_bucket(Bucket=left, CreateBucketConfiguration=location)
    options = {
        "operator_install_aws_subnet_id": subnet,
        "operator_install_podvm_instance_type": "a1.medium",
        "operator_install_aws_security_group_ids": [missing],
        # What roles would otherwise report after others have changed something.
        "webhook_manager": "collection",
        "webhook_image": "registry.example.com/webhook:1",
        "webhook_health_port": 9443,
        "webhook_certificate": "cert_manager",
        "webhook_client_ca": "/etc/pki/ca.crt",
        "webhook_tls_cipher_suites": "AES128-SHA",
        "peerpodconfig_rollout_waves": [{"name": "canary"}, {"name": "canary"}],
        "operator_install_tags": {"team": "a,b"},
        "operator_install_image_config": {"BUCKET_NAME": left},
        "operator_install_aws_access_key_id": "AKIA0",
    }
    with site.unchanged():
        message = failure_message(site.run("-e", json.dumps(options)))
    moto.client("s3").delete_bucket(Bucket=left)
    # Not among the settings of the operator as well.
    assert message.count(f"The image job creates the S3 bucket {left} itself, and fails because it exists.") == 1
    for words in (
        f"{zone}, the zone of {subnet}, does not offer a1.medium. Set operator_install_podvm_instance",
        f"EC2 has no security group {missing} in {aws.REGION}.",
        "webhook_port and webhook_health_port are both 9443",
        "webhook_cert_manager_issuer does not name an issuer",
        "the cluster does not serve cert-manager.io",
        "webhook_client_ca has no PEM certificates that TLS accepts",
        "which the webhook always offers with TLS 1.2",
        "names a pool twice (canary, canary)",
        "names pools that do not exist: canary",
        "The tag 'team' in operator_install_tags has a comma",
        "operator_install_aws_access_key_id must be set together with operator_install_aws_secret_access_key",
    ):
        assert words in message


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureArm]:
    with AzureArm(tmp_path_factory.mktemp("arm")) as running:
        yield running


@pytest.fixture(scope="module")
def on_azure(cluster: Cluster, on_aws: Preflight, arm: AzureArm, tmp_path_factory: pytest.TempPathFactory) -> Preflight:
    """The same cluster with the platform Azure. A second cluster would take time and test nothing more."""
    cloud = azure.create_cloud_side(arm, workers=3)
    cluster.delete("node", *(worker.name for worker in on_aws.cloud.workers))
    cluster.apply(*(openshift.node(worker, azure.REGION) for worker in cloud.workers))
    status = {**openshift.azure_status(cloud.resource_group), "aws": None}
    openshift.set_status(cluster, "infrastructure/cluster", {"platformStatus": status})

    def rules() -> list[dict]:
        return arm.resources[cloud.nsg_id.lower()]["properties"]["securityRules"]

    return Preflight(
        cluster,
        cloud,
        arm.environment,
        rules,
        ONLY_FINDINGS,
        PREFLIGHT,
        directory=tmp_path_factory.mktemp("azure"),
    )


def running_peer_pod(node: str) -> dict:
    requests = {"limits": {"kata.peerpods.io/vm": "1"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"peer-pod-on-{node}", "namespace": "default"},
        "spec": {"nodeName": node, "containers": [{"name": "a", "image": "a", "resources": requests}]},
    }


def test_azure_without_problems(on_azure: Preflight):
    """39 peer pods fit, since two of them run and Azure has room for 38 more."""
    pods = [running_peer_pod(worker.name) for worker in on_azure.cloud.workers[:2]]
    on_azure.cluster.apply(*pods)
    for pod in pods:
        openshift.set_status(on_azure.cluster, f"pod/{pod['metadata']['name']}", {"phase": "Running"}, "default")
    with on_azure.unchanged():
        completed = on_azure.run("-e", "peerpodconfig_rollout_limit=13")
    names = [pod["metadata"]["name"] for pod in pods]
    on_azure.cluster.delete("pods", *names, "-n", "default", "--force", "--grace-period=0")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    # A subnet of Azure is in all zones, and has no network ACL.
    checks = TITLES.keys() - SILENT - {"network-acls", "vm-zone"}
    # The service principal of the environment creates the VMs.
    assert on_azure.statuses() == dict.fromkeys([*checks, "vm-identity"], "ok")
    ports = on_azure.findings()["ports"]["found"]
    assert f"Not open yet: Allow-Kata-Agent-Internal-{openshift.INFRASTRUCTURE_NAME} of" in ports


def test_azure_with_seven_problems(on_azure: Preflight, arm: AzureArm, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arm, "permissions", [roles.READER])
    subnet = on_azure.cloud.worker_subnet_id
    properties = arm.resources[subnet.lower()]["properties"]
    arm.put(subnet, {"properties": {**properties, "defaultOutboundAccess": False}})
    variables = {
        "cluster_prerequisites_minimum_version": "4.99",
        "cluster_prerequisites_quota": "fail",
        "peerpodconfig_rollout_limit": 20_000,
        # With manual approval this is the final version, and not the version from which OLM upgrades.
        "operator_install_starting_csv": "sandboxed-containers-operator.v1.12.1",
        "operator_install_install_plan_approval": "Manual",
        "operator_install_channel": "preview",
        # The priority is after that of the rule that denies this traffic.
        "cloud_networking_security_rules": [{"name": "late", "priority": 4001, "destination_port_ranges": ["9000"]}],
        "cloud_networking_azure_nat_gateway": True,
    }
    with on_azure.unchanged():
        message = failure_message(on_azure.run("-e", json.dumps(variables)))
    arm.put(subnet, {"properties": properties})
    assert "7 checks failed." in message
    assert "20000 peer pods on each of 3 nodes are 60000 VMs, but Azure has room for 38 more VMs of" in message
    assert "0 of 100 vCPUs of standardBasv2Family are in use, and 24 of 100 of all" in message
    assert "Set peerpodconfig_rollout_limit to 12, or request a higher quota of" in message
    assert (
        f"late-{openshift.INFRASTRUCTURE_NAME} would be shadowed in {on_azure.cloud.nsg_id.rpartition('/')[2]}: deny"
        in message
    )
    statuses = on_azure.statuses()
    assert {check for check, status in statuses.items() if status == "error"} == {
        "version",
        "operator-channel",
        "port-permissions",
        "ports",
        "quota",
        "subnet-addresses",
        "egress",
    }
    assert "A NAT gateway cannot be added: This identity lacks permission for Microsoft.Network/publicIPAddr" in message
    nsg = on_azure.cloud.nsg_id
    assert (
        f"lacks permission for Microsoft.Network/networkSecurityGroups/securityRules/write on {nsg}. Assign" in message
    )
    assert statuses["operator-version"] == "warning"
    operator = on_azure.findings()["operator-version"]["found"]
    assert f"v1.12.1, which needs OpenShift 4.18 or newer; the cluster is OpenShift {openshift.VERSION}." in operator
