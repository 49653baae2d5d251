"""site.yml on a bare cluster in Azure: rejected input, the operator's credentials, and that nothing is created twice.

test_site.py tests what a role does alike on every cloud.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.azure_arm import AzureArm
from tests.cluster import azure, openshift
from tests.cluster.clouds import site_variables
from tests.cluster.launcher import Cluster
from tests.integration.site import NOTHING_CHANGED, Site, failure_message, report_on
from tests.support import JSON_OUTPUT, OPERATOR_NAMESPACE, ROOT, ansible_environment

CREDENTIALS = ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_SUBSCRIPTION_ID")
ONLY_THE_OPERATOR = ("--tags", "operator_install")
FROM_THE_CLUSTER = (*ONLY_THE_OPERATOR, "-e", "operator_install_credentials=credentials_request")
EXTRA_CONFIG = {"TAGS": "team=a,cost=b", "ROOT_VOLUME_SIZE": 60, "ENABLE_SECURE_BOOT": True}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with AzureArm(tmp_path_factory.mktemp("arm")) as arm, Cluster() as cluster:
        cloud = azure.create_cloud_side(arm, workers=3)
        status = openshift.azure_status(cloud.resource_group)
        openshift.fill(cluster, cloud.workers, azure.REGION, status)
        openshift.start_stand_ins(cluster, "process")

        def rules() -> list[dict]:
            return arm.resources[cloud.nsg_id.lower()]["properties"]["securityRules"]

        yield Site(cluster, cloud, arm.environment, rules, site_variables("process"))


@pytest.fixture
def nothing_changes(site: Site) -> Iterator[None]:
    with site.unchanged():
        yield


def stored(site: Site, kind: str, name: str) -> dict:
    return site.cluster.get(kind, name, "-n", OPERATOR_NAMESPACE)


def credentials(site: Site) -> dict[str, str]:
    data = stored(site, "secret", "peer-pods-secret")["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def expected_credentials(site: Site) -> dict[str, str]:
    return {key: site.cloud_environment[key] for key in CREDENTIALS}


@pytest.mark.usefixtures("nothing_changes")
class TestBeforeAnything:
    def test_a_dry_run_reports_the_changes(self, site: Site):
        ran = site.run("--check", "--diff", "-e", "peerpodconfig_rollout_limit=20")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        for name in ("Allow-Kata-Agent-Internal", "Allow-VXLAN-Internal"):
            assert name in ran.stdout
        assert "write peer-pods-cm, write peer-pods-secret" in ran.stdout
        # A quota that is too small is a warning.
        assert "20 peer pods on each of 3 nodes are 60 VMs, but Azure has room for 38" in ran.stdout

    def test_a_quota_that_must_not_be_exceeded(self, site: Site):
        quota = ("-e", "cluster_prerequisites_quota=fail", "-e", "peerpodconfig_rollout_limit=20")
        message = failure_message(site.run(*quota))
        assert "room for 38 more VMs of Standard_B2als_v2 in westeurope, of 2 vCPUs each" in message
        assert "0 of 100 vCPUs of standardBasv2Family are in use, and 24 of 100 of all" in message
        assert "Set peerpodconfig_rollout_limit to 12, or request a higher quota of" in message

    def test_a_size_that_azure_does_not_offer(self, site: Site):
        sizes = json.dumps({"operator_install_azure_instance_sizes": ["Standard_X1"]})
        message = failure_message(site.run("-e", sizes))
        assert "Azure has no VM size Standard_X1 in westeurope. Set operator_install_azure" in message

    @pytest.mark.parametrize(
        ("secret", "expected"),
        [(None, "The Azure credentials are incomplete"), ("wrong", "Authenticating to Azure failed")],
    )
    def test_a_missing_or_wrong_secret(self, site: Site, secret: str | None, expected: str):
        message = failure_message(site.run(AZURE_SECRET=secret, AZURE_CLIENT_SECRET=secret))
        assert expected in message
        assert "AZURE_CLIENT_SECRET" in message

    def test_nodes_in_two_regions(self, site: Site):
        name = "elsewhere"
        node = openshift.Worker(name, f"azure:///{name}", "northeurope-1", azure.VM_SIZE, "10.0.0.9")
        site.cluster.apply(openshift.node(node, "northeurope"))
        try:
            message = failure_message(site.run())
        finally:
            site.cluster.kubectl("delete", "node", name)
        assert "topology.kubernetes.io/region of the worker nodes do not have one region in common" in message

    def test_a_credential_for_the_vms_that_is_empty(self, site: Site):
        message = failure_message(site.run("--check", "-e", "operator_install_azure_tenant_id="))
        assert "operator_install_azure_tenant_id is empty. Set it, or AZURE_TENANT_ID, to the tenant" in message

    def test_invalid_extra_configuration(self, site: Site):
        extra = {"tags": "a=b", "AZURE_REGION": "x", "AZURE_CLIENT_SECRET": "x", "TAGS": {"a": "b"}}
        message = failure_message(site.run("--check", "-e", json.dumps({"operator_install_extra_config": extra})))
        assert "tags in operator_install_extra_config is not a key of peer-pods-cm" in message
        assert "AZURE_REGION in operator_install_extra_config is set by another option" in message
        assert "AZURE_CLIENT_SECRET in operator_install_extra_config is a credential" in message
        assert "TAGS in operator_install_extra_config is not a single value" in message


class TestCredentialsOfTheCluster:
    def test_a_cluster_without_a_credentials_request(self, site: Site):
        message = failure_message(site.run(*FROM_THE_CLUSTER, "-e", "operator_install_credentials_timeout=4"))
        assert "The operator has no cloud credentials after 4 s" in message
        assert "root secret kube-system/azure-credentials not found" in message
        assert "set operator_install_credentials to variables" in message
        assert not site.cluster.get("kataconfigs")["items"]

    def test_a_cluster_with_a_credentials_request(self, site: Site):
        root = {
            f"azure_{key.removeprefix('AZURE_').lower()}": value for key, value in expected_credentials(site).items()
        }
        site.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "azure-credentials", "namespace": "kube-system"},
                "stringData": {**root, "azure_region": azure.REGION},
            }
        )
        ran = site.run(*FROM_THE_CLUSTER)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert credentials(site) == expected_credentials(site)
        (request,) = site.cluster.get("credentialsrequests", "-A")["items"]
        # As the operator's own, which it makes unless there is one of this name.
        assert request["metadata"]["name"] == "openshift-sandboxed-containers-azure"

    def test_a_second_run_changes_nothing(self, site: Site):
        ran = site.run(*FROM_THE_CLUSTER)
        assert NOTHING_CHANGED.search(ran.stdout), ran.stdout

    def test_the_operators_secret_is_not_overwritten(self, site: Site):
        before = stored(site, "secret", "peer-pods-secret")
        message = failure_message(site.run(*ONLY_THE_OPERATOR))
        assert "The operator made peer-pods-secret of a CredentialsRequest" in message
        assert stored(site, "secret", "peer-pods-secret") == before


def test_the_rules_are_those_of_the_product_documentation(site: Site):
    ours = {rule["name"]: rule["properties"] for rule in site.rules() if rule["properties"]["priority"] in (111, 112)}
    assert {name: rule["destinationPortRange"] for name, rule in ours.items()} == {
        "Allow-Kata-Agent-Internal": "15150",
        "Allow-VXLAN-Internal": "9000",
    }
    for rule in ours.values():
        assert rule["sourceAddressPrefix"] == azure.WORKER_SUBNET_CIDR
        assert rule["destinationAddressPrefix"] == azure.WORKER_SUBNET_CIDR


@pytest.mark.parametrize(
    ("nsgs", "subnet", "nsg"),
    [
        ({"nsg-a": ["subnet-b"], "nsg-b": ["subnet-a"]}, "subnet-a", "nsg-b"),
        ({"nsg-b": [], "nsg-a": []}, "subnet-a", "nsg-a"),
        ({}, "subnet-a", ""),
    ],
)
def test_vms_use_the_first_subnet_and_their_own_security_group(nsgs, subnet, nsg):
    report = {
        "subnets": [{"id": "subnet-b"}, {"id": "subnet-a"}],
        "network_security_groups": [{"id": id, "subnets": of} for id, of in nsgs.items()],
    }
    ran = subprocess.run(
        [
            "ansible",
            "localhost",
            "-m",
            "debug",
            "-a",
            "msg={{ [operator_install_azure_subnet_id, operator_install_azure_nsg_id] | to_json }}",
            "-e",
            f"@{ROOT}/roles/operator_install/defaults/main.yml",
            "-e",
            json.dumps({"cloud_networking_report": report}),
        ],
        env=ansible_environment(JSON_OUTPUT),
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(ran.stdout)["plays"][0]["tasks"][0]["hosts"]["localhost"]
    assert json.loads(result["msg"]) == [subnet, nsg]


class TestCredentialsOfVariables:
    def test_credentials_of_variables_replace_those_of_the_cluster(self, site: Site):
        """After the cluster's credentials are removed. What the operator wrote into peer-pods-cm stays."""
        site.cluster.kubectl("delete", "credentialsrequests", "--all", "-A")
        # With them goes what the cloud credential operator gave, and the operator's one, whose owner that is.
        site.cluster.kubectl(
            "wait", "--for=delete", "secret/peer-pods-secret", "--timeout=60s", "-n", OPERATOR_NAMESPACE
        )
        by_operator = {"AZURE_IMAGE_ID": "/made/by/the/operator", "DISABLECVM": "true"}
        site.cluster.kubectl(
            "patch",
            "configmap",
            "peer-pods-cm",
            "-n",
            OPERATOR_NAMESPACE,
            "--type=merge",
            "-p",
            json.dumps({"data": by_operator}),
        )
        site.variables |= {
            "operator_install_extra_config": EXTRA_CONFIG,
            "operator_install_azure_instance_sizes": ["Standard_D2as_v5", "Standard_D4as_v5"],
            "operator_install_azure_ssh_public_key": "ssh-ed25519 AAAA you",
        }
        ran = site.run()
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert credentials(site) == expected_credentials(site)
        assert stored(site, "configmap", "peer-pods-cm")["data"] == {
            "CLOUD_PROVIDER": "azure",
            "VXLAN_PORT": "9000",
            "PROXY_TIMEOUT": "5m",
            "AZURE_REGION": azure.REGION,
            "AZURE_RESOURCE_GROUP": site.cloud.resource_group,
            "AZURE_SUBNET_ID": site.cloud.worker_subnet_id,
            "AZURE_NSG_ID": site.cloud.nsg_id,
            "AZURE_INSTANCE_SIZE": "Standard_B2als_v2",
            "AZURE_INSTANCE_SIZES": "Standard_D2as_v5,Standard_D4as_v5",
            "TAGS": "team=a,cost=b",
            "ROOT_VOLUME_SIZE": "60",
            "ENABLE_SECURE_BOOT": "true",
            **by_operator,
        }
        assert stored(site, "secret", "ssh-key-secret")["data"] == {
            "id_rsa.pub": base64.b64encode(b"ssh-ed25519 AAAA you").decode()
        }

    def test_a_second_run_changes_nothing_and_prints_no_secret(self, site: Site):
        ran = site.run("-vvv", "--diff")
        assert NOTHING_CHANGED.search(ran.stdout), ran.stdout
        secret = site.cloud_environment["AZURE_CLIENT_SECRET"]
        for form in (secret, base64.b64encode(secret.encode()).decode()):
            assert form not in ran.stdout + ran.stderr

    @pytest.mark.usefixtures("nothing_changes")
    def test_a_dry_run_of_a_complete_installation(self, site: Site):
        ran = site.run("--check", "--diff")
        assert NOTHING_CHANGED.search(ran.stdout), ran.stdout

    def test_a_secret_of_the_user_is_unchanged(self, site: Site):
        before = stored(site, "secret", "peer-pods-secret")
        message = failure_message(site.run(*FROM_THE_CLUSTER))
        assert "peer-pods-secret was not made of a CredentialsRequest" in message
        assert stored(site, "secret", "peer-pods-secret") == before


@pytest.mark.parametrize("playbook", ["preflight", "report"])
def test_info_and_report_support_the_first_generation(site: Site, tmp_path: Path, playbook: str):
    findings = report_on(site, playbook, tmp_path)[0].findings()
    assert findings["limit-storage"]["found"] == (
        "Operator 1.8.1 stores the limit in PeerPodConfig peerpodconfig-openshift; peerpodconfig-ctrl advertises it."
    )
    assert findings["other-advertisers"]["status"] == "ok"
