"""site.yml on a bare cluster in Azure: rejected input, the operator's credentials, and that nothing is created twice.

Behaviour that is the same on every cloud is tested in test_site.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.azure_arm import AzureArm
from tests.cluster import azure, openshift
from tests.cluster.clouds import site_variables
from tests.cluster.launcher import Cluster
from tests.integration.site import (
    NOTHING_CHANGED,
    Reporting,
    RoleAlone,
    Site,
    as_texts,
    bad_weather,
    failure_message,
    report_on,
    succeed,
)
from tests.support import OPERATOR_NAMESPACE, ROOT, local_play

CREDENTIALS = ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_SUBSCRIPTION_ID")
ONLY_THE_OPERATOR = ("--tags", "operator_install")
FROM_THE_CLUSTER = (*ONLY_THE_OPERATOR, "-e", "operator_install_credentials=credentials_request")
EXTRA_CONFIG = {"TAGS": "team=a,cost=b", "ROOT_VOLUME_SIZE": 60, "ENABLE_SECURE_BOOT": True}


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureArm]:
    with AzureArm(tmp_path_factory.mktemp("arm")) as running:
        yield running


@pytest.fixture(scope="module")
def site(arm: AzureArm) -> Iterator[Site]:
    with Cluster(definitions=openshift.definitions(), has_pod_network=True) as cluster:
        cloud = azure.create_cloud_side(arm, workers=3)
        status = openshift.azure_status(cloud.resource_group)
        openshift.fill(cluster, cloud.workers, azure.REGION, status)
        openshift.start_stand_ins(cluster, "process", cloud_environment=arm.environment)

        def rules() -> list[dict]:
            return arm.resources[cloud.nsg_id.lower()]["properties"]["securityRules"]

        yield Site(cluster, cloud, arm.environment, rules, site_variables("process"), arm=arm)


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
    def test_a_dry_run_reports_the_changes(self, site: Site, run_module: Callable[..., dict]):
        described = run_module("operator_info", {"kubeconfig": str(site.cluster.kubeconfig)})
        assert described["pod_vm_image"]["key"] == "AZURE_IMAGE_ID"
        completed = site.run("--check", "--diff", "-e", "peerpodconfig_rollout_limit=20")
        assert completed.returncode == 0, completed.stdout + completed.stderr
        for name in ("Allow-Kata-Agent-Internal", "Allow-VXLAN-Internal"):
            assert name in completed.stdout
        assert "write peer-pods-cm, write peer-pods-secret" in completed.stdout
        # A quota that is too small is a warning.
        assert "20 peer pods on each of 3 nodes are 60 VMs, but Azure has room for 38" in completed.stdout

    def test_what_azure_does_not_have(self, site: Site, arm: AzureArm, monkeypatch: pytest.MonkeyPatch):
        """A size, and room for another NAT gateway."""
        monkeypatch.setitem(arm.state.limits, "NatGateways", 0)
        options = {"operator_install_azure_instance_sizes": ["Standard_X1"], "cloud_networking_azure_nat_gateway": True}
        message = failure_message(site.run("-e", json.dumps(options)))
        assert "2 checks failed." in message
        assert "Azure has no VM size Standard_X1 in westeurope. Set operator_install_azure" in message
        assert "A NAT gateway cannot be added: All 0 NAT gateways that this subscription may have in" in message

    def test_a_wrong_secret(self, site: Site):
        """Missing credentials are tested in test_azure_login.py."""
        message = failure_message(site.run(AZURE_SECRET="wrong", AZURE_CLIENT_SECRET="wrong"))
        assert "Authenticating to Azure failed" in message
        assert "AZURE_CLIENT_SECRET" in message

    def test_nodes_in_two_regions(self, site: Site):
        name = "elsewhere"
        node = openshift.Worker(name, f"azure:///{name}", "northeurope-1", azure.VM_SIZE, "10.0.0.9")
        site.cluster.apply(openshift.node(node, "northeurope"))
        try:
            message = failure_message(site.run())
        finally:
            site.cluster.delete("node", name)
        assert "topology.kubernetes.io/region of the worker nodes do not have one region in common" in message


class TestCredentialsOfTheCluster:
    def test_a_cluster_without_a_root_credential(self, site: Site):
        message = failure_message(site.run(*FROM_THE_CLUSTER))
        assert (
            "has no root credential (kube-system/azure-credentials). Fix this, or set operator_install_cred" in message
        )
        assert not site.cluster.get("subscriptions", "-A")["items"]

    def test_a_request_that_is_not_granted(self, site: Site):
        """The preflight, whose errors are ignored here, reports it before."""
        variables = {"operator_install_credentials_timeout": 2, "cluster_prerequisites_fail": False}
        message = failure_message(site.run(*FROM_THE_CLUSTER, "-e", json.dumps(variables)))
        assert "The operator has no cloud credentials after 2 s" in message
        assert "root secret kube-system/azure-credentials not found" in message
        assert "set operator_install_credentials to given" in message
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
        with bad_weather(site) as troubled:
            succeed(troubled.run, *FROM_THE_CLUSTER)
        assert credentials(site) == expected_credentials(site)
        (request,) = site.cluster.get("credentialsrequests", "-A")["items"]
        # The operator creates its own CredentialsRequest only if none of this name exists.
        assert request["metadata"]["name"] == "openshift-sandboxed-containers-azure"

    def test_a_second_run_changes_nothing(self, site: Site):
        """Not even a CredentialsRequest that another owner created with other permissions."""
        name = "credentialsrequest/openshift-sandboxed-containers-azure"
        namespace = "openshift-cloud-credential-operator"
        request = site.cluster.get(name, "-n", namespace)
        of_another = {"metadata": {"labels": None}, "spec": {"providerSpec": {"roleBindings": [{"role": "Reader"}]}}}
        site.cluster.merge(name, of_another, namespace)
        completed = site.run(*as_texts(site.variables), *FROM_THE_CLUSTER)
        labels = {"labels": request["metadata"]["labels"]}
        site.cluster.merge(name, {"metadata": labels, "spec": request["spec"]}, namespace)
        assert NOTHING_CHANGED.search(completed.stdout), completed.stdout

    @pytest.mark.usefixtures("nothing_changes")
    def test_invalid_settings_and_overwriting_the_operators_secret_are_rejected(self, site: Site):
        """The reverse, a Secret of the user, is tested in test_settings.py."""
        before = stored(site, "secret", "peer-pods-secret")
        extra = {"tags": "a=b", "AZURE_REGION": "x", "AZURE_CLIENT_SECRET": "x", "TAGS": {"a": "b"}}
        variables = {"operator_install_extra_config": extra, "operator_install_proxy_timeout": "5 minutes"}
        variables["operator_install_credentials"] = "given"
        message = failure_message(site.run(*ONLY_THE_OPERATOR, "-e", json.dumps(variables)))
        assert "operator_install_proxy_timeout must be a Go duration" in message
        assert "tags in operator_install_extra_config is not a key of peer-pods-cm" in message
        assert "AZURE_REGION in operator_install_extra_config is set by another option" in message
        assert "AZURE_CLIENT_SECRET in operator_install_extra_config is a credential" in message
        assert "TAGS in operator_install_extra_config is not a single value" in message
        assert "The operator created peer-pods-secret from a CredentialsRequest" in message
        assert stored(site, "secret", "peer-pods-secret") == before


def test_the_rules_are_those_of_the_product_documentation_and_one_for_udp(site: Site):
    suffix = f"-{openshift.INFRASTRUCTURE_NAME}"
    opened = {rule["name"]: rule["properties"] for rule in site.rules() if rule["name"].endswith(suffix)}
    assert {
        name.removesuffix(suffix): (rule["priority"], rule["destinationPortRange"], rule["protocol"])
        for name, rule in opened.items()
    } == {
        "Allow-Kata-Agent-Internal": (112, "15150", "Tcp"),
        "Allow-VXLAN-Internal": (111, "9000", "Tcp"),
        # The tunnel is VXLAN over UDP.
        "Allow-VXLAN-UDP-Internal": (110, "9000", "Udp"),
    }
    for rule in opened.values():
        assert rule["sourceAddressPrefix"] == azure.WORKER_SUBNET_CIDR
        assert rule["destinationAddressPrefix"] == azure.WORKER_SUBNET_CIDR


class TestCredentialsOfVariables:
    def test_credentials_of_variables_replace_those_of_the_cluster(self, site: Site):
        """The cluster's credentials are removed first. The keys that the operator wrote to peer-pods-cm stay."""
        site.cluster.delete("credentialsrequests", "--all", "-A")
        # This also deletes cco-secret of the cloud credential operator, and peer-pods-secret, which cco-secret owns.
        site.cluster.kubectl(
            "wait", "--for=delete", "secret/peer-pods-secret", "--timeout=60s", "-n", OPERATOR_NAMESPACE
        )
        image = stored(site, "configmap", "peer-pods-cm")["data"]["AZURE_IMAGE_ID"]
        assert image.endswith("/galleries/PodVMGallery_0f9f3c6e/images/podvm-image/versions/262093934.0.1")
        by_operator = {"AZURE_IMAGE_ID": image, "DISABLECVM": "true"}
        site.cluster.merge("configmap/peer-pods-cm", {"data": by_operator}, OPERATOR_NAMESPACE)
        site.variables |= {
            # The cluster could grant other ones.
            "operator_install_credentials": "given",
            "operator_install_extra_config": EXTRA_CONFIG,
            "operator_install_azure_instance_sizes": ["Standard_D2as_v5", "Standard_D4as_v5"],
            "operator_install_azure_ssh_public_key": "ssh-ed25519 AAAA you",
        }
        completed = site.run()
        assert completed.returncode == 0, completed.stdout + completed.stderr
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
        """Although every third request to Azure fails, in one of the ways that Azure and networks fail."""
        with bad_weather(site) as troubled:
            completed = troubled.run("-vvv", "--diff")
        assert NOTHING_CHANGED.search(completed.stdout), completed.stdout
        secret = site.cloud_environment["AZURE_CLIENT_SECRET"]
        for form in (secret, base64.b64encode(secret.encode()).decode()):
            assert form not in completed.stdout + completed.stderr


def test_preflight_supports_the_first_generation_and_open_ports(site: Site, arm: AzureArm, tmp_path: Path):
    """If the ports are open already, no permission to open them is checked."""
    arm.take_requests()
    findings = report_on(site, "preflight", tmp_path)[0].findings()
    assert "port-permissions" not in findings
    assert not [path for _method, path in arm.take_requests() if path.endswith("/permissions")]
    assert findings["limit-storage"]["found"] == (
        "Operator 1.8.1 stores the limit in PeerPodConfig peerpodconfig-openshift; peerpodconfig-ctrl advertises it."
    )
    assert findings["other-advertisers"]["status"] == "ok"


def test_a_verification_names_the_port_that_a_rule_denies(site: Site, arm: AzureArm, tmp_path: Path):
    """And deletes the VM. Other causes are in test_verify.py, where the module runs without a playbook."""
    before = set(arm.resources)
    prefixes = dict.fromkeys(("sourceAddressPrefix", "destinationAddressPrefix", "sourcePortRange"), "*")
    rule = {"priority": 105, "direction": "Inbound", "access": "Deny", "protocol": "Tcp", **prefixes}
    rule_id = f"{site.cloud.nsg_id}/securityRules/deny-agent"
    arm.put(rule_id, {"properties": {**rule, "destinationPortRange": "15150"}})
    # The VM answers no sooner.
    variables = {**site.variables, "report_formats": ["json"], "verify_boot_timeout": 1}
    path = ROOT / "playbooks" / "verify.yml"
    verification = Reporting(**{**vars(site), "playbook": path, "directory": tmp_path, "variables": variables})
    message = failure_message(verification.run())
    arm.delete(rule_id)
    findings = verification.findings()
    failed = {check: finding["cause"] for check, finding in findings.items() if finding["status"] == "error"}
    assert failed == {"verify-agent": "port"}
    assert "Open 15150/tcp from the nodes to the VMs" in message
    assert "/virtualMachines/podvm-peerpods-verify-" in findings["verify-vm"]["found"]
    assert findings["verify-deleted"]["found"] == "The VM is deleted."
    assert set(arm.resources) == before


def test_a_gallery_with_an_image_of_a_user_is_kept_and_an_own_one_is_removed(site: Site, arm: AzureArm, tmp_path: Path):
    """A user has added a version to the gallery. At a renewal of the image, the operator would delete it. It takes the
    name of the gallery from the annotation, and its resource group from peer-pods-cm.

    Then the tasks of the teardown alone. test_site.py tests that they are a part of it, on AWS.
    """
    gallery = f"{site.cloud.resource_group}/providers/Microsoft.Compute/galleries/PodVMGallery_".lower()
    (made,) = (body for name, body in arm.resources.items() if gallery in name and "/versions/" in name)
    definition = made["id"].rpartition("/versions/")[0]
    mine = f"{definition}/versions/9.9.9"
    arm.put(mine, {"location": made["location"], "properties": made["properties"]})
    name = stored(site, "configmap", "peer-pods-cm")["metadata"]["annotations"]["IMAGE_GALLERY_NAME"]
    options = {
        "operator_install_renew_image": True,
        "operator_install_confirm": openshift.INFRASTRUCTURE_NAME,
        "operator_install_image_config": {"IMAGE_GALLERY_NAME": "Another"},
        "operator_install_azure_resource_group": "another",
    }
    renewal = RoleAlone(**vars(site), playbook=ROOT / "playbooks" / "upgrade.yml")
    arm.take_requests()
    output = succeed(renewal.run, "-e", json.dumps(options))
    assert "9.9.9, which no image job of this cluster made" in output
    image = made["id"].lower()
    assert {path.lower() for method, path in arm.take_requests() if method == "DELETE"} == {image}
    assert {each for each in arm.resources if gallery in each} == {
        each.lower() for each in (definition.rpartition("/images/")[0], definition, mine, image)
    }
    annotations = stored(site, "configmap", "peer-pods-cm")["metadata"]["annotations"]
    assert (annotations["IMAGE_GALLERY_NAME"], "osc.peerpods/image-gallery" in annotations) == (name, False)
    arm.delete(mine)
    role = {"name": "osc.peerpods.operator_install", "public": True}
    tasks = [
        {"osc.peerpods.operator_info": {}, "register": "operator_install_state"},
        {"osc.peerpods.cluster_info": {}, "register": "cluster_prerequisites_cluster"},
        {"ansible.builtin.include_role": {**role, "tasks_from": "read_gallery"}},
        {"ansible.builtin.include_role": {**role, "tasks_from": "teardown_images"}},
        {"ansible.builtin.debug": {"msg": "Keeps: {{ operator_install_keeps_gallery }}"}},
    ]
    playbook = tmp_path / "images.yml"
    playbook.write_text(json.dumps(local_play(tasks=tasks)))
    play = RoleAlone(**vars(site), playbook=playbook)
    assert "Keeps: False" in succeed(play.run, "-e", "operator_install_remove_images=true")
    assert not [each for each in arm.resources if gallery in each]
