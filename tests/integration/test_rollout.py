"""The role peerpodconfig_rollout in waves, and the playbook that sets a limit, on both generations of the operator.

Three nodes are a pool each, with a limit of their own; the agent advertises, and an admission policy replaces the
webhook. Behaviour that does not depend on the object with the limits is tested on the first generation only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import openshift
from tests.cluster.launcher import Cluster
from tests.cluster.processes import wait_for
from tests.integration.agent import AGENT_NAMESPACE, start_agent
from tests.integration.site import NOTHING_CHANGED, RoleAlone, artifacts, bad_weather, failure_message, play_of
from tests.support import OPERATOR_NAMESPACE, ROOT

RESOURCE = "kata.peerpods.io/vm"
POOLS = ("canary", "general", "memory")

FIRST_GENERATION = pytest.mark.parametrize("generation", [1], indirect=True, ids=["PeerPodConfig"], scope="module")
SECOND_GENERATION = pytest.mark.parametrize("generation", [2], indirect=True, ids=["peerpods-limits"], scope="module")

# The node of the second pool keeps advertising 10 peer pods.
KEEPS_TEN = (
    "oldObject.metadata.name != 'general' || object.status.capacity[?'kata.peerpods.io/vm'].orValue('10') == '10'"
)


@dataclass
class Rollout(RoleAlone):
    def succeed(self, *arguments: str, **variables: object) -> str:
        completed = self.run(*arguments, "-e", json.dumps(variables))
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout

    def fail(self, **variables: object) -> str:
        return failure_message(self.run("-e", json.dumps(variables)))

    generation: int = 1

    def limits(self) -> dict[str, str]:
        if self.generation == 2:
            data = self.cluster.get("configmap", "peerpods-limits", "-n", AGENT_NAMESPACE)["data"]
            return {pool: str(json.loads(text)["limit"]) for pool, text in data.items()}
        configs = self.cluster.get("peerpodconfigs", "-n", OPERATOR_NAMESPACE)["items"]
        return {config["metadata"]["name"]: config["spec"]["limit"] for config in configs}

    def advertised(self) -> dict[str, str | None]:
        nodes = self.cluster.get("nodes", "-l", "pool")["items"]
        return {node["metadata"]["name"]: node["status"].get("allocatable", {}).get(RESOURCE) for node in nodes}

    def limits_written(self) -> list[str]:
        """The objects with limits that were written to, in this order."""
        return [
            request.partition("?")[0].rpartition("/")[2]
            for request in self.written()
            if request.startswith("patch ")
            and ("/peerpodconfigs/" in request or "/configmaps/peerpods-limits" in request)
        ]

    def stored_in(self, *pools: str) -> list[str]:
        """The names of the objects with the limits of `pools`."""
        return list(pools) if self.generation == 1 else ["peerpods-limits"] * len(pools)


def limit_of_all_pools(value: str) -> dict[str, str]:
    return dict.fromkeys(POOLS, value)


@pytest.fixture(scope="module", params=[1, 2], ids=["PeerPodConfig", "peerpods-limits"])
def generation(request: pytest.FixtureRequest) -> int:
    """The operator's generation, which decides where limits are stored."""
    return request.param


@pytest.fixture(scope="module")
def cluster(generation: int) -> Iterator[Cluster]:
    with Cluster(definitions=openshift.definitions(peer_pod_configs=generation == 1)) as running:
        openshift.fill(running, openshift.imagined_workers(1), openshift.IMAGINED_REGION["aws"])
        for namespace in (OPERATOR_NAMESPACE, AGENT_NAMESPACE):
            running.kubectl("create", "namespace", namespace)
        running.apply(
            *(
                {"apiVersion": "v1", "kind": "Node", "metadata": {"name": pool, "labels": {"pool": pool, "kata": ""}}}
                for pool in POOLS
            ),
            *(second_generation() if generation == 2 else ()),
            *limits(generation),
        )
        # No node in this test has a cloud-api-adaptor, so none can be ready.
        start_agent(running, REQUIRE_READY_ADAPTOR="false")
        yield running


def second_generation() -> list[dict]:
    """The objects of an operator of the second generation and of the agent's role, without running programs."""

    def template(labels: dict[str, str], **spec: object) -> dict:
        containers = [{"name": "main", "image": "none"}]
        return {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers, **spec}},
        }

    adaptor, agent = {"name": "osc-caa-ds"}, {"app.kubernetes.io/name": "peerpods-node-capacity"}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "peer-pods-cm", "namespace": OPERATOR_NAMESPACE},
            "data": {},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "osc-caa-ds", "namespace": OPERATOR_NAMESPACE},
            "spec": template(adaptor, nodeSelector={"kata": ""}),
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "peerpods-node-capacity", "namespace": AGENT_NAMESPACE},
            "spec": {"replicas": 0, **template(agent)},
        },
    ]


def limits(generation: int) -> list[dict]:
    """The objects with a limit of 10 on every pool."""
    if generation == 1:
        return [config(pool) for pool in POOLS]
    data = {pool: json.dumps({"limit": 10, "nodeSelector": {"pool": pool}}) for pool in POOLS}
    metadata = {
        "name": "peerpods-limits",
        "namespace": AGENT_NAMESPACE,
        "labels": {"app.kubernetes.io/part-of": "osc.peerpods"},
    }
    return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}]


def config(pool: str) -> dict:
    default_config = openshift.peer_pod_config()
    default_config["metadata"]["name"] = pool
    default_config["spec"]["nodeSelector"] = {"pool": pool}
    return default_config


@pytest.fixture
def counted(cluster: Cluster, run_module: Callable[..., dict]) -> Iterator[None]:
    """A RuntimeClass for peer pods, which are counted."""
    with runtime_class(cluster):
        mutation = {"kubeconfig": str(cluster.kubeconfig)}
        run = run_module("mutating_policy", {**mutation, "verify": True})
        assert run["verified"], run
        yield
        run_module("mutating_policy", {**mutation, "state": "absent"})

        def is_mutated() -> bool:
            return run_module("mutation_info", {**mutation, "namespace": "default"})["state"] == "mutated"

        # The API server uses a policy for a while after it was deleted.
        wait_for("the end of the mutation", lambda: not is_mutated(), seconds=30)


@contextmanager
def runtime_class(cluster: Cluster) -> Iterator[None]:
    name = {"metadata": {"name": "kata-remote"}, "handler": "kata-remote"}
    cluster.apply({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", **name})
    try:
        yield
    finally:
        cluster.delete("runtimeclass", "kata-remote")


@contextmanager
def second_node_refuses(cluster: Cluster) -> Iterator[None]:
    name = {"name": "keeps-ten"}
    admission = "admissionregistration.k8s.io/v1"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["nodes/status"]}
    cluster.apply(
        {
            "apiVersion": admission,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": name,
            "spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": KEEPS_TEN}]},
        },
        {
            "apiVersion": admission,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": name,
            "spec": {"policyName": "keeps-ten", "validationActions": ["Deny"]},
        },
    )

    def refuses() -> bool:
        status = json.dumps({"status": {"capacity": {RESOURCE: "9"}}})
        try:
            cluster.kubectl(
                "patch", "node", "general", "--subresource=status", "--type=merge", "--dry-run=server", "-p", status
            )
        except RuntimeError:
            return True
        return False

    wait_for("the policy", refuses, seconds=30)
    try:
        yield
    finally:
        cluster.delete("validatingadmissionpolicybinding,validatingadmissionpolicy", "keeps-ten")


@pytest.fixture
def rollout(cluster: Cluster, generation: int, tmp_path: Path) -> Rollout:
    """A roll-out on a cluster with a limit of 10 on every pool."""
    cluster.apply(*limits(generation))
    playbook = play_of("peerpodconfig_rollout", tmp_path)
    # The test has no cloud.
    variables = {"peerpodconfig_rollout_cloud_capacity": False, "peerpodconfig_rollout_timeout": 20}
    role = Rollout(cluster, None, {}, list, variables, playbook, generation)
    wait_for("the agent", lambda: role.advertised() == limit_of_all_pools("10"), seconds=30)
    return role


def waves(*limits: int) -> list[dict]:
    return [{"name": pool, "limit": limit} for pool, limit in zip(POOLS, limits, strict=True)]


@pytest.mark.usefixtures("counted")
class TestWaves:
    @FIRST_GENERATION
    def test_waves_are_rolled_out_one_after_another(self, rollout: Rollout):
        with rollout.unchanged():
            planned = rollout.succeed("--check", "--diff", peerpodconfig_rollout_waves=waves(4, 5, 6))
        assert "changed=3" in planned
        before = len(rollout.limits_written())
        output = rollout.succeed(peerpodconfig_rollout_waves=waves(4, 5, 6))
        assert output.count("Peer pods are counted: the API server added kata.peerpods.io/vm") == 1 + len(POOLS)
        assert rollout.limits_written()[before:] == rollout.stored_in(*POOLS)
        assert rollout.advertised() == {"canary": "4", "general": "5", "memory": "6"}
        assert NOTHING_CHANGED.search(rollout.succeed(peerpodconfig_rollout_waves=waves(4, 5, 6)))

    @SECOND_GENERATION
    def test_a_dry_run_uses_the_decision_of_the_agents_role(self, rollout: Rollout):
        """In a dry run, the agent's role has not really removed the agent."""
        output = rollout.succeed(
            "--check",
            "--diff",
            node_capacity_decided_manager="operator",
            peerpodconfig_rollout_limit=6,
        )
        assert '+        "PEERPODS_LIMIT_PER_NODE": ' in output, output

    def test_a_node_that_does_not_adopt_the_limit_fails_its_wave(self, rollout: Rollout):
        with second_node_refuses(rollout.cluster):
            message = rollout.fail(peerpodconfig_rollout_waves=waves(4, 5, 6), peerpodconfig_rollout_timeout=8)
            assert "Wave 2 of 3 (general) failed: After 8 s the limit of 5 is not in force" in message
            assert "general advertises 10. " in message
            # In the second generation, cloud-api-adaptor can be the reason: it has no ready pod.
            advice = (
                "Check that the program that adv",
                "cloud-api-adaptor pod is not Ready on gen",
            )
            assert advice[rollout.generation - 1] in message
            assert "Rolled back: general to 10, canary to 10." in message
            assert "Not started: memory." in message
            assert rollout.limits() == limit_of_all_pools("10")
            assert rollout.advertised() == limit_of_all_pools("10")
        assert rollout.limits_written()[-4:] == rollout.stored_in("canary", "general", "general", "canary")

    @FIRST_GENERATION
    def test_a_pool_that_does_not_exist_is_rejected(self, rollout: Rollout):
        """The error is found before the first wave changes anything."""
        waves = [{"name": "canary", "limit": 4}, {"name": "nobodys", "limit": 4}]
        with rollout.unchanged():
            message = rollout.fail(peerpodconfig_rollout_waves=waves)
        assert "nobodys does not exist" in message

    @FIRST_GENERATION
    def test_a_pool_that_is_named_twice_is_rejected(self, rollout: Rollout):
        with rollout.unchanged():
            message = rollout.fail(peerpodconfig_rollout_waves=2 * [{"name": "canary", "limit": 4}])
        assert "names a pool twice (canary, canary). Remove one" in message


@FIRST_GENERATION
class TestCanary:
    def test_peer_pods_are_not_counted(self, rollout: Rollout):
        """Nothing is changed, neither in waves nor without."""
        single_limit = {"peerpodconfig_rollout_name": "memory", "peerpodconfig_rollout_limit": 8}
        with runtime_class(rollout.cluster), rollout.unchanged():
            for variables in ({"peerpodconfig_rollout_waves": waves(4, 5, 6)}, single_limit):
                message = rollout.fail(**variables)
                assert (
                    "Peer pods are not counted: in a dry run in namespace default, the pod was returned without"
                    in message
                )
                assert "Run the role webhook" in message

    def test_without_a_canary_the_limit_is_set_for_all_waves_that_have_no_limit(self, rollout: Rollout):
        waves = [{"name": "canary"}, {"name": "memory", "limit": 3}]
        with runtime_class(rollout.cluster):
            rollout.succeed(
                peerpodconfig_rollout_waves=waves,
                peerpodconfig_rollout_limit=7,
                # With -e name=value, the value is a string.
                peerpodconfig_rollout_canary="false",
            )
        assert rollout.limits() == {"canary": "7", "general": "10", "memory": "3"}

    @pytest.mark.usefixtures("counted")
    def test_a_namespace_rejects_the_pod(self, rollout: Rollout):
        """A quota of the site closes the namespace default: another one proves that peer pods are counted."""
        metadata = {"name": "no-pods", "namespace": "default"}
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {"pods": "0"}}}
        rollout.cluster.apply(quota)

        def is_in_force() -> bool:
            return "hard" in rollout.cluster.get("resourcequota", "no-pods", "-n", "default").get("status", {})

        wait_for("the quota", is_in_force, seconds=30)
        memory = {"peerpodconfig_rollout_name": "memory", "peerpodconfig_rollout_limit": 9}
        try:
            with rollout.unchanged():
                message = rollout.fail(**memory, peerpodconfig_rollout_canary_namespace="default")
            assert "exceeded quota: no-pods" in message
            assert (
                "Set peerpodconfig_rollout_canary_namespace to a namespace that admits peer pods, or do not" in message
            )
            assert "Peer pods are counted" in rollout.succeed(**memory)
        finally:
            rollout.cluster.delete("resourcequota", "no-pods", "-n", "default")
        assert rollout.limits()["memory"] == "9"


class TestPlaybook:
    @pytest.fixture
    def limit(self, rollout: Rollout) -> Rollout:
        rollout.playbook = ROOT / "playbooks" / "limit.yml"
        return rollout

    def test_without_a_limit_the_role_reads_it_without_permission_to_write(self, limit: Rollout):
        limit.cluster.kubectl("create", "clusterrole", "reads", "--verb=get,list", "--resource=*.*")
        limit.cluster.kubectl("create", "clusterrolebinding", "reads", "--clusterrole=reads", "--user=reads")
        limit.kubeconfig = limit.cluster.user_kubeconfig("reads")
        with limit.unchanged():
            # AWX passes an empty limit for a question without an answer.
            completed = limit.run("-e", "peerpodconfig_rollout_name=memory peerpodconfig_rollout_limit=")
        limit.cluster.delete("clusterrole,clusterrolebinding", "reads")
        assert completed.returncode == 0, completed.stdout + completed.stderr
        (stored,) = limit.stored_in("memory")
        assert f"10 in {'ConfigMap' if limit.generation == 2 else 'PeerPodConfig'} {stored}" in completed.stdout
        assert "1 of 1 nodes advertise it" in completed.stdout
        assert artifacts(completed.stdout) == {
            "peerpods_limit": {
                "limits": {"memory": 10},
                "nodes": 1,
                "slots": 10,
            }
        }

    @FIRST_GENERATION
    def test_each_wave_needs_a_limit(self, limit: Rollout):
        with limit.unchanged():
            message = limit.fail(peerpodconfig_rollout_waves=[{"name": "canary"}])
        assert "A wave has no limit: set peerpodconfig_rollout_limit" in message

    @FIRST_GENERATION
    def test_the_playbook_reports_the_cluster_and_sets_the_limits(self, limit: Rollout):
        waves = [{"name": "canary", "limit": 2}, {"name": "general", "limit": 10}]
        with bad_weather(limit) as troubled:
            completed = troubled.run("-e", json.dumps({"peerpodconfig_rollout_waves": waves}))
        assert f"{openshift.INFRASTRUCTURE_NAME}: OpenShift {openshift.VERSION} on AWS" in completed.stdout
        assert limit.advertised() == {**limit_of_all_pools("10"), "canary": "2"}
        assert artifacts(completed.stdout) == {
            "peerpods_limit": {
                "limits": {"canary": 2, "general": 10},
                "nodes": 2,
                "slots": 12,
            }
        }
