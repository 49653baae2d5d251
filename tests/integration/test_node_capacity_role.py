"""The role node_capacity by itself: which controller advertises, what the role deploys, and its permissions.

The tests depend on their order: another controller advertises in a cluster without the operator, then the operator of
the first generation, then an operator of the second generation, with the agent. If podman is usable, the agent runs in
containers; as processes on one machine, two replicas would use the same port. test_site.py has dry runs.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cluster import openshift
from tests.cluster.api import Api
from tests.cluster.clouds import site_variables
from tests.cluster.images import base_image, why_no_podman
from tests.cluster.launcher import Cluster
from tests.cluster.processes import free_ports, wait_for
from tests.integration.containers import (
    assert_probed_and_spread,
    listed_and_pinned,
    openshift_builds,
    readme_settings,
)
from tests.integration.site import NOTHING_CHANGED, RoleAlone, failure_message, play_of
from tests.support import OPERATOR_NAMESPACE, ROOT

NAME = "peerpods-node-capacity"
# Only installations get it. Later runs find the agent in it.
NAMESPACE = "infra"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{NAME}"
RESOURCE = "kata.peerpods.io/vm"
ROLE = ROOT / "roles/node_capacity"

# The name of an image that podman has built.
REPOSITORY = "localhost/osc-peerpods"

SERVICE_MONITOR = "servicemonitors.monitoring.coreos.com"
PROMETHEUS_RULE = "prometheusrules.monitoring.coreos.com"
GRAFANA_DASHBOARD = "grafanadashboards.grafana.integreatly.org"

# The permissions of the agent, as (namespace or None, API group, resource, name or None, verb).
PERMISSIONS = {
    *((None, "", "nodes", None, verb) for verb in ("get", "list", "watch")),
    (None, "", "nodes/status", None, "patch"),
    *((None, "", "pods", None, verb) for verb in ("list", "watch")),
    *((OPERATOR_NAMESPACE, "confidentialcontainers.org", "peerpodconfigs", None, verb) for verb in ("list", "watch")),
    (OPERATOR_NAMESPACE, "confidentialcontainers.org", "peerpodconfigs/status", None, "patch"),
    (OPERATOR_NAMESPACE, "", "events", None, "create"),
    *((OPERATOR_NAMESPACE, "", "configmaps", "peer-pods-cm", verb) for verb in ("list", "watch")),
    *((OPERATOR_NAMESPACE, "apps", "daemonsets", None, verb) for verb in ("list", "watch")),
    (NAMESPACE, "coordination.k8s.io", "leases", None, "create"),
    *((NAMESPACE, "coordination.k8s.io", "leases", NAME, verb) for verb in ("list", "watch", "patch")),
    *(
        (NAMESPACE, "", "configmaps", name, verb)
        for name in ("peerpods-cloud-capacity", "peerpods-limits")
        for verb in ("list", "watch")
    ),
}
# The agent may read pods of every namespace only if it counts all peer pods; otherwise those of cloud-api-adaptor.
COUNTING = {permission for permission in PERMISSIONS if permission[:3] == (None, "", "pods")}
ADAPTORS_PODS = {(OPERATOR_NAMESPACE, "", "pods", None, verb) for verb in ("list", "watch")}


def adaptor(role: str) -> list[dict]:
    """The DaemonSet and settings of an operator of the second generation, for the nodes of `role`."""
    label = {"name": "osc-caa-ds"}
    metadata = {"namespace": OPERATOR_NAMESPACE}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**metadata, "name": "peer-pods-cm"},
            "data": {"PEERPODS_LIMIT_PER_NODE": "10"},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {**metadata, "name": "osc-caa-ds"},
            "spec": {
                "selector": {"matchLabels": label},
                "template": {
                    "metadata": {"labels": label},
                    "spec": {
                        "nodeSelector": {f"node-role.kubernetes.io/{role}": ""},
                        # A release that does not advertise by itself.
                        "containers": [{"name": "caa-pod", "image": "caa:1.8.1"}],
                    },
                },
            },
        },
    ]


def limits(**pools: dict) -> dict:
    """The ConfigMap of the limits that the agent enforces."""
    metadata = {
        "name": "peerpods-limits",
        "namespace": NAMESPACE,
        "labels": {"app.kubernetes.io/part-of": "osc.peerpods"},
    }
    data = {pool: json.dumps(limit) for pool, limit in pools.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


# Options of the first installation, which later runs leave out.
KEPT = {"node_capacity_lease_duration": 20, "node_capacity_monitoring_namespaces": ["prometheus"]}

MEMORY = {"limit": 3, "nodeSelector": {"pool": "memory"}}


@dataclass
class Role(RoleAlone):
    """The role, which deploys the agent in one namespace."""

    def succeed(self, *arguments: str, **variables: object) -> str:
        """Run the role with `variables` and those of this machine; returns its output."""
        completed = self.run("-e", json.dumps(variables), *arguments)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout

    def get(self, *names: str) -> dict:
        return self.cluster.get(*names, "-n", NAMESPACE)

    def names(self, kind: str, namespace: str = NAMESPACE) -> list[str]:
        return [item["metadata"]["name"] for item in self.cluster.get(kind, "-n", namespace)["items"]]

    def pods(self) -> list[dict]:
        return self.get("pods", "-l", f"app.kubernetes.io/name={NAME}")["items"]

    def advertised(self) -> dict[str, str | None]:
        return {
            node["metadata"]["name"]: node["status"].get("allocatable", {}).get(RESOURCE)
            for node in self.cluster.get("nodes", "-l", "node-role.kubernetes.io/worker")["items"]
        }

    def write(self, node: str, slots: str | None, manager: str) -> None:
        """Set the `slots` that `node` advertises, as field manager `manager`."""
        self.cluster.merge(
            f"node/{node}", {"status": {"capacity": {RESOURCE: slots}}}, subresource="status", manager=manager
        )


@pytest.fixture(scope="module")
def role(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Role]:
    playbook = play_of("node_capacity", tmp_path_factory.mktemp("role"))
    runtime = "process" if why_no_podman() else "podman"
    variables = {**site_variables(runtime), "node_capacity_timeout": 60}
    with Cluster(definitions=openshift.definitions()) as cluster:
        openshift.fill(cluster, openshift.imagined_workers(2), openshift.IMAGINED_REGION["aws"])
        for name in (OPERATOR_NAMESPACE, "openshift-config-managed"):
            cluster.kubectl("create", "namespace", name)
        openshift.monitoring(cluster)
        openshift.custom_resource(cluster, "grafana.integreatly.org", "GrafanaDashboard", version="v1beta1")
        openshift.start_stand_ins(cluster, runtime)
        yield Role(cluster, None, {}, list, variables, playbook)


@pytest.fixture(scope="module")
def workers(role: Role) -> list[str]:
    return sorted(role.advertised())


class TestWithoutTheAgent:
    def test_without_the_operator_another_controller_keeps_advertising(self, role: Role, workers: list[str]):
        role.write(workers[0], "10", "adaptor-of-upstream")
        role.write(workers[1], "10", "kubectl-patch")
        try:
            with role.unchanged():
                output = role.succeed()
        finally:
            for worker in workers:
                role.write(worker, None, "adaptor-of-upstream")
        assert f"{RESOURCE} is advertised by adaptor-of-upstream on {workers[0]} (" in output
        assert "the agent does not run." in output
        assert "node_capacity_manager=collection" in output
        assert NOTHING_CHANGED.search(output)

    def test_an_operator_with_peerpodconfigs_advertises_by_itself(self, role: Role):
        """The role detects this even before its controller has written to a node, so that every run has this result.

        The choice of an earlier run, which the option replaces, is removed.
        """
        config = openshift.peer_pod_config("worker")
        choice = {
            "name": "osc-peerpods-node-capacity",
            "namespace": OPERATOR_NAMESPACE,
            "labels": {"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": "osc.peerpods"},
            "annotations": {"osc.peerpods.io/options": json.dumps({"manager": "operator"})},
        }
        # An object with the name of the agent's, of another owner, is not the agent.
        cluster_role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "osc-peerpods-node-capacity"},
        }
        role.cluster.apply(config, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": choice}, cluster_role)
        logged = role.cluster.audit_log.stat().st_size
        output = role.succeed(node_capacity_manager="auto")
        (written,) = role.written(since=logged)
        assert re.match(f"delete /api/v1/namespaces/{OPERATOR_NAMESPACE}/configmaps/{choice['name']}", written)
        role.cluster.delete("peerpodconfig", config["metadata"]["name"], "-n", OPERATOR_NAMESPACE)
        role.cluster.delete("clusterrole", cluster_role["metadata"]["name"])
        assert f"Operator of this cluster advertises {RESOURCE} itself" in output
        assert "the agent does not run." in output

    def test_the_agent_needs_an_image(self, role: Role, workers: list[str]):
        """A cloud-api-adaptor that ended has left its annotation behind, and does not advertise."""
        role.cluster.annotate("node", *workers, "kata.peerpods.io/caa-owner=uid-of-another-pod")
        with role.unchanged():
            message = failure_message(role.run("-e", "node_capacity_image="))
        role.cluster.annotate("node", *workers, "kata.peerpods.io/caa-owner-")
        assert "node_capacity_image is not set" in message
        assert "node_capacity_image_source=build" in message


@pytest.fixture(scope="module")
def first_output(role: Role, workers: list[str]) -> str:
    """The output of the first installation; the slots of one node had been set by hand."""
    role.cluster.apply(*adaptor("worker"))
    role.write(workers[0], "7", "kubectl-patch")
    # A kubelet resets unknown resources like this when it starts.
    role.write(workers[1], "0", "kubelet")
    return role.succeed(node_capacity_namespace=NAMESPACE, **KEPT)


class TestOurAgent:
    def test_the_agent_adopts_a_node_that_was_set_by_hand(self, role: Role, workers: list[str], first_output: str):
        assert f"was advertised by hand (kubectl-patch on {workers[0]})" in first_output
        wait_for("the limit", lambda: set(role.advertised().values()) == {"10"}, seconds=30)

    @pytest.mark.usefixtures("first_output")
    def test_one_of_two_replicas_is_the_leader(self, role: Role):
        if reason := why_no_podman():
            pytest.skip(reason)
        assert role.get(f"deployment/{NAME}")["status"]["readyReplicas"] == 2
        port = role.variables.get("node_capacity_health_port", 8081)

        def leaders() -> list[float]:
            values = []
            for pod in role.pods():
                url = f"http://{pod['status']['podIP']}:{port}/metrics"
                try:
                    with urllib.request.urlopen(url, timeout=30) as answer:
                        metrics = answer.read().decode()
                except OSError:
                    return []
                values.append(float(re.search(r"^\w+_leader (.*)$", metrics, re.MULTILINE)[1]))
            return sorted(values)

        wait_for("a leader", lambda: leaders() == [0, 1], seconds=30)
        holder = role.get(f"lease/{NAME}")["spec"]["holderIdentity"]
        assert any(pod["metadata"]["name"] in holder for pod in role.pods())

    @pytest.mark.usefixtures("first_output")
    def test_the_agent_has_the_permissions_that_it_uses_and_no_other(self, role: Role):
        """The API server reports exactly the documented permissions, and the agent uses all of them."""
        assert granted(role) == PERMISSIONS
        # The changes make the agent write an Event, and read a node that no pool selects any more.
        role.cluster.apply(
            *(
                {**config, "metadata": {**config["metadata"], "name": name}}
                for name in ("one", "overlapping")
                for config in [openshift.peer_pod_config("worker", limit="9")]
            )
        )
        node = min(role.advertised())
        wait_for("the limit", lambda: role.advertised()[node] == "9", seconds=30)
        role.cluster.label("node", node, "node-role.kubernetes.io/worker-")
        expected = {(group, resource, verb) for _, group, resource, _, verb in PERMISSIONS}
        try:
            wait_for("every right to be used", lambda: permissions_used(role)[0] == expected, seconds=30)
        finally:
            role.cluster.label("node", node, "node-role.kubernetes.io/worker=")
            role.cluster.delete("peerpodconfig", "one", "overlapping", "-n", OPERATOR_NAMESPACE)
            used, refused = permissions_used(role)
            assert used == expected
            assert refused == []

    @pytest.mark.usefixtures("first_output")
    def test_the_pods_follow_good_practice(self, role: Role):
        namespace = role.cluster.get("namespace", NAMESPACE)
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        pod = role.pods()[0]
        (container,) = pod["spec"]["containers"]
        # The priority admission sets this if the class exists.
        assert pod["spec"]["priority"] == 2_000_000_000
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert all(mount["readOnly"] for mount in container["volumeMounts"])
        # The settings of the role in addition to those of the template: at most one of two pods is unavailable, without
        # a surge.
        strategy = role.get(f"deployment/{NAME}")["spec"]["strategy"]["rollingUpdate"]
        assert strategy == {"maxUnavailable": 1, "maxSurge": 0}
        assert_probed_and_spread(pod)

    @pytest.mark.usefixtures("first_output")
    def test_the_network_policy_admits_prometheus_and_allows_only_api_servers(self, role: Role):
        spec = role.get(f"networkpolicy/{NAME}")["spec"]
        assert sorted(spec["policyTypes"]) == ["Egress", "Ingress"]
        (metrics,) = spec["ingress"]
        assert [port["port"] for port in metrics["ports"]] == ["health"]
        (namespaces,) = metrics["from"]
        assert namespaces["namespaceSelector"]["matchExpressions"][0]["operator"] == "In"
        (api_servers,) = spec["egress"]
        assert [(port["protocol"], port["port"]) for port in api_servers["ports"]] == [
            ("TCP", 443),
            ("TCP", 6443),
        ]
        assert spec["podSelector"]["matchLabels"].items() <= role.pods()[0]["metadata"]["labels"].items()

    @pytest.mark.usefixtures("first_output")
    def test_a_node_with_a_replica_can_be_drained(self, role: Role):
        name = role.pods()[0]["metadata"]["name"]
        wait_for(
            "the disruption controller's count",
            lambda: role.get(f"pdb/{NAME}").get("status", {}).get("disruptionsAllowed"),
            seconds=30,
        )
        Api(str(role.cluster.kubeconfig)).request(
            "POST",
            f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction",
            {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": name},
                "deleteOptions": {"dryRun": ["All"]},
            },
        )

    @pytest.mark.usefixtures("first_output")
    def test_prometheus_finds_the_metrics(self, role: Role):
        spec = role.get(f"{SERVICE_MONITOR}/{NAME}")["spec"]
        service = role.get(f"service/{NAME}")
        labels = spec["selector"]["matchLabels"]
        assert labels.items() <= service["metadata"]["labels"].items()
        (endpoint,) = spec["endpoints"]
        ports = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
        assert ports[endpoint["port"]] == "health"

    @pytest.mark.usefixtures("first_output")
    def test_prometheus_and_grafana_have_the_content_of_the_files(self, role: Role):
        """The files are unchanged: they are templates of Prometheus and Grafana, not of Ansible."""
        alerts = yaml.safe_load((ROLE / "files/alerts.yaml").read_text())
        assert role.get(f"{PROMETHEUS_RULE}/{NAME}")["spec"] == alerts
        dashboard = role.get(f"{GRAFANA_DASHBOARD}/{NAME}")["spec"]
        assert dashboard["json"] == (ROLE / "files/dashboard.json").read_text().rstrip()
        assert dashboard["instanceSelector"]["matchLabels"] == {"dashboards": "grafana"}
        # It is created only on request.
        assert NAME not in role.names("configmaps", "openshift-config-managed")

    @pytest.mark.usefixtures("first_output")
    def test_the_settings_of_the_pods_are_those_of_the_agent(self, role: Role):
        (container,) = role.pods()[0]["spec"]["containers"]
        passed = {variable["name"] for variable in container["env"]}
        # In a cluster, it logs in by its service account.
        assert passed == readme_settings("node_capacity") - {"KUBECONFIG"}

    @pytest.mark.usefixtures("first_output")
    def test_a_second_run_changes_nothing_where_nodes_already_advertise(self, role: Role, workers: list[str]):
        """cloud-api-adaptor sets its annotation at its first start."""
        role.cluster.annotate("node", workers[0], "kata.peerpods.io/caa-owner=a-pod")
        role.write(workers[0], "10", "cloud-api-adaptor")
        assert NOTHING_CHANGED.search(role.succeed())
        spec = role.get(f"deployment/{NAME}")["spec"]["template"]["spec"]
        assert {"name": "LEASE_DURATION_SECONDS", "value": "20"} in spec["containers"][0]["env"]
        assert role.pods()
        with role.unchanged():
            message = failure_message(role.run("-e", "node_capacity_namespace=other"))
        assert f"The namespace of {NAME} is set to other, but this collection has deployed it in infra." in message
        wait_for(
            "the agent to have settled",
            lambda: set(role.advertised().values()) == {"10"},
            seconds=30,
        )

    @pytest.mark.usefixtures("first_output")
    def test_objects_that_are_switched_off_are_removed(self, role: Role):
        """An edited copy without the labels of the role is not replaced, and stays.

        In the same run, a label that was removed from the namespace of the role is restored.
        """
        enforced = "pod-security.kubernetes.io/enforce"
        role.cluster.label(PROMETHEUS_RULE, NAME, "-n", NAMESPACE, "app.kubernetes.io/part-of-")
        with role.unchanged():
            message = failure_message(role.run())
        assert f"PrometheusRule {NAME} in {NAMESPACE} (written by osc.peerpods" in message
        assert "set node_capacity_service_monitor, node_capacity_alerts, node_capacity_dashboard" in message
        role.cluster.label("namespace", NAMESPACE, f"{enforced}-")
        role.succeed(
            node_capacity_count_peer_pods=False,
            node_capacity_alerts=False,
            node_capacity_dashboard=False,
            node_capacity_console_dashboard=True,
            # If the agents run as processes, the old process may still use its port.
            node_capacity_health_port=free_ports(1)[0],
        )
        labels = role.cluster.get("namespace", NAMESPACE)["metadata"]["labels"]
        assert labels[enforced] == "restricted"
        assert granted(role) == PERMISSIONS - COUNTING | ADAPTORS_PODS
        assert role.names(PROMETHEUS_RULE) == [NAME]
        role.cluster.delete(PROMETHEUS_RULE, NAME, "-n", NAMESPACE)
        assert role.names(GRAFANA_DASHBOARD) == []
        assert role.names(SERVICE_MONITOR) == [NAME]
        config_map = role.cluster.get("configmap", NAME, "-n", "openshift-config-managed")
        assert config_map["metadata"]["labels"]["console.openshift.io/dashboard"] == "true"
        assert json.loads(config_map["data"][f"{NAME}.json"])["panels"]


@pytest.mark.usefixtures("first_output")
class TestAfterTheAgent:
    def test_the_agent_stays_while_pools_need_it(self, role: Role):
        role.cluster.apply(limits(default={"limit": 7}, memory=MEMORY))
        with role.unchanged():
            message = failure_message(role.run("-e", "node_capacity_manager=operator"))
        assert "The pools memory have limits of their own, which only the agent can enforce" in message

    def test_the_agent_stays_if_its_limit_is_invalid(self, role: Role):
        role.cluster.apply({**limits(), "data": {"default": "seven"}})
        with role.unchanged():
            message = failure_message(role.run("-e", "node_capacity_manager=operator"))
        assert f"default of ConfigMap {NAMESPACE}/peerpods-limits is not valid" in message

    def test_the_agent_is_removed_in_favour_of_the_operator(self, role: Role):
        """The agent's limit is written to the settings of the operator."""
        role.cluster.apply(limits(default={"limit": 7}))
        wait_for("the limit", lambda: set(role.advertised().values()) == {"7"}, seconds=30)
        planned = role.succeed("--check", "--diff", node_capacity_manager="operator")
        assert '"PEERPODS_LIMIT_PER_NODE": "7"' in planned
        output = role.succeed(node_capacity_manager="operator")
        settings = role.cluster.get("configmap", "peer-pods-cm", "-n", OPERATOR_NAMESPACE)
        assert settings["data"] == {"PEERPODS_LIMIT_PER_NODE": "7"}
        assert "data" not in role.get("configmap/peerpods-limits")
        assert "node_capacity_manager is operator: the agent does not run" in output
        assert f"and was removed from {NAMESPACE}; nodes keep what they advertise" in output
        assert set(role.advertised().values()) == {"7"}
        # A later run without the option keeps the choice.
        assert "node_capacity_manager is operator: the agent does not run." in role.succeed()
        assert role.pods() == []
        remaining = {
            kind: object_names
            for kind in (
                "deployments",
                "services",
                "networkpolicies",
                "pdb",
                "serviceaccounts",
                "roles",
                "rolebindings",
                "leases",
                SERVICE_MONITOR,
                PROMETHEUS_RULE,
                GRAFANA_DASHBOARD,
            )
            if (object_names := role.names(kind)) != []
        }
        assert remaining == {"serviceaccounts": ["default"]}
        assert NAME not in role.names("configmaps", "openshift-config-managed")
        assert granted(role) == set()

    def test_manager_collection_deploys_the_agent_from_an_image_built_in_the_cluster(self, role: Role):
        """The build does not replace a BuildConfig of another owner."""
        if reason := why_no_podman():
            pytest.skip(reason)
        options = {
            "node_capacity_namespace": NAMESPACE,
            "node_capacity_manager": "collection",
            "node_capacity_image_source": "build",
            "node_capacity_image": "",
            "node_capacity_base_image": base_image(),
            "node_capacity_build_timeout": 300,
        }
        build_config = {
            "apiVersion": "build.openshift.io/v1",
            "kind": "BuildConfig",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {"triggers": []},
        }
        with openshift_builds(role.cluster, REPOSITORY):
            role.cluster.apply(build_config)
            with role.unchanged():
                message = failure_message(role.run("-e", json.dumps(options)))
            assert f"BuildConfig {NAME} in {NAMESPACE} (written by kubectl" in message
            role.cluster.delete("buildconfig", NAME, "-n", NAMESPACE)
            role.succeed(**options)
        deployment = role.get(f"deployment/{NAME}")
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert container["image"].startswith(f"{REPOSITORY}/{NAME}@sha256:")
        assert deployment["status"]["readyReplicas"] == 2


def granted(role: Role) -> set[tuple]:
    """The permissions of the agent's service account that other accounts do not have, in the form of PERMISSIONS."""
    permissions = set()
    cluster_wide = rules(role, "default", ACCOUNT)
    for namespace in (NAMESPACE, OPERATOR_NAMESPACE):
        namespaced = rules(role, namespace, ACCOUNT)
        permissions |= {(namespace, *permission) for permission in namespaced - cluster_wide}
    return permissions | {(None, *permission) for permission in cluster_wide}


def rules(role: Role, namespace: str, account: str) -> set[tuple]:
    """The permissions of `account` in `namespace`, without those of every service account."""

    def rules_of(user: str) -> set[tuple]:
        review = json.loads(
            role.cluster.kubectl(
                "create",
                "--validate=false",
                "-f",
                "-",
                "-o",
                "json",
                f"--as={user}",
                "--as-group=system:serviceaccounts",
                "--as-group=system:authenticated",
                input=json.dumps(
                    {
                        "apiVersion": "authorization.k8s.io/v1",
                        "kind": "SelfSubjectRulesReview",
                        "spec": {"namespace": namespace},
                    }
                ),
            )
        )
        return {
            (group, resource, name, verb)
            for rule in review["status"]["resourceRules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for name in rule.get("resourceNames", [None])
            for verb in rule["verbs"]
        }

    return rules_of(account) - rules_of("system:serviceaccount:default:default")


def permissions_used(role: Role) -> tuple[set[tuple], list[str]]:
    """The requests of the agent, as (group, resource, verb); and the rejected requests."""
    used, refused = set(), []
    for event in map(json.loads, role.cluster.audit_log.read_text().splitlines()):
        if event["user"]["username"] != ACCOUNT or "objectRef" not in event:
            continue
        reference = event["objectRef"]
        parts = (reference.get("resource"), reference.get("subresource"))
        used.add((reference.get("apiGroup", ""), "/".join(filter(None, parts)), event["verb"]))
        if event["responseStatus"]["code"] == 403:
            refused.append(f"{event['verb']} {event['requestURI']}")
    return used, refused


def test_the_image_has_a_bill_of_materials(tmp_path: Path):
    """It lists exactly the packages that are pinned by hash."""
    if reason := why_no_podman():
        pytest.skip(reason)
    listed, pinned = listed_and_pinned("node_capacity", tmp_path)
    assert sorted(listed) == sorted(pinned)
