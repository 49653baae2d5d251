"""site.yml on a bare cluster in AWS with the current operator: it rejects bad input, resumes, creates nothing twice, and
needs only the permissions that preflight checks."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import aws, openshift
from tests.cluster.clouds import site_variables
from tests.cluster.launcher import Cluster
from tests.cluster.processes import free_ports
from tests.cluster.releases import NEWEST
from tests.integration.site import NOTHING_CHANGED, Site, artifacts, failure_message, report_on, user_of
from tests.support import OPERATOR_NAMESPACE


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    moto = aws.Moto(tmp_path_factory.mktemp("moto"))
    try:
        cloud = aws.create_cloud_side(moto, workers=3)
        with Cluster() as cluster:
            openshift.fill(cluster, cloud.workers, aws.REGION, peer_pod_configs=False)
            openshift.start_stand_ins(cluster, "process", NEWEST)

            def ingress() -> list[dict]:
                return moto.client("ec2").describe_security_group_rules()["SecurityGroupRules"]

            yield Site(
                cluster,
                cloud,
                moto.environment,
                ingress,
                site_variables("process"),
                kubeconfig=user_of(cluster, "site"),
            )
    finally:
        moto.processes.stop()


@pytest.fixture
def nothing_changes(site: Site) -> Iterator[None]:
    with site.unchanged():
        yield


@pytest.mark.usefixtures("nothing_changes")
def test_a_dry_run_of_a_first_installation(site: Site):
    ran = site.run("--check", "--diff")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "+15150/tcp open to the group itself" in ran.stdout
    assert "Would subscribe to sandboxed-containers-operator (stable of redhat-operators)" in ran.stdout
    assert artifacts(ran.stdout)["peerpods_site"]["rollout"] is None


@pytest.mark.usefixtures("nothing_changes")
class TestBadInput:
    """Each fails with the reason and the next step, before anything is changed."""

    def test_no_cluster_reachable(self, site: Site, tmp_path: Path):
        (port,) = free_ports(1)
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(
            site.cluster.kubeconfig.read_text().replace(site.cluster.server, f"https://127.0.0.1:{port}")
        )
        said = failure_message(site.run(K8S_AUTH_KUBECONFIG=str(kubeconfig)))
        assert "cannot be reached" in said
        assert "Check that the kubeconfig names the right cluster" in said

    def test_no_kubeconfig(self, site: Site, tmp_path: Path):
        said = failure_message(site.run(K8S_AUTH_KUBECONFIG=None, KUBECONFIG=str(tmp_path / "none")))
        assert "No cluster is configured" in said
        assert "set K8S_AUTH_KUBECONFIG or KUBECONFIG" in said

    def test_kubeconfig_of_a_user_without_permissions(self, site: Site):
        said = failure_message(site.run(K8S_AUTH_KUBECONFIG=str(site.cluster.user_kubeconfig("unprivileged"))))
        assert "403 Forbidden" in said
        assert "cluster-admin" in said

    def test_a_user_who_may_only_read(self, site: Site):
        site.cluster.kubectl("create", "clusterrole", "looker", "--verb=get,list", "--resource=*.*")
        site.cluster.kubectl("create", "clusterrolebinding", "looker", "--clusterrole=looker", "--user=looker")
        said = failure_message(site.run(K8S_AUTH_KUBECONFIG=str(site.cluster.user_kubeconfig("looker"))))
        assert "is not a cluster administrator" in said
        assert "cluster-admin role" in said

    def test_no_aws_credentials(self, site: Site, tmp_path: Path):
        said = failure_message(
            site.run(
                AWS_ACCESS_KEY_ID=None,
                AWS_SECRET_ACCESS_KEY=None,
                AWS_CONFIG_FILE=str(tmp_path / "none"),
                AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "none"),
                AWS_EC2_METADATA_DISABLED="true",
            )
        )
        assert "Authenticating to AWS failed" in said
        assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in said

    def test_a_node_without_provider_id(self, site: Site):
        nameless = openshift.Worker("nameless", None, "eu-central-1a", "m6i.large", "10.0.0.99")
        site.cluster.apply(openshift.node(nameless, aws.REGION))
        try:
            said = failure_message(site.run())
        finally:
            site.cluster.kubectl("delete", "node", "nameless")
        assert "without a providerID" in said
        assert "nameless" in said
        assert "cloud controller manager" in said

    def test_another_platform(self, site: Site):
        openshift.set_status(site.cluster, "infrastructure/cluster", {"platformStatus": {"type": "GCP"}})
        try:
            said = failure_message(site.run())
        finally:
            openshift.set_status(site.cluster, "infrastructure/cluster", {"platformStatus": {"type": "AWS"}})
        assert "runs on GCP; this collection sets up peer pods on AWS or Azure only" in said

    def test_an_old_cluster(self, site: Site):
        said = failure_message(site.run("-e", "cluster_prerequisites_minimum_version=4.99"))
        assert f"The cluster is OpenShift {openshift.VERSION}" in said
        assert "Upgrade the cluster first" in said

    def test_a_limit_that_is_not_a_number(self, site: Site):
        said = failure_message(site.run("--tags", "peerpodconfig_rollout", "-e", "peerpodconfig_rollout_limit=many"))
        assert "peerpodconfig_rollout_limit" in said


@pytest.mark.parametrize(
    ("tags", "task"),
    [
        ("all", "Read the cluster"),
        ("cloud_networking", "Open the ports on the security groups of the workers"),
        ("operator_install", "Subscribe to the operator"),
        ("operator_install", "Enable peer pods in the KataConfig"),
        ("operator_install,webhook", "Deploy the webhook"),
        ("webhook", "Register the webhook"),
        ("node_capacity", "Deploy the agent and its monitoring"),
        ("peerpodconfig_rollout", "Set the limit and wait until every node advertises it"),
    ],
)
def test_a_run_that_is_killed(site: Site, tags: str, task: str):
    """Each run is killed a little later than the one before; the test below sees the outcome."""
    site.run_and_kill(task, "--tags", tags)


def test_the_next_run_completes(site: Site):
    ran = site.run()
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_no_object_is_created_twice(site: Site):
    def names(kind: str, *arguments: str) -> list[str]:
        return [item["metadata"]["name"] for item in site.cluster.get(kind, *arguments)["items"]]

    assert len(names("operatorgroups", "-n", OPERATOR_NAMESPACE)) == 1
    assert names("subscriptions", "-n", OPERATOR_NAMESPACE) == ["sandboxed-containers-operator"]
    assert len(names("installplans", "-n", OPERATOR_NAMESPACE)) == 1
    assert len(names("kataconfigs")) == 1
    assert names("daemonsets", "-n", OPERATOR_NAMESPACE) == ["osc-caa-ds"]
    assert len(names("deployments", "-n", "osc-peerpods")) == 2
    (configuration,) = site.cluster.get("mutatingwebhookconfigurations")["items"]
    assert [webhook["name"] for webhook in configuration["webhooks"]] == ["mwebhook.peerpods.io"]
    ours = [
        (rule["FromPort"], rule["IpProtocol"])
        for rule in site.rules()
        if not rule["IsEgress"]
        and rule["GroupId"] == site.cloud.worker_group_id
        and rule["FromPort"] not in aws.PORTS_OPEN_BEFORE
    ]
    assert sorted(ours) == [(9000, "tcp"), (15150, "tcp")]


CLUSTER = {
    "infrastructure_name": openshift.INFRASTRUCTURE_NAME,
    "platform": "AWS",
    "version": openshift.VERSION,
}


def test_a_second_run_changes_nothing_and_publishes_the_result(site: Site):
    ran = site.run()
    assert NOTHING_CHANGED.search(ran.stdout), ran.stdout
    assert artifacts(ran.stdout) == {
        "peerpods_site": {
            **CLUSTER,
            "webhook": "collection",
            "node_capacity": "collection",
            "rollout": {
                "limits": {"default": 10},
                "nodes": 3,
                "slots": 30,
            },
        }
    }


@pytest.mark.usefixtures("nothing_changes")
def test_a_dry_run_of_a_complete_installation(site: Site):
    ran = site.run("--check", "--diff")
    assert NOTHING_CHANGED.search(ran.stdout), ran.stdout


def test_the_operators_configuration(site: Site):
    """The keys of peer-pods-cm and peer-pods-secret in the product documentation."""
    data = site.cluster.get("configmap", "peer-pods-cm", "-n", OPERATOR_NAMESPACE)["data"]
    assert data["CLOUD_PROVIDER"] == "aws"
    assert data["VXLAN_PORT"] == "9000"
    assert data["AWS_REGION"] == aws.REGION
    assert data["AWS_VPC_ID"] == site.cloud.vpc_id
    assert data["AWS_SG_IDS"] == site.cloud.worker_group_id
    secret = site.cluster.get("secret", "peer-pods-secret", "-n", OPERATOR_NAMESPACE)["data"]
    assert secret.keys() == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_the_secret_is_never_printed(site: Site):
    """The access key's id is a name to AWS, and amazon.aws prints it at -vvv; its secret is not."""
    ran = site.run("-vvv", "--diff")
    assert ran.returncode == 0, ran.stdout
    secret = site.cloud_environment["AWS_SECRET_ACCESS_KEY"]
    for form in (secret, base64.b64encode(secret.encode()).decode()):
        assert form not in ran.stdout + ran.stderr


def test_credentials_of_a_credentials_request(site: Site):
    root = {"aws_access_key_id": "AKIAROOT", "aws_secret_access_key": "of the cluster's"}
    site.cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "aws-creds", "namespace": "kube-system"},
            "stringData": root,
        }
    )
    site.cluster.kubectl("delete", "secret", "peer-pods-secret", "-n", OPERATOR_NAMESPACE)
    ran = site.run(
        "--tags",
        "operator_install",
        "-e",
        "operator_install_credentials=credentials_request",
        K8S_AUTH_KUBECONFIG=str(site.cluster.kubeconfig),
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    secret = site.cluster.get("secret", "peer-pods-secret", "-n", OPERATOR_NAMESPACE)["data"]
    found = {key.lower(): base64.b64decode(value).decode() for key, value in secret.items()}
    assert found == root


@pytest.mark.parametrize("playbook", ["preflight", "report"])
def test_info_and_report_support_the_second_generation(site: Site, tmp_path: Path, playbook: str):
    """Neither lists PeerPodConfigs, which this cluster never had."""
    reporting, printed = report_on(site, playbook, tmp_path)
    findings = reporting.findings()
    assert findings["limit-storage"]["found"] == (
        "Operator 1.13.0 stores the limit in the ConfigMap peer-pods-cm; cloud-api-adaptor advertises it. "
        "The agent of the role node_capacity sets what nodes advertise: the limits in the ConfigMap peerpods-limits, "
        "or this one where that has none."
    )
    assert findings["other-advertisers"]["status"] == "ok"
    page = (reporting.report / f"{playbook}.html").read_text()
    for text in (printed, page, json.dumps(findings)):
        assert "PeerPodConfig" not in text


def test_the_operators_webhook_takes_precedence(site: Site):
    webhook = site.cluster.get("mutatingwebhookconfigurations")["items"][0]
    site.cluster.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "mutating-webhook-configuration"},
            "webhooks": [
                {
                    "name": "mwebhook.peerpods.io",
                    "clientConfig": webhook["webhooks"][0]["clientConfig"],
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "failurePolicy": "Ignore",
                }
            ],
        }
    )
    try:
        ran = site.run("--tags", "webhook")
    finally:
        site.cluster.kubectl("delete", "mutatingwebhookconfiguration", "mutating-webhook-configuration")
    assert "The webhook of this collection is not deployed" in ran.stdout
    assert "Deploy the webhook" not in ran.stdout
    assert artifacts(ran.stdout) == {
        "peerpods_site": {
            **CLUSTER,
            "webhook": "operator",
            "node_capacity": None,
            "rollout": None,
        }
    }
