"""The EXAMPLES of the modules, run unchanged on a cluster with the objects that they name.

Only values that differ on every system are replaced: ids of a cloud, and paths of files.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cluster import aws, openshift
from tests.cluster.clouds import site_variables
from tests.cluster.launcher import FAKE_NODE_ANNOTATION, Cluster
from tests.cluster.pki import CertificateAuthority
from tests.playbook_runs import run_playbook
from tests.support import JSON_OUTPUT, OPERATOR_NAMESPACE, ansible_environment

RESOURCE = "kata.peerpods.io/vm"
POOLS = ("general", "memory")


@dataclass
class Installation:
    """A cluster with the webhook and the agent, and its cloud."""

    cluster: Cluster
    moto: aws.Moto
    cloud: aws.CloudSide

    def play(self, directory: Path, play: dict) -> list[tuple[str, dict]]:
        """Run a play on localhost; each task's name and result."""
        path = directory / "play.yml"
        path.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, **play}]))
        environment = {**self.moto.environment, "K8S_AUTH_KUBECONFIG": str(self.cluster.kubeconfig)}
        completed = run_playbook(
            ["ansible-playbook", str(path)], ansible_environment({**JSON_OUTPUT, **environment}), directory
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return [
            (task["task"]["name"], task["hosts"]["localhost"])
            for task in json.loads(completed.stdout)["plays"][0]["tasks"]
        ]

    def ingress(self) -> list[dict]:
        response = self.moto.client("ec2").describe_security_group_rules(
            Filters=[{"Name": "group-id", "Values": [self.cloud.worker_group_id]}]
        )
        return response["SecurityGroupRules"]


@pytest.fixture(scope="module")
def installation(moto: aws.Moto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    cloud = aws.create_cloud_side(moto, workers=3)
    with Cluster(definitions=openshift.definitions()) as cluster:
        openshift.fill(cluster, cloud.workers, aws.REGION)
        openshift.start_stand_ins(cluster, "process")
        cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}},
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "kata-remote"},
                "handler": "kata-remote",
            },
            *(
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {
                        "name": f"{pool}-0",
                        "labels": {"example.com/pool": pool},
                        "annotations": FAKE_NODE_ANNOTATION,
                    },
                    # Without it, no pod of a DaemonSet fits on a node.
                    "status": {"allocatable": {"pods": "250"}, "capacity": {"pods": "250"}},
                }
                for pool in POOLS
            ),
            openshift.peer_pod_config("worker"),
        )
        installation = Installation(cluster, moto, cloud)
        roles = ["osc.peerpods.webhook", "osc.peerpods.node_capacity"]
        variables = {
            **site_variables("process"),
            "webhook_namespace": "peerpods-webhook",
            "webhook_manager": "collection",
            "node_capacity_manager": "collection",
            # The cluster has no operator, and so no cloud-api-adaptor: operators 1.7 and 1.8 would move it from pool to
            # pool.
            "node_capacity_require_ready_adaptor": False,
        }
        installation.play(tmp_path_factory.mktemp("roles"), {"vars": variables, "roles": roles})
        yield installation


@pytest.fixture
def run_examples(installation: Installation, tmp_path: Path) -> Callable[..., dict[str, dict]]:
    """Run a module's EXAMPLES in one play; each task's result by its name."""

    def run(module: str, replace: dict[str, str] | None = None) -> dict[str, dict]:
        examples = importlib.import_module(f"ansible_collections.osc.peerpods.plugins.modules.{module}").EXAMPLES
        for pattern, text in (replace or {}).items():
            examples, times = re.subn(pattern, text, examples)
            assert times, f"no example of {module} has {pattern} any more"
        tasks = yaml.safe_load(examples)
        results = dict(installation.play(tmp_path, {"tasks": tasks}))
        assert list(results) == [task["name"] for task in tasks], "each has a name of its own"
        return results

    return run


def test_peerpod_limit(installation: Installation, run_examples):
    results = run_examples("peerpod_limit")
    assert results["Read the limit and how many nodes advertise it"]["after"] == 0
    pools = results["Set the limits of two pools of nodes"]["results"]
    assert [(item["after"], item["advertised_nodes"]) for item in pools] == [(10, 1), (4, 1)]
    configs = {
        config["metadata"]["name"]: config["spec"]
        for config in installation.cluster.get("peerpodconfigs", "-n", OPERATOR_NAMESPACE)["items"]
    }
    assert configs.keys() == {"peerpodconfig-openshift", "peerpods-general"}
    assert configs["peerpodconfig-openshift"]["limit"] == "0"
    assert configs["peerpods-general"]["nodeSelector"] == {"example.com/pool": "general"}
    advertised = {
        node["metadata"]["name"]: node["status"].get("allocatable", {}).get(RESOURCE)
        for node in installation.cluster.get("nodes")["items"]
    }
    assert (advertised["general-0"], advertised["memory-0"]) == ("10", None)


def test_peerpod_info(installation: Installation, run_examples):
    results = run_examples("peerpod_info")
    peer_pods = results["Gather the room for peer pods"]
    assert "peerpodconfig-openshift" in {pool["name"] for pool in peer_pods["pools"]}
    totals = peer_pods["totals"]
    assert results["Show the number of running, possible and pending peer pods"]["msg"] == (
        f"{totals['used']} peer pods are on {totals['nodes']} nodes, "
        f"{totals['free']} more fit, {totals['unscheduled']} wait for room"
    )


def test_cluster_info(installation: Installation, run_examples):
    results = run_examples("cluster_info")
    instances = [worker.provider_id.rpartition("/")[2] for worker in installation.cloud.workers]
    message = results["Show the cluster and its instances"]["msg"]
    assert message.startswith(f"OpenShift {openshift.VERSION} on AWS {aws.REGION} with the instances ")
    assert all(instance in message for instance in instances)


def test_mutating_webhook(installation: Installation, run_examples, tmp_path: Path):
    certificate = CertificateAuthority("examples").pair.certificate.decode()
    (tmp_path / "ca.crt").write_text(certificate)
    # The Secret has the form of cert-manager's Secrets.
    installation.cluster.merge(
        "secret/peerpods-webhook-tls", {"stringData": {"ca.crt": certificate}}, "peerpods-webhook"
    )
    results = run_examples("mutating_webhook", {"/etc/pki/webhook/ca.crt": str(tmp_path / "ca.crt")})
    assert [result["verified"] for name, result in results.items() if "verify it" in name] == [True]


def test_mutating_policy(installation: Installation, run_examples):
    results = run_examples("mutating_policy")
    assert [result["verified"] for name, result in results.items() if "verify it" in name] == [True]


def test_security_group_ports(installation: Installation, run_examples):
    before = {rule["SecurityGroupRuleId"] for rule in installation.ingress()}
    results = run_examples(
        "security_group_ports",
        {
            "us-east-2": aws.REGION,
            "~/.kube/config": str(installation.cluster.kubeconfig),
            "sg-[0-9a-f]{17}": installation.cloud.worker_group_id,
            "i-[0-9a-f]{17}": installation.cloud.workers[0].provider_id.rpartition("/")[2],
        },
    )
    _gathered, opened, *_, removed = results.values()
    assert opened["changed"]
    assert [group["group_id"] for group in opened["groups"]] == [installation.cloud.worker_group_id]
    assert removed["changed"]
    assert {rule["SecurityGroupRuleId"] for rule in installation.ingress()} == before
