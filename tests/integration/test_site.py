"""site.yml on a bare cluster in AWS with the current operator: it rejects bad input, resumes, creates nothing twice,
and needs only the permissions that preflight checks. Then teardown.yml restores the cluster and the cloud.

The tests depend on their order.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.cluster import aws, openshift
from tests.cluster.clouds import site_variables
from tests.cluster.image_builder import MOTO_IMAGE
from tests.cluster.image_jobs import VERSION
from tests.cluster.launcher import Cluster
from tests.cluster.processes import wait_for
from tests.cluster.releases import NEWEST
from tests.ec2_proxy import ec2_proxy, refuse, work
from tests.integration.site import (
    NOTHING_CHANGED,
    Key,
    RoleAlone,
    Site,
    artifacts,
    as_texts,
    bad_weather,
    differing,
    dump,
    failure_message,
    report_on,
    stays,
    succeed,
    teardown_of,
    user_of,
    wait_for_machine_config_operator,
)
from tests.support import OPERATOR_NAMESPACE

ISSUER = "https://demo-oidc.s3.eu-central-1.amazonaws.com"
PROVIDER = f"arn:aws:iam::123456789012:oidc-provider/{ISSUER.removeprefix('https://')}"
IMAGE_URI = "oci::quay.io/example/podvm:1.0::/image/podvm.qcow2"


BUCKET = f"podvm-{openshift.INFRASTRUCTURE_NAME}-{openshift.CLUSTER_ID[:8]}"
WITH_RESOURCES = {"operator_install_image_resources": True}
# Without the bucket that the image job needs.
UNCONFIRMED = ("-e", json.dumps({"operator_install_confirm_image": False}))
IMPORT = {
    "region": aws.REGION,
    "bucket": BUCKET,
    "cluster_name": openshift.INFRASTRUCTURE_NAME,
    "cluster_id": openshift.CLUSTER_ID,
}


IMAGE_NAME = f"podvm-image-{VERSION}"
LEFT = {"Name": "name", "Values": [IMAGE_NAME]}


def roles(iam: Any) -> list[dict]:
    """Without that of the image job, which leaves it."""
    return [role for role in iam.list_roles()["Roles"] if role["RoleName"] != "vmimport"]


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[aws.Moto]:
    running = aws.Moto(tmp_path_factory.mktemp("moto"))
    yield running
    running.processes.stop()


@pytest.fixture(scope="module")
def site(moto: aws.Moto) -> Iterator[Site]:
    cloud = aws.create_cloud_side(moto, workers=3)
    with Cluster(definitions=openshift.definitions(peer_pod_configs=False)) as cluster:
        openshift.fill(cluster, cloud.workers, aws.REGION)
        openshift.start_stand_ins(cluster, "process", NEWEST, cloud_environment=moto.environment)
        wait_for_machine_config_operator(cluster)

        def ingress() -> list[dict]:
            return moto.client("ec2").describe_security_group_rules()["SecurityGroupRules"]

        # A teardown waits for the end of the webhook's pods.
        options = {
            "node_capacity_console_dashboard": True,
            "webhook_shutdown_delay": 0,
            "operator_install_image_uri": IMAGE_URI,
        }
        yield Site(
            cluster,
            cloud,
            moto.environment,
            ingress,
            {**site_variables("process"), **options},
            kubeconfig=user_of(cluster, "site"),
        )


@pytest.fixture(scope="module")
def iam(site: Site) -> Any:
    environment = site.cloud_environment
    return boto3.client(
        "iam",
        region_name=aws.REGION,
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )


@pytest.fixture(scope="module")
def left_image(moto: aws.Moto) -> str:
    """An image that peer-pods-cm does not name."""
    made = {"Name": IMAGE_NAME, "Description": "Peer-pod image"}
    return moto.client("ec2").copy_image(**made, SourceImageId=MOTO_IMAGE, SourceRegion=aws.REGION)["ImageId"]


@pytest.fixture(scope="module")
def teardown(site: Site) -> RoleAlone:
    return teardown_of(site)


@pytest.fixture(scope="module")
def initial_state(site: Site, teardown: RoleAlone) -> tuple[dict[Key, dict], list[dict]]:
    """The cluster and the cloud before the first run."""
    return dump(site.cluster), site.rules()


@pytest.fixture
def nothing_changes(site: Site) -> Iterator[None]:
    with site.unchanged():
        yield


@pytest.mark.usefixtures("nothing_changes")
def test_a_dry_run_of_a_first_installation(initial_state, site: Site):
    completed = site.run("--check", "--diff", *UNCONFIRMED)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "+15150/tcp open to the group itself" in completed.stdout
    assert "Would subscribe to sandboxed-containers-operator (stable of redhat-operators)" in completed.stdout
    assert artifacts(completed.stdout)["peerpods_site"]["rollout"] is None


@pytest.mark.usefixtures("nothing_changes")
def test_bad_input_is_rejected_with_all_reasons_before_anything_is_changed(site: Site, tmp_path: Path):
    """All reasons are tested in test_findings.py, and unreachable clusters in test_cluster_info.py."""
    nameless = openshift.Worker("nameless", None, "eu-central-1a", "m6i.large", "10.0.0.99")
    site.cluster.apply(openshift.node(nameless, aws.REGION))
    site.cluster.kubectl("create", "clusterrole", "looker", "--verb=get,list", "--resource=*.*")
    site.cluster.kubectl("create", "clusterrolebinding", "looker", "--clusterrole=looker", "--user=looker")
    variables = {
        "cluster_prerequisites_minimum_version": "4.99",
        # Reads the quota, if the login succeeds.
        "cluster_prerequisites_quota": "fail",
        "peerpodconfig_rollout_limit": "many",
    }
    missing_file = str(tmp_path / "none")
    environment = {
        "K8S_AUTH_KUBECONFIG": str(site.cluster.user_kubeconfig("looker")),
        "AWS_ACCESS_KEY_ID": None,
        "AWS_SECRET_ACCESS_KEY": None,
        "AWS_CONFIG_FILE": missing_file,
        "AWS_SHARED_CREDENTIALS_FILE": missing_file,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    message = failure_message(site.run("-e", json.dumps(variables), **environment))
    site.cluster.delete("node/nameless", "clusterrole/looker", "clusterrolebinding/looker")
    for words in (
        f"The cluster is OpenShift {openshift.VERSION}; peer pods need 4.99 or newer. Upgrade the cluster first",
        "is not a cluster administrator",
        "Log in as a user with the cluster-admin role",
        "without a providerID, whose instances cannot be found in the cloud: nameless. Check that the cloud controller",
        "Authenticating to AWS failed",
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        "peerpodconfig_rollout_limit must be a whole number of 0 or more; got 'many'",
    ):
        assert words in message


def test_a_run_that_is_killed_while_the_operator_installs(site: Site):
    """The next test checks the outcome, and so for the other runs that are killed."""
    site.run_and_kill("Wait until the nodes run kata", "--tags", "operator_install", *UNCONFIRMED)


def test_a_failed_image_job_ends_the_run_with_its_log(site: Site):
    """The credentials are given, and the bucket that the job then needs does not exist. The operator has continued."""
    message = failure_message(site.run("--tags", "operator_install", *UNCONFIRMED))
    assert "The job osc-podvm-image-creation of the operator, which creates the image of the pod VMs, failed" in message
    assert "The end of the log of pod osc-podvm-image-creation-" in message
    assert "Bucket podvm-image-262093934.0.1 not found or not accessible." in message
    # One of the events of the job. That of its failure may come after its condition, which ends the run.
    assert "SuccessfulCreate" in message
    assert "run the playbook again" in message


def test_what_the_image_job_needs_is_created_on_request(site: Site, moto: aws.Moto):
    """The next run makes the operator create the image again."""
    succeed(site.run, "--tags", "operator_install", "-e", json.dumps(WITH_RESOURCES))
    settings = site.cluster.get("configmap", "aws-podvm-image-cm", "-n", OPERATOR_NAMESPACE)
    assert settings["data"]["BUCKET_NAME"] == BUCKET
    assert moto.client("s3").get_bucket_tagging(Bucket=BUCKET)["TagSet"]
    image = site.cluster.get("configmap", "peer-pods-cm", "-n", OPERATOR_NAMESPACE)["data"]["PODVM_AMI_ID"]
    assert moto.client("ec2").describe_images(ImageIds=[image])["Images"]


@pytest.mark.parametrize(
    ("tags", "task"),
    [
        ("webhook", "Register the webhook"),
        # The limit is set only where peer pods are counted, for which the webhook must be registered.
        ("webhook,node_capacity,peerpodconfig_rollout", "Set the limit and wait until every node advertises it"),
    ],
)
def test_a_run_that_is_killed(site: Site, tags: str, task: str):
    """Each run is killed a little later than the previous run. The next test checks the outcome."""
    site.run_and_kill(task, "--tags", tags)


@pytest.fixture(scope="module")
def installed(site: Site, initial_state) -> Site:
    """The site after a run that completed, while requests to the API server and to AWS failed every so often."""
    with bad_weather(site) as troubled:
        succeed(troubled.run)
    return site


def test_the_operator_creates_the_image_of_the_given_oci_image(installed: Site):
    """It leaves the ConfigMap that exists, which has all that its scripts require."""
    settings = installed.cluster.get("configmap", "aws-podvm-image-cm", "-n", OPERATOR_NAMESPACE)
    assert settings["data"]["PODVM_IMAGE_URI"] == IMAGE_URI
    assert settings["metadata"]["labels"] == {"app.kubernetes.io/part-of": "osc.peerpods"}


def test_the_next_run_creates_no_object_twice(installed: Site):
    site = installed

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
    opened = [
        (rule["FromPort"], rule["IpProtocol"])
        for rule in site.rules()
        if not rule["IsEgress"]
        and rule["GroupId"] == site.cloud.worker_group_id
        and rule["FromPort"] not in aws.PORTS_OPEN_BEFORE
    ]
    assert sorted(opened) == [(9000, "tcp"), (9000, "udp"), (15150, "tcp")]


MARK = "app.kubernetes.io/part-of=osc.peerpods"

CLUSTER = {
    "infrastructure_name": openshift.INFRASTRUCTURE_NAME,
    "platform": "AWS",
    "version": openshift.VERSION,
}


def test_a_second_run_changes_nothing_publishes_the_result_and_prints_no_secret(installed: Site):
    """Nor does one with the same options as texts, which is what each of them is on a command line.

    The ID of the access key is not a secret, and amazon.aws prints it at -vvv.
    """
    completed = installed.run("-vvv", "--diff", *as_texts(installed.variables))
    assert NOTHING_CHANGED.search(completed.stdout), completed.stdout
    secret = installed.cloud_environment["AWS_SECRET_ACCESS_KEY"]
    for form in (secret, base64.b64encode(secret.encode()).decode()):
        assert form not in completed.stdout + completed.stderr
    assert artifacts(completed.stdout) == {
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
    completed = site.run("--check", "--diff")
    assert NOTHING_CHANGED.search(completed.stdout), completed.stdout


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
    site.cluster.delete("secret", "peer-pods-secret", "-n", OPERATOR_NAMESPACE)
    completed = site.run(
        "--tags",
        "operator_install",
        "-e",
        "operator_install_credentials=credentials_request",
        K8S_AUTH_KUBECONFIG=str(site.cluster.kubeconfig),
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    secret = site.cluster.get("secret", "peer-pods-secret", "-n", OPERATOR_NAMESPACE)["data"]
    stored_credentials = {key.lower(): base64.b64decode(value).decode() for key, value in secret.items()}
    assert stored_credentials == root
    site.cluster.delete("secret", "aws-creds", "-n", "kube-system")


def test_a_role_is_passed_to_the_operator_on_a_cluster_with_tokens(
    site: Site, moto: aws.Moto, iam, run_module: Callable[..., dict]
):
    """The operator creates peer-pods-secret as for a user of the web console. The role may create an image until an
    image exists."""
    site.cluster.delete("credentialsrequests", "--all", "-A")
    site.cluster.kubectl("wait", "--for=delete", "secret/peer-pods-secret", "--timeout=60s", "-n", OPERATOR_NAMESPACE)
    site.cluster.merge("configmap/peer-pods-cm", {"data": {"PODVM_AMI_ID": ""}}, OPERATOR_NAMESPACE)
    # With a token, the image job creates both itself, and fails if the bucket exists.
    removed = run_module("ec2_podvm_import", {**IMPORT, "state": "absent"}, env=moto.environment)
    assert len(removed["changes"]) == 3
    openshift.use_tokens(site.cluster, ISSUER)
    assert "set operator_install_create_identity to true" in failure_message(site.run("--tags", "operator_install"))
    create = ("--tags", "operator_install", "-e", "operator_install_create_identity=true")
    assert f"has no identity provider {PROVIDER}" in failure_message(site.run(*create))
    assert not iam.list_roles()["Roles"]
    iam.create_open_id_connect_provider(Url=ISSUER, ClientIDList=["openshift"], ThumbprintList=[])
    output = succeed(site.run, *create)
    openshift.use_root_credential(site.cluster)
    assert "TASK [osc.peerpods.operator_install : Remove the permissions to create an image]" in output
    (role,) = roles(iam)
    assert iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"] == ["peer-pod-vms"]
    (subscription,) = site.cluster.get("subscriptions", "-n", OPERATOR_NAMESPACE)["items"]
    assert subscription["spec"]["config"] == {"env": [{"name": "ROLEARN", "value": role["Arn"]}]}
    secret = site.cluster.get("secret", "peer-pods-secret", "-n", OPERATOR_NAMESPACE)
    assert secret["metadata"]["labels"] == {"kataconfiguration.openshift.io/sts": "aws"}
    assert {key: base64.b64decode(value).decode() for key, value in secret["data"].items()} == {
        "AWS_ROLE_ARN": role["Arn"],
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/secrets/openshift/serviceaccount/token",
    }
    # Without the role in its environment, the operator would mount no token.
    adaptors = site.cluster.get("daemonset", "osc-caa-ds", "-n", OPERATOR_NAMESPACE)
    assert [volume["name"] for volume in adaptors["spec"]["template"]["spec"]["volumes"]] == ["bound-sa-token"]


def test_the_report_supports_the_second_generation(site: Site, tmp_path: Path):
    """The report does not list PeerPodConfigs, because this cluster never had any."""
    reporting, printed = report_on(site, "report", tmp_path, "html")
    findings = reporting.findings()
    assert findings["limit-storage"]["found"] == (
        "Operator 1.13.0 stores the limit in the ConfigMap peer-pods-cm; cloud-api-adaptor advertises it. "
        "The agent of the role node_capacity sets what nodes advertise: the limits in the ConfigMap peerpods-limits, "
        "and this limit for nodes without one there."
    )
    assert findings["other-advertisers"]["status"] == "ok"
    page = (reporting.report / "report.html").read_text()
    for text in (printed, page, json.dumps(findings)):
        assert "PeerPodConfig" not in text


def test_the_operators_webhook_takes_precedence(site: Site):
    """The removal is tested in test_webhook_role.py."""
    webhook = site.cluster.get("mutatingwebhookconfigurations")["items"][0]["webhooks"][0]
    site.cluster.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "mutating-webhook-configuration"},
            "webhooks": [
                {
                    "name": "mwebhook.peerpods.io",
                    "clientConfig": webhook["clientConfig"],
                    "rules": webhook["rules"],
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "failurePolicy": "Ignore",
                }
            ],
        }
    )
    try:
        with site.unchanged():
            completed = site.run("--tags", "webhook", "--check", K8S_AUTH_KUBECONFIG=str(site.cluster.kubeconfig))
            assert completed.returncode == 0, completed.stdout[-3000:]
    finally:
        site.cluster.delete("mutatingwebhookconfiguration", "mutating-webhook-configuration")
    assert "The webhook of this collection was removed" in completed.stdout
    assert "Deploy the webhook" not in completed.stdout
    assert artifacts(completed.stdout) == {
        "peerpods_site": {
            **CLUSTER,
            "webhook": "operator",
            "node_capacity": None,
            "rollout": None,
        }
    }


USERS_OBJECTS = [
    *(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine", "namespace": namespace}}
        for namespace in (OPERATOR_NAMESPACE, "osc-peerpods")
    ),
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "mine", "namespace": OPERATOR_NAMESPACE},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "mine"}},
            "template": {
                "metadata": {"labels": {"app": "mine"}},
                "spec": {"containers": [{"name": "app", "image": "app"}]},
            },
        },
    },
]


# What a complete teardown publishes as left.
NOTHING_STAYS = {
    "operator": [],
    "namespaces": [],
    "peerpodconfigs": [],
    "advertising_nodes": 0,
    "security_rules": [],
    "nat_gateways": None,
    "images": [],
    "image_resources": [],
    "identities": [],
}


class TestTeardown:
    def test_a_teardown_is_rejected_while_peer_pods_run(self, installed: Site, teardown: RoleAlone):
        """The operator waits for the end of all kata pods, not only of peer pods, before it removes kata."""
        pods = {"app": "kata-remote", "plain": "kata"}
        installed.cluster.apply(
            *(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": name, "namespace": "default"},
                    "spec": {"runtimeClassName": runtime_class, "containers": [{"name": "app", "image": "app"}]},
                }
                for name, runtime_class in pods.items()
            )
        )
        try:
            with installed.unchanged():
                message = failure_message(teardown.run())
                forced = failure_message(teardown.run("-e", "teardown_force=true"))
        finally:
            installed.cluster.delete("pod", *pods, "--force", "--grace-period=0")
        assert "(default/app). Nothing was changed. Delete them, or the workloads that create them" in message
        assert "A KataConfig of this collection is not removed while they exist, also with teardown_force" in message
        assert "Pods with the RuntimeClass kata, kata-remote exist: default/app, default/plain. " in forced
        assert "The operator and its KataConfig were not changed" in forced

    def test_a_teardown_is_rejected_without_credentials_of_the_cloud(
        self, installed: Site, teardown: RoleAlone, tmp_path: Path
    ):
        missing_file = str(tmp_path / "none")
        environment = {
            "AWS_ACCESS_KEY_ID": None,
            "AWS_SECRET_ACCESS_KEY": None,
            "AWS_CONFIG_FILE": missing_file,
            "AWS_SHARED_CREDENTIALS_FILE": missing_file,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        with installed.unchanged():
            assert "No AWS credentials for EC2 were found" in failure_message(teardown.run(**environment))

    def test_a_teardown_is_rejected_without_permission_to_remove_everything(self, installed: Site, teardown: RoleAlone):
        verbs = ("list", "watch", "get", "patch")
        cluster = installed.cluster
        cluster.kubectl("create", "clusterrole", "looker", f"--verb={','.join(verbs)}", "--resource=*.*")
        cluster.kubectl("create", "clusterrolebinding", "looker", "--clusterrole=looker", "--user=looker")
        looks = replace(teardown, kubeconfig=cluster.user_kubeconfig("looker"))
        with installed.unchanged():
            message = failure_message(looks.run())
        cluster.delete("clusterrole,clusterrolebinding", "looker")
        assert "The user of this kubeconfig may not delete configmaps, delete deployments.apps, " in message
        assert "and 13 more" in message
        assert "Nothing was changed. Log in as a user" in message

    def test_objects_of_a_user_stay_with_their_namespaces(
        self, installed: Site, teardown: RoleAlone, iam, left_image: str
    ):
        """The kinds of objects are tested in test_own_namespace.py."""
        cluster = installed.cluster
        cluster.apply(*USERS_OBJECTS)
        users = {(entry["kind"], entry["metadata"]["namespace"], entry["metadata"]["name"]) for entry in USERS_OBJECTS}

        def reasons() -> set[str]:
            conditions = cluster.get("deployment", "mine", "-n", OPERATOR_NAMESPACE)["status"].get("conditions", ())
            return {condition["reason"] for condition in conditions}

        wait_for("the last status of the Deployment", lambda: "NewReplicaSetAvailable" in reasons(), seconds=30)
        before = dump(cluster)
        with installed.unchanged():
            planned = succeed(teardown.run, "--check")
        with bad_weather(teardown) as troubled:
            output = succeed(troubled.run)
        after = dump(cluster)
        assert {key: after.get(key) for key in users} == {key: before[key] for key in users}
        (snapshot,) = stays(output)["images"][1:]
        assert stays(output) == {
            **NOTHING_STAYS,
            "namespaces": [OPERATOR_NAMESPACE, "osc-peerpods"],
            "images": [left_image, snapshot],
        }
        assert stays(planned) == stays(output)
        assert not roles(iam)
        assert f"The operator made {left_image}, snap-" in output
        assert "They stay: to remove them, set operator_install_remove_images to true." in output
        for text in (planned, output):
            assert f"Namespace {OPERATOR_NAMESPACE} stays: it contains ConfigMap/mine, Deployment/mine, " in text
            # Each is decided about once, after all roles have removed their objects.
            assert text.count("Namespace osc-peerpods stays: ") == text.count(f"Namespace {OPERATOR_NAMESPACE} stays: ")
            assert (
                "Namespace osc-peerpods stays: it contains ConfigMap/mine, which this collection did not create" in text
            )

    def test_the_cluster_and_the_cloud_are_restored(
        self, initial_state, installed: Site, teardown: RoleAlone, moto: aws.Moto, run_module: Callable[..., dict]
    ):
        for entry in USERS_OBJECTS:
            name, namespace = entry["metadata"]["name"], entry["metadata"]["namespace"]
            installed.cluster.delete(entry["kind"], name, "-n", namespace)
        # What a later role removes does not keep the namespace.
        labels = {"app.kubernetes.io/part-of": "osc.peerpods", "app.kubernetes.io/name": "peerpods-node-capacity"}
        of_agent = {"name": "osc-peerpods-node-capacity", "namespace": OPERATOR_NAMESPACE, "labels": labels}
        installed.cluster.apply({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": of_agent})
        assert run_module("ec2_podvm_import", IMPORT, env=moto.environment)["changed"]
        remove = {**WITH_RESOURCES, "operator_install_remove_images": True}
        output = succeed(teardown.run, "-e", json.dumps(remove))
        assert not moto.client("ec2").describe_images(Filters=[LEFT])["Images"]
        assert not moto.client("s3").list_buckets()["Buckets"]
        cluster, cloud = initial_state
        assert differing(cluster, dump(installed.cluster)) == {}
        assert installed.rules() == cloud
        assert stays(output) == NOTHING_STAYS

    def test_the_agent_stays_in_the_operators_namespace(self, installed: Site, teardown: RoleAlone):
        """If only the operator is removed, and the agent and its limits are in the same namespace."""
        label = {"app.kubernetes.io/part-of": "osc.peerpods"}
        metadata = {"namespace": OPERATOR_NAMESPACE, "labels": label}
        agent = {**metadata, "labels": {**label, "app.kubernetes.io/name": "peerpods-node-capacity"}}
        installed.cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE, "labels": label}},
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**metadata, "name": "peer-pods-cm"}},
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**metadata, "name": "peerpods-limits"}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {**agent, "name": "agent"}},
        )
        shared = ("-e", f"node_capacity_namespace={OPERATOR_NAMESPACE}")
        output = succeed(teardown.run, *shared, "--tags", "operator_install")
        assert stays(output)["namespaces"] == [OPERATOR_NAMESPACE]
        assert "this collection still uses ConfigMap/peerpods-limits, ServiceAccount/agent." in output
        remaining = installed.cluster.get("configmaps,serviceaccounts", "-n", OPERATOR_NAMESPACE, "-l", MARK)["items"]
        assert [item["metadata"]["name"] for item in remaining] == ["peerpods-limits", "agent"]
        # Removals that fail in the cloud do not end the run before its other parts, also after that of the operator.
        wrong = {
            **WITH_RESOURCES,
            "operator_install_image_bucket": "UPPER",
            "operator_install_remove_images": True,
            "operator_install_image_config": {"BUCKET_NAME": "no bucket"},
        }
        result = teardown.run(*shared, "-e", json.dumps(wrong))
        message, output = failure_message(result), result.stdout
        assert "The bucket and the role of the image job could not be removed: bucket must be the name of" in message
        assert "These tasks failed: Remove the AMIs of the cluster: Calling S3 HeadBucket" in message
        assert stays(output) == {
            **NOTHING_STAYS,
            # They were not read.
            "images": None,
            "image_resources": ["bucket UPPER"],
        }
        namespaces = installed.cluster.get("namespaces")["items"]
        assert OPERATOR_NAMESPACE not in [item["metadata"]["name"] for item in namespaces]

    def test_the_parts_that_do_not_depend_on_a_failed_one_are_done(self, installed: Site, teardown: RoleAlone):
        """And the result that is published names what stays, or that it is not known."""
        cluster = installed.cluster
        of_collection = {"app.kubernetes.io/part-of": "osc.peerpods"}
        namespaces = ("osc-peerpods", OPERATOR_NAMESPACE)
        metadata = {name: {"namespace": "osc-peerpods", "name": name} for name in ("webhook", "agent")}
        cluster.apply(
            *(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": of_collection}}
                for name in namespaces
            ),
            *(
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {**metadata[name], "labels": {**of_collection, "app.kubernetes.io/name": container}},
                }
                for name, container in (("webhook", "peerpods-webhook"), ("agent", "peerpods-node-capacity"))
            ),
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {
                    "name": "osc-podvm-image-deletion",
                    "namespace": OPERATOR_NAMESPACE,
                    "finalizers": ["example.com/hold"],
                },
                "spec": {
                    "suspend": True,
                    "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]}},
                },
            },
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingAdmissionPolicy",
                "metadata": {"name": "no-deletion"},
                "spec": {
                    "matchConstraints": {
                        "resourceRules": [
                            {
                                "apiGroups": [""],
                                "apiVersions": ["v1"],
                                "operations": ["DELETE"],
                                "resources": ["configmaps"],
                                "resourceNames": ["webhook"],
                            }
                        ]
                    },
                    "validations": [{"expression": "false", "message": "It is still needed."}],
                },
            },
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": {"name": "no-deletion"},
                "spec": {"policyName": "no-deletion", "validationActions": ["Deny"]},
            },
        )

        def is_denied() -> bool:
            with contextlib.suppress(RuntimeError):
                cluster.kubectl("delete", "configmap", "webhook", "-n", "osc-peerpods", "--dry-run=server")
                return False
            return True

        wait_for("the policy", is_denied, seconds=30)
        options = {"operator_install_remove_images": True, "operator_install_timeout": 1}
        with ec2_proxy(installed.cloud_environment["AWS_ENDPOINT_URL"]) as proxy:
            denied = refuse(403, "UnauthorizedOperation")
            proxy.faults["DescribeImages"] = [denied]
            # The first one is that of the check before the first change.
            proxy.faults["DescribeSecurityGroupRules"] = [work, denied]
            environment = {**installed.cloud_environment, "AWS_ENDPOINT_URL": proxy.url}
            completed = replace(teardown, cloud_environment=environment).run("-e", json.dumps(options))
        remaining = cluster.get("configmaps", "-n", "osc-peerpods", "-l", MARK)["items"]
        cluster.delete("validatingadmissionpolicy,validatingadmissionpolicybinding", "no-deletion")
        cluster.merge("job/osc-podvm-image-deletion", {"metadata": {"finalizers": None}}, OPERATOR_NAMESPACE)
        cluster.delete("namespace", *namespaces, "--ignore-not-found")
        message, result = failure_message(completed), artifacts(completed.stdout)["peerpods_teardown"]
        causes = (
            "It is still needed.",
            "Remove the AMIs of the cluster: ",
            "Remove the security group rules of this cluster: ",
            f"Remove the namespace: Namespace {OPERATOR_NAMESPACE} is deleted, but still exists after 1 s: ",
        )
        for cause, failure in zip(causes, result["failures"], strict=True):
            assert cause in failure
            assert failure in message
        assert result["stays"] == {
            **NOTHING_STAYS,
            "namespaces": [OPERATOR_NAMESPACE, "osc-peerpods"],
            "security_rules": None,
            "images": None,
        }
        assert [item["metadata"]["name"] for item in remaining] == ["webhook"]

    def test_a_second_run_changes_nothing(self, installed: Site, teardown: RoleAlone):
        with installed.unchanged():
            assert NOTHING_CHANGED.search(succeed(teardown.run))
