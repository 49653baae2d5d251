"""peerpod_limit and peerpod_info where the operator is of the second generation, on a real API server.

The tests create the objects of the operator in their own namespaces; the stand-in for the operator runs
in the tests of the roles.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from tests.cluster.openshift import remove_pods, set_status
from tests.cluster.processes import wait_for
from tests.integration.apiserver import between, requests_of

NAMESPACE = "second-test"
AGENT_NAMESPACE = "second-agent-test"
NODES = ("second-a", "second-b")
RESOURCE = "kata.peerpods.io/vm"
LABEL = {"name": "osc-caa-ds"}
SELECTOR = {"second.example.com/kata-oc": ""}
OPERATOR = {
    "version": "1.13.0",
    "known": True,
    "limit_in": "peer-pods-cm",
    "advertiser": "cloud-api-adaptor",
}
SETTINGS = {
    "kind": "ConfigMap",
    "namespace": NAMESPACE,
    "name": "peer-pods-cm",
    "key": "PEERPODS_LIMIT_PER_NODE",
}


def limits_key(key: str) -> dict:
    return {**SETTINGS, "namespace": AGENT_NAMESPACE, "name": "peerpods-limits", "key": key}


def config_map(name: str, namespace: str = NAMESPACE, **data: str) -> dict:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def workload(kind: str, name: str, namespace: str, **spec: object) -> dict:
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            # The pods of these tests differ from the template, and their controller must not replace them.
            **({"updateStrategy": {"type": "OnDelete"}} if kind == "DaemonSet" else {}),
            "selector": {"matchLabels": LABEL},
            "template": {
                "metadata": {"labels": LABEL},
                "spec": {"containers": [{"name": "caa-pod", "image": "i"}], **spec},
            },
        },
    }


def pod(name: str, node: str, labels: dict | None = None, **spec: object) -> dict:
    """A pod that is bound to its node. By default, the controller of the DaemonSet adopts it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": LABEL if labels is None else labels,
        },
        "spec": {
            "nodeName": node,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "caa-pod", "image": "i", **spec}],
        },
    }


def advertise(cluster, slots: int, *nodes: str) -> None:
    # There is no kubelet: without its heartbeat, the controller-manager soon sets the node's condition to Unknown.
    heartbeat = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for name in nodes or NODES:
        set_status(
            cluster,
            f"node/{name}",
            {
                "capacity": {RESOURCE: str(slots)},
                "allocatable": {RESOURCE: str(slots)},
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": heartbeat}],
            },
            NAMESPACE,
        )


@pytest.fixture(scope="module")
def operator(cluster):
    """An operator 1.13 with two nodes. No program replaces pods here, so cloud-api-adaptor has no pods."""
    csv = "sandboxed-containers-operator.v1.13.0"
    cluster.apply(
        *(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            for name in (NAMESPACE, AGENT_NAMESPACE)
        ),
        *({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": SELECTOR}} for name in NODES),
        {
            "apiVersion": "operators.coreos.com/v1alpha1",
            "kind": "ClusterServiceVersion",
            "metadata": {"name": csv, "namespace": NAMESPACE},
            "spec": {
                "displayName": "OpenShift sandboxed containers Operator",
                "version": "1.13.0",
                "install": {"strategy": "deployment", "spec": {"deployments": []}},
            },
        },
    )
    try:
        set_status(cluster, f"clusterserviceversion/{csv}", {"phase": "Succeeded"}, NAMESPACE)
        yield
    finally:
        remove_pods(cluster, NAMESPACE)
        cluster.delete("namespace", NAMESPACE, AGENT_NAMESPACE, "--wait=false")
        cluster.delete("node", *NODES)


@pytest.fixture
def settings(cluster, operator):
    """The operator's settings with a limit of 10, which both nodes advertise."""
    cluster.apply(
        config_map("peer-pods-cm", PEERPODS_LIMIT_PER_NODE="10", CLOUD_PROVIDER="aws"),
        workload("DaemonSet", "osc-caa-ds", NAMESPACE, nodeSelector=SELECTOR),
    )
    advertise(cluster, 10)
    yield
    cluster.delete("daemonset", "--all", "-n", NAMESPACE, "--cascade=orphan")
    cluster.delete("peerpodconfig", "--all", "-n", NAMESPACE)
    cluster.delete("configmap", "-n", AGENT_NAMESPACE, "peerpods-limits", "--ignore-not-found")
    cluster.label("node", *NODES, "example.com/pool-")
    remove_pods(cluster, NAMESPACE)


@pytest.fixture
def agent(cluster, settings):
    cluster.apply(
        {**workload("Deployment", "peerpods-node-capacity", AGENT_NAMESPACE)},
    )
    yield
    cluster.delete("deployment", "peerpods-node-capacity", "-n", AGENT_NAMESPACE)


@pytest.fixture
def run(cluster, run_module):
    def run(limit=None, user="second", groups=("system:masters",), module="peerpod_limit", **args):
        modes = {mode: args.pop(mode, False) for mode in ("check", "diff")}
        arguments = {"namespace": NAMESPACE, **args}
        if module == "peerpod_limit":
            arguments["agent_namespace"] = AGENT_NAMESPACE
            if limit is not None:
                arguments["limit"] = limit
        else:
            arguments["cloud_capacity"] = {"namespace": AGENT_NAMESPACE}
        if "host" not in args:
            arguments["kubeconfig"] = str(cluster.user_kubeconfig(user, *groups))
        return run_module(module, arguments, **modes)

    return run


def limits_of(cluster) -> dict:
    return cluster.get("configmap", "peerpods-limits", "-n", AGENT_NAMESPACE)


def settings_of(cluster) -> dict:
    return cluster.get("configmap", "peer-pods-cm", "-n", NAMESPACE)


# -- With the agent -----------------------------------------------------------------------------


@pytest.mark.usefixtures("agent")
class TestWithTheAgent:
    def test_a_limit_never_writes_the_operators_settings(self, cluster, run):
        before = settings_of(cluster)
        planned = run(20, check=True, diff=True)
        assert (planned["changed"], planned["after"]) == (True, 20)
        names = cluster.kubectl("get", "configmap", "-n", AGENT_NAMESPACE, "-o", "name")
        assert "peerpods-limits" not in names

        result = run(20, user="second-set", diff=True)
        assert not result.get("failed"), result
        assert result["changed"]
        assert (result["before"], result["after"]) == (10, 20)
        assert (result["pool"], result["store"]) == ("default", limits_key("default"))
        assert (result["operator"], result["adaptor"]) == (OPERATOR, None)
        assert [node["name"] for node in result["nodes"]] == list(NODES)
        assert result["advertised_nodes"] == 0
        assert result["diff"] == {"before": {}, "after": {"data": {"default": '{"limit":20}'}}}
        limits = limits_of(cluster)
        assert limits["data"] == {"default": '{"limit":20}'}
        assert limits["metadata"]["labels"] == {"app.kubernetes.io/part-of": "osc.peerpods"}
        assert settings_of(cluster) == before
        assert [verb for verb, _path in requests_of(cluster, "second-set")] == [
            *("get", "list", "list", "list", "get", "get", "get", "list"),
            "create",
        ]

        second_result = run(20, user="second-again", name="default")
        assert not second_result["changed"]
        # If peerpods-limits has an entry for the pool, the operator's settings are not read.
        assert [verb for verb, _path in requests_of(cluster, "second-again")] == [
            *("get", "list", "list", "list", "get", "get", "list"),
        ]
        assert limits_of(cluster) == limits

    def test_pools_are_entries_and_other_entries_stay(self, cluster, run):
        cluster.apply(config_map("peerpods-limits", AGENT_NAMESPACE, foreign="text"))
        cluster.label("node", "second-b", "example.com/pool=memory")
        memory = {"name": "memory", "node_selector": {"example.com/pool": "memory"}}
        created = run(4, user="second-pool", **memory)
        assert not created.get("failed"), created
        assert (created["before"], created["after"], created["pool"]) == (None, 4, "memory")
        assert [node["name"] for node in created["nodes"]] == ["second-b"]
        assert limits_of(cluster)["data"] == {
            "foreign": "text",
            "memory": '{"limit":4,"nodeSelector":{"example.com/pool":"memory"}}',
        }
        assert not run(4, **memory)["changed"]
        # The operator's pool has the remaining nodes.
        assert [node["name"] for node in run()["nodes"]] == ["second-a"]

        info = run(module="peerpod_info")
        pools = {pool["name"]: pool for pool in info["pools"]}
        assert pools["default"]["store"] == SETTINGS
        assert (pools["default"]["limit"], pools["default"]["selected_nodes"]) == (10, 1)
        assert pools["memory"]["store"] == limits_key("memory")
        assert (pools["memory"]["limit"], pools["memory"]["advertised_nodes"]) == (4, 0)
        rows = {node["name"]: node["pools"] for node in info["nodes"] if node["name"] in NODES}
        assert rows == {"second-a": [f"{NAMESPACE}/default"], "second-b": [f"{NAMESPACE}/memory"]}
        assert info["operator"] == OPERATOR

        overlapping = run(5, name="other", node_selector={"example.com/pool": "memory"})
        assert overlapping["failed"]
        assert "PeerPodConfig" not in overlapping["msg"]

        cluster.label("node", "second-b", "example.com/pool=memory")
        advertise(cluster, 4, "second-b")
        with ThreadPoolExecutor() as background:
            removal = background.submit(run, name="memory", state="absent", wait=True, wait_timeout=60)
            wait_for("the removal", lambda: "memory" not in limits_of(cluster)["data"], seconds=30)
            assert not removal.done(), "the node does not have the limit of the operator's pool yet"
            advertise(cluster, 10, "second-b")
            removed = removal.result(timeout=60)
        assert not removed.get("failed"), removed
        assert (removed["changed"], removed["before"], removed["after"]) == (True, 4, None)
        assert limits_of(cluster)["data"] == {"foreign": "text"}
        assert not run(name="memory", state="absent")["changed"]

    def test_without_its_entry_the_operators_pool_has_the_operators_limit(self, cluster, run):
        assert run(20)["after"] == 20
        result = run(state="absent")
        assert (result["changed"], result["before"], result["after"]) == (True, 20, 10)
        assert result["store"] == SETTINGS
        assert settings_of(cluster)["data"]["PEERPODS_LIMIT_PER_NODE"] == "10"
        assert not run(state="absent")["changed"]

    def test_a_write_fails_if_the_object_has_changed(self, cluster, run):
        assert run(20)["changed"]
        other_entries = iter(['{"limit":15}'])

        def intervene(method, path):
            other_entry = next(other_entries, None) if method == "PATCH" else None
            if other_entry:
                cluster.merge("configmap/peerpods-limits", {"data": {"default": other_entry}}, AGENT_NAMESPACE)

        kubeconfig = cluster.user_kubeconfig("second-race", "system:masters")
        with between(cluster, kubeconfig, intervene) as url:
            result = run(30, host=url, api_key="any")
        assert (result["before"], result["after"]) == (15, 30)
        assert limits_of(cluster)["data"] == {"default": '{"limit":30}'}

    def test_a_pool_left_over_from_an_upgrade_stays_and_moves_with_its_next_limit(self, cluster, run):
        cluster.label("node", "second-b", "example.com/pool=left")
        spec = {
            "limit": "3",
            "nodeSelector": {"example.com/pool": "left"},
            "cloudSecretName": "s",
            "configMapName": "c",
        }
        cluster.apply(
            {
                "apiVersion": "confidentialcontainers.org/v1alpha1",
                "kind": "PeerPodConfig",
                "metadata": {"name": "left", "namespace": NAMESPACE},
                "spec": spec,
            }
        )
        read = run(name="left")
        assert (read["changed"], read["before"], read["store"]["kind"]) == (
            False,
            3,
            "PeerPodConfig",
        )
        # An entry is written even if the limit is the same, so that the PeerPodConfig can be deleted.
        moved = run(3, name="left")
        assert (moved["changed"], moved["store"]) == (True, limits_key("left"))
        assert not run(3, name="left")["changed"]
        assert run(5, name="left")["store"] == limits_key("left")
        left_config = cluster.get("peerpodconfig", "left", "-n", NAMESPACE)
        assert left_config["spec"] == spec
        removed = run(name="left", state="absent")
        assert (removed["changed"], removed["before"]) == (True, 5)
        assert limits_of(cluster).get("data", {}) == {}
        names = cluster.kubectl("get", "peerpodconfig", "-n", NAMESPACE, "-o", "name")
        assert "left" not in names

    def test_nodes_without_a_ready_adaptor_are_named(self, cluster, run):
        cluster.apply(*(pod(f"caa-{name}", name) for name in NODES))
        ready = {"type": "Ready", "status": "True"}
        set_status(cluster, "pod/caa-second-a", {"conditions": [ready]}, NAMESPACE)
        advertise(cluster, 0, "second-b")
        result = run(10, wait=True, wait_timeout=1)
        assert result["failed"]
        assert "second-b advertises 0" in result["msg"]
        assert "The cloud-api-adaptor pod is not Ready on second-b:" in result["msg"]
        assert "PeerPodConfig" not in result["msg"]

    def test_a_node_that_is_down_is_not_an_error(self, cluster, run):
        """The cloud-api-adaptor of this node is not Ready either, so the node has no free slot."""
        down = [{"type": "Ready", "status": "Unknown"}]
        for is_down in (True, False):
            advertise(cluster, 10, "second-a")
            advertise(cluster, 0, "second-b")
            if is_down:
                set_status(cluster, "node/second-b", {"conditions": down}, NAMESPACE)
            result = run(10, wait=True, wait_timeout=1)
            if is_down:
                assert not result.get("failed"), result["msg"]
                assert result["warnings"] == ["These nodes are not Ready and do not advertise the limit yet: second-b."]
                assert result["advertised_nodes"] == 1
            else:
                assert "second-b advertises 0" in result["msg"]


# -- Without the agent --------------------------------------------------------------------------


@pytest.mark.usefixtures("settings")
class TestWithoutTheAgent:
    def test_the_limit_is_read_from_the_operators_settings(self, cluster, run):
        result = run(user="second-read")
        assert (result["changed"], result["before"], result["after"]) == (False, 10, 10)
        assert (result["pool"], result["store"]) == ("default", SETTINGS)
        assert result["advertised_nodes"] == len(NODES)
        assert [verb for verb, _path in requests_of(cluster, "second-read")] == [
            *("get", "list", "list", "list", "get", "get", "list"),
        ]

    def test_the_limit_is_written_to_the_operators_settings(self, cluster, run):
        result = run(12, disruption="refuse")
        assert not result.get("failed"), result
        assert (result["changed"], result["store"]) == (True, SETTINGS)
        assert settings_of(cluster)["data"] == {
            "PEERPODS_LIMIT_PER_NODE": "12",
            "CLOUD_PROVIDER": "aws",
        }
        assert result["adaptor"]["lost"] == []

    def test_the_limit_is_not_written_if_peer_pods_would_be_lost(self, cluster, run):
        cluster.apply(
            pod("caa", "second-a"),
            pod("peer", "second-a", {}, resources={"limits": {RESOURCE: "1"}}),
        )
        before = settings_of(cluster)
        for check in (True, False):
            result = run(12, check=check)
            assert result.get("failed"), result
            assert f"{NAMESPACE}/peer" in result["msg"]
            assert result["adaptor"]["peer_pods"] == [f"{NAMESPACE}/peer"]
        assert settings_of(cluster) == before

    def test_other_runtime_classes_may_be_peer_pods(self, cluster, run):
        cluster.apply(
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "handler": "kata",
                "metadata": {"name": "second-kata"},
            }
        )
        peer = pod("peer", "second-a", {})
        peer["spec"]["runtimeClassName"] = "second-kata"
        cluster.apply(pod("caa", "second-a"), peer)
        assert run(12, check=True)["adaptor"]["peer_pods"] == []
        result = run(12, check=True, runtime_classes=["second-kata"])
        cluster.delete("runtimeclass", "second-kata")
        assert result["failed"]
        assert result["adaptor"]["peer_pods"] == [f"{NAMESPACE}/peer"]

    def test_only_a_node_that_lags_is_restarted(self, cluster, run):
        """Its CAA has started with the limit, but then another program, such as a removed agent, wrote the node."""
        cluster.apply(config_map("peer-pods-cm", PEERPODS_LIMIT_PER_NODE="010"))
        of_template = {**LABEL, "pod-template-generation": "1"}
        cluster.apply(*(pod(f"caa-{name}", name, of_template) for name in NODES))
        for name in NODES:
            ready = {"type": "Ready", "status": "True"}
            running = {
                "name": "caa-pod",
                "state": {"running": {"startedAt": "2099-01-01T00:00:00Z"}},
                "ready": True,
                "image": "i",
                "imageID": "",
                "restartCount": 0,
            }
            set_status(cluster, f"pod/caa-{name}", {"conditions": [ready], "containerStatuses": [running]}, NAMESPACE)
        advertise(cluster, 20, "second-b")
        result = run(10, check=True)
        assert not result.get("failed"), result
        assert (result["before"], result["after"]) == (10, 10)
        assert result["adaptor"]["replaced"] == ["second-b"]

    def test_a_strategy_that_an_interrupted_run_left_is_restored(self, cluster, run):
        gates = config_map("osc-feature-gates", caaUpdateStrategy="OnDelete", other="true")
        gates["metadata"]["annotations"] = {"osc.peerpods/caa-update-strategy": "RollingUpdate"}
        cluster.apply(gates)
        assert run(10)["changed"]
        restored = cluster.get("configmap", "osc-feature-gates", "-n", NAMESPACE)
        cluster.delete("configmap", "osc-feature-gates", "-n", NAMESPACE)
        assert restored["data"] == {"caaUpdateStrategy": "RollingUpdate", "other": "true"}
        assert not run(10)["changed"]

    def test_a_strategy_is_restored_without_cloud_api_adaptor(self, cluster, run_module):
        cluster.delete("daemonset", "osc-caa-ds", "-n", NAMESPACE, "--cascade=orphan")
        gates = config_map("osc-feature-gates", caaUpdateStrategy="OnDelete", other="true")
        gates["metadata"]["annotations"] = {"osc.peerpods/caa-update-strategy": ""}
        cluster.apply(gates)
        result = run_module(
            "adaptor_config",
            {
                "namespace": NAMESPACE,
                "feature_gates": {"other": "true"},
                "kubeconfig": str(cluster.kubeconfig),
            },
        )
        assert not result.get("failed"), result
        restored = cluster.get("configmap", "osc-feature-gates", "-n", NAMESPACE)
        cluster.delete("configmap", "osc-feature-gates", "-n", NAMESPACE)
        assert restored["data"] == {"other": "true"}

    def test_a_play_can_set_whether_the_agent_is_deployed(self, cluster, run):
        """In check mode, the role has not deployed the agent."""
        planned = run(20, check=True, agent_deployed=True)
        assert (planned["store"], planned["adaptor"]) == (limits_key("default"), None)
        planned = run(20, check=True, agent_deployed=False)
        assert (planned["store"], planned["adaptor"]["daemon_set"]) == (SETTINGS, "osc-caa-ds")

    def test_an_entry_that_nothing_enforces_is_removed(self, cluster, run):
        """Otherwise the entry would apply again if the agent were deployed later."""
        cluster.apply(config_map("peerpods-limits", AGENT_NAMESPACE, default='{"limit":20}'))
        result = run(state="absent")
        assert (result["changed"], result["before"], result["after"]) == (True, 10, 10)
        assert "data" not in limits_of(cluster)
        assert not run(state="absent")["changed"]

    def test_a_pool_that_nothing_can_enforce_is_rejected(self, cluster, run):
        for options in (
            {"name": "memory"},
            {"name": "memory", "node_selector": {"example.com/pool": "memory"}},
        ):
            result = run(4, **options)
            assert result["failed"]
            assert "node_capacity_manager=collection" in result["msg"]
        result = run(instance_type="m6i.large")
        assert result["failed"]
        assert "operator_install_podvm_instance_type" in result["msg"]

    @pytest.mark.parametrize(
        ("text", "failure_message"),
        [
            ("many", "is 'many', which is not a whole number"),
            ("-1", "is '-1': cloud-api-adaptor advertises nothing"),
        ],
    )
    def test_an_invalid_limit_is_reported_and_kept(self, cluster, run, text, failure_message):
        cluster.apply(config_map("peer-pods-cm", PEERPODS_LIMIT_PER_NODE=text))
        before = settings_of(cluster)
        result = run()
        assert (result["changed"], result["before"], result["after"]) == (False, None, None)
        assert failure_message in " ".join(result["warnings"])
        assert settings_of(cluster) == before
        replaced = run(7)
        assert (replaced["changed"], replaced["before"], replaced["after"]) == (True, None, 7)
        assert settings_of(cluster)["data"]["PEERPODS_LIMIT_PER_NODE"] == "7"


# -- A user who may only read -------------------------------------------------------------------


def grant(cluster, user: str, namespace: str | None, verbs: str, *resources: str) -> None:
    """A Role or ClusterRole for these resources, each as resource or resource/name, and its binding."""
    kind, scope = ("role", ["-n", namespace]) if namespace else ("clusterrole", [])
    for resource in resources:
        plural, dummy, name = resource.partition("/")
        role = f"{user}-{plural.partition('.')[0]}-{name or 'all'}"
        named = [f"--resource-name={name}"] if name else []
        cluster.kubectl("create", kind, role, f"--verb={verbs}", f"--resource={plural}", *named, *scope)
        cluster.kubectl("create", f"{kind}binding", role, f"--{kind}={role}", f"--user={user}", *scope)


@pytest.fixture
def readers(cluster):
    users: list[str] = []
    yield users.append
    for user in users:
        for kind in ("clusterrole", "clusterrolebinding"):
            cluster.delete(kind, f"{user}-nodes-all")


def test_a_user_without_any_other_permission_reads_it(cluster, agent, run, readers):
    """The key in peer-pods-cm is sufficient without ClusterServiceVersions, DaemonSets and PeerPodConfigs."""
    user = "second-viewer"
    readers(user)
    grant(cluster, user, None, "list", "nodes")
    grant(cluster, user, NAMESPACE, "get", "configmaps/peer-pods-cm")
    for name in NODES:
        cluster.label("node", name, "node-role.kubernetes.io/kata-oc=")
    try:
        result = run(user=user, groups=())
    finally:
        cluster.label("node", *NODES, "node-role.kubernetes.io/kata-oc-")
    assert not result.get("failed"), result
    assert (result["before"], result["store"], result["operator"]) == (10, SETTINGS, None)
    assert set(NODES) <= {node["name"] for node in result["nodes"]}
    assert "The limits of the node capacity agent are not known" in " ".join(result["warnings"])
    refused = run(20, user=user, groups=())
    assert refused["failed"]
    assert "Grant get on its Deployment" in refused["msg"]
    refused = run(state="absent", user=user, groups=())
    assert refused["failed"]
    assert "Grant get on its Deployment" in refused["msg"]

    grant(cluster, user, AGENT_NAMESPACE, "get", "configmaps/peerpods-limits")
    assert run(20)["changed"]
    result = run(user=user, groups=())
    assert (result["before"], result["store"]) == (20, limits_key("default"))


def test_the_first_generation_uses_the_peerpodconfigs_of_the_namespace(cluster, run_module, readers):
    namespace, user = "first-reader-test", "first-viewer"
    readers(user)
    cluster.kubectl("create", "namespace", namespace)
    spec = {"limit": "6", "nodeSelector": {"pool": "first-reader"}, "cloudSecretName": "s", "configMapName": "c"}
    cluster.apply(
        {
            "apiVersion": "confidentialcontainers.org/v1alpha1",
            "kind": "PeerPodConfig",
            "metadata": {"name": "peerpodconfig-openshift", "namespace": namespace},
            "spec": spec,
        }
    )
    grant(cluster, user, None, "list", "nodes")
    kubeconfig = str(cluster.user_kubeconfig(user))
    arguments = {"namespace": namespace, "kubeconfig": kubeconfig}
    unread = run_module("peerpod_limit", arguments)
    assert unread["failed"]
    assert "403" in unread["msg"]
    grant(cluster, user, namespace, "list", "peerpodconfigs.confidentialcontainers.org")
    result = run_module("peerpod_limit", arguments)
    assert not result.get("failed"), result
    assert (result["changed"], result["before"]) == (False, 6)
    cluster.delete("namespace", namespace, "--wait=false")
