"""Writes to the operator's settings, with an operator that replaces pods by itself, and with one that does not.

The cost of a write is the number of peer pods that the stand-in for cloud-api-adaptor has lost.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import openshift
from tests.cluster.launcher import Cluster
from tests.cluster.operators import channels
from tests.cluster.processes import wait_for
from tests.integration.site import user_of
from tests.integration.test_stand_ins import (
    KATA_CONFIG,
    NAMESPACE_ARGS,
    World,
    make_peer_pods,
)
from tests.support import KUBERNETES_CLIENT, OPERATOR_NAMESPACE

WORKERS = openshift.imagined_workers(3)
ROLLS = {"1.10": False, "1.13": True}
KEPT_GALLERY = "osc.peerpods/image-gallery"


class Settings(World):
    """The cluster, with the module to run."""

    def __init__(self, cluster: Cluster, rolls: bool, kubeconfig: Path, run_module: Callable[..., dict]):
        super().__init__(cluster)
        self.rolls = rolls
        # Preflight reports these permissions as sufficient.
        self._kubeconfig = kubeconfig
        self._run = run_module

    def apply(self, *, check: bool = False, diff: bool = False, fails: bool = False, **args) -> dict:
        result = self._run(
            "adaptor_config",
            {"wait_timeout": 60, **args},
            check=check,
            diff=diff,
            env={"K8S_AUTH_KUBECONFIG": str(self._kubeconfig)},
        )
        assert bool(result.get("failed")) == fails, result
        return result

    def data(self, name: str = "peer-pods-cm") -> dict[str, str]:
        config_maps = self.cluster.get("configmaps", *NAMESPACE_ARGS, f"--field-selector=metadata.name={name}")
        return next((config_map.get("data") or {} for config_map in config_maps["items"]), {})

    def strategy(self) -> str:
        daemon_set = self.cluster.get("daemonset", "osc-caa-ds", *NAMESPACE_ARGS)
        return daemon_set["spec"]["updateStrategy"]["type"]

    def settled_adaptors(self) -> dict[str, str]:
        """The CAA pods, once each node has one. If the operator rolls, they have the newest settings and strategy."""

        def settled() -> bool:
            strategy = self.data("osc-feature-gates").get("caaUpdateStrategy", "RollingUpdate")
            if self.rolls and self.strategy() != strategy:
                return False
            pods = self.cluster.get("pods", *NAMESPACE_ARGS, "-l", "name=osc-caa-ds")["items"]
            config_map = self.cluster.get("configmap", "peer-pods-cm", *NAMESPACE_ARGS)
            versions = {(pod["metadata"].get("annotations") or {}).get("peer-pods-cm/version") for pod in pods}
            expected_versions = {config_map["metadata"]["resourceVersion"]} if self.rolls else {None}
            return (
                len(pods) == len(WORKERS)
                and versions == expected_versions
                and all("deletionTimestamp" not in pod["metadata"] for pod in pods)
                and all((pod.get("status") or {}).get("phase") == "Running" for pod in pods)
            )

        wait_for("cloud-api-adaptor on every node", settled, seconds=60)
        return self.adaptors()

    def requests(self) -> list[str]:
        """The requests of the module to the API server so far."""
        events = map(json.loads, self.cluster.audit_log.read_text().splitlines())
        return [
            f"{event['verb']} {event['requestURI'].partition('?')[0]}"
            for event in events
            if event.get("userAgent", "").startswith(KUBERNETES_CLIENT)
            and event.get("user", {}).get("username") == "site"
        ]


@pytest.fixture(scope="module", params=ROLLS)
def running(request: pytest.FixtureRequest) -> Iterator[tuple[Cluster, bool, Path]]:
    release = request.param
    latest = channels(release)["stable"][-1].version
    with Cluster(definitions=openshift.definitions(peer_pod_configs=False)) as cluster:
        openshift.fill(cluster, WORKERS, "eu-central-1")
        cluster.kubectl("create", "namespace", OPERATOR_NAMESPACE)
        openshift.start_stand_ins(cluster, "process", release)
        world = World(cluster)
        world.settings()
        cluster.apply(*openshift.subscription(latest, "Automatic"))
        wait_for(f"operator {latest}", lambda: world.version() == latest, seconds=90)
        cluster.apply(KATA_CONFIG)
        wait_for("cloud-api-adaptor", lambda: len(world.adaptors()) == len(WORKERS), seconds=90)
        yield cluster, ROLLS[release], user_of(cluster, "site")


@pytest.fixture
def world(running: tuple[Cluster, bool, Path], run_module: Callable[..., dict]) -> Iterator[Settings]:
    cluster, rolls, kubeconfig = running
    settings = Settings(cluster, rolls, kubeconfig, run_module)
    settings.settled_adaptors()
    yield settings
    openshift.remove_pods(settings.cluster)


def busy(world: Settings) -> str:
    """Run a peer pod, and return the name of its node."""
    make_peer_pods(world, kept="Always")
    return world.cluster.get("pod", "kept", "-n", "default")["spec"]["nodeName"]


def test_unchanged_settings_are_not_written(world: Settings):
    before = world.adaptors()
    version = world.cluster.get("configmap", "peer-pods-cm", *NAMESPACE_ARGS)["metadata"]["resourceVersion"]
    result = world.apply(config_map={"CLOUD_PROVIDER": "aws"}, feature_gates={})
    assert not result["changed"]
    assert result["written"] == result["adaptor"]["replaced"] == result["adaptor"]["stale"] == []
    config_map = world.cluster.get("configmap", "peer-pods-cm", *NAMESPACE_ARGS)
    assert config_map["metadata"]["resourceVersion"] == version
    assert "app.kubernetes.io/part-of" not in (config_map["metadata"].get("labels") or {})
    assert world.adaptors() == before


def test_a_write_that_would_disrupt_peer_pods_is_rejected(world: Settings):
    node = busy(world)
    before, data = world.adaptors(), world.data()
    for check in (True, False):
        result = world.apply(config_map={"PROXY_TIMEOUT": "7m"}, fails=True, check=check)
        assert f"default/kept on {node}" in result["msg"]
        assert "Nothing was written" in result["msg"]
        assert "ends in _disruption) to wait" in result["msg"]
        assert result["adaptor"]["peer_pods"] == ["default/kept"]
    assert (world.adaptors(), world.data()) == (before, data)
    assert world.lost() == []


def test_a_dry_run_names_the_nodes_and_the_peer_pods(world: Settings):
    node = busy(world)
    before, data = world.adaptors(), world.data()
    result = world.apply(
        config_map={"PROXY_TIMEOUT": "7m"},
        secret={"AWS_ACCESS_KEY_ID": "AKIAsecret"},
        disruption="allow",
        check=True,
        diff=True,
    )
    assert result["changed"]
    assert result["adaptor"]["lost"] == ["default/kept"]
    assert result["adaptor"]["replaced"] == sorted(worker.name for worker in WORKERS)
    assert node in result["adaptor"]["replaced"]
    assert "ConfigMap/peer-pods-cm" in result["written"]
    assert result["diff"]["after"]["ConfigMap/peer-pods-cm"] == {"PROXY_TIMEOUT": "7m"}
    assert "AWS_ACCESS_KEY_ID" in result["diff"]["after"]["Secret/peer-pods-secret"]
    assert "AKIAsecret" not in json.dumps(result)
    assert (world.adaptors(), world.data()) == (before, data)


def test_a_wait_loses_no_peer_pod(world: Settings):
    """Free nodes are replaced first, and the last node when its peer pod has ended."""
    node = busy(world)
    before = world.adaptors()
    kept_uids = {uid for uid, adaptor_node in before.items() if adaptor_node == node}
    observations: list[bool] = []

    def end_the_pod_when_only_its_node_is_left() -> None:
        deadline = time.monotonic() + 50
        while time.monotonic() < deadline and before.keys() & world.adaptors().keys() != kept_uids:
            time.sleep(0.2)
        world.let_reconcile()
        observations.append(kept_uids <= world.adaptors().keys() and world.lost() == [])
        world.cluster.delete("pod", "kept", "-n", "default", "--force", "--grace-period=0")

    ending = threading.Thread(target=end_the_pod_when_only_its_node_is_left)
    ending.start()
    result = world.apply(config_map={"PROXY_TIMEOUT": "8m"}, disruption="wait")
    ending.join()
    assert observations == [True]
    assert result["adaptor"]["replaced"][-1] == node
    assert sorted(result["adaptor"]["replaced"]) == sorted(worker.name for worker in WORKERS)
    assert result["adaptor"]["lost"] == []
    assert world.data()["PROXY_TIMEOUT"] == "8m"
    assert not before.keys() & world.settled_adaptors().keys()
    # The temporary settings of the replacement are removed.
    assert result["adaptor"]["mode"] == ("hold" if world.rolls else "replace")
    assert world.data("osc-feature-gates") == {}
    wait_for("the strategy of before", lambda: world.strategy() == "RollingUpdate", seconds=20)
    after = world.adaptors()
    world.let_reconcile()
    assert world.adaptors() == after


def test_a_wait_that_ends_too_early_is_resumed(world: Settings):
    node = busy(world)
    result = world.apply(config_map={"PROXY_TIMEOUT": "9m"}, disruption="wait", wait_timeout=12, fails=True)
    assert f"default/kept on {node}" in result["msg"]
    assert result["written"][-1] == "ConfigMap/peer-pods-cm"
    assert result["adaptor"]["waiting"] == [node]
    assert len(result["adaptor"]["replaced"]) == 2
    assert world.lost() == []
    assert world.strategy() == ("OnDelete" if world.rolls else "RollingUpdate")

    result = world.apply(config_map={"PROXY_TIMEOUT": "9m"})
    assert not result["changed"]
    assert result["adaptor"]["stale"] == [node]
    assert world.lost() == []

    result = world.apply(resume=True, fails=True)
    assert f"default/kept on {node}" in result["msg"]

    world.cluster.delete("pod", "kept", "-n", "default", "--force", "--grace-period=0")
    result = world.apply(config_map={"PROXY_TIMEOUT": "9m"}, resume=True)
    assert result["adaptor"]["replaced"] == [node]
    assert world.data("osc-feature-gates") == {}
    wait_for("the strategy of before", lambda: world.strategy() == "RollingUpdate", seconds=20)


def test_an_allowed_disruption_is_reported(world: Settings):
    node = busy(world)
    result = world.apply(config_map={"PROXY_TIMEOUT": "10m"}, disruption="allow")
    assert result["adaptor"]["lost"] == ["default/kept"]
    assert result["adaptor"]["replaced"][-1] == node
    wait_for("the loss", lambda: world.lost() == ["kept"], seconds=20)


def test_the_secret_is_written_and_its_pods_are_replaced(world: Settings):
    before = world.adaptors()
    result = world.apply(secret={"AWS_ACCESS_KEY_ID": "AKIA1"})
    assert result["written"] == ["Secret/peer-pods-secret"]
    assert result["adaptor"]["mode"] == "replace"
    assert not before.keys() & world.settled_adaptors().keys()
    secret = world.cluster.get("secret", "peer-pods-secret", *NAMESPACE_ARGS)
    assert base64.b64decode(secret["data"]["AWS_ACCESS_KEY_ID"]) == b"AKIA1"
    assert not world.apply(secret={"AWS_ACCESS_KEY_ID": "AKIA1"})["changed"]


def test_nothing_is_written_for_an_operator_that_does_not_reconcile(world: Settings):
    """The operator would replace every pod when it runs again, so nothing is written before OnDelete is set."""
    if not world.rolls:
        pytest.skip("this release replaces no pods by itself")
    before = world.adaptors(), world.data()
    with world.cluster.processes.frozen("operators"):
        for options in ({}, {"replace": False}):
            result = world.apply(config_map={"PROXY_TIMEOUT": "12m"}, wait_timeout=2, fails=True, **options)
            assert "has not set the update strategy of osc-caa-ds to OnDelete" in result["msg"]
            assert "Nothing was written." in result["msg"]
            assert not result["changed"]
            assert world.data("osc-feature-gates") == {}
    world.let_reconcile()
    assert (world.adaptors(), world.data()) == before


def test_the_leftovers_of_an_interrupted_run_are_reported_and_restored(world: Settings):
    if not world.rolls:
        pytest.skip("this release has no caaUpdateStrategy")
    result = world.apply(config_map={"PROXY_TIMEOUT": "13m"}, replace=False)
    nodes = ", ".join(sorted(world.adaptors().values()))
    (warning,) = result["warnings"]
    assert f"stays OnDelete, because the cloud-api-adaptor pods of {nodes} have" in warning
    assert "resume=true" in warning
    result = world.apply(resume=True)
    assert result["adaptor"]["strategy"] == {"before": "OnDelete", "after": None}
    assert not result.get("warnings")
    assert world.data("osc-feature-gates") == {}


def test_an_existing_key_is_kept_and_a_gallery_is_restored(world: Settings):
    """The annotation for the gallery alone makes no pod stale, which a write of a key does."""
    world.cluster.annotate("configmap", "peer-pods-cm", f"{KEPT_GALLERY}=Gallery", *NAMESPACE_ARGS)
    before = world.adaptors()
    result = world.apply()
    assert result["written"] == ([] if world.rolls else ["ConfigMap/peer-pods-cm"])
    assert world.apply()["adaptor"]["stale"] == []
    assert world.adaptors() == before
    world.apply(config_map={"PEERPODS_LIMIT_PER_NODE": "5"})
    annotations = world.cluster.get("configmap", "peer-pods-cm", *NAMESPACE_ARGS)["metadata"]["annotations"]
    assert (annotations.get("IMAGE_GALLERY_NAME"), KEPT_GALLERY in annotations) == ("Gallery", False)
    keep = {
        "config_map": {"PEERPODS_LIMIT_PER_NODE": "6"},
        "only_missing": ["PEERPODS_LIMIT_PER_NODE"],
    }
    assert not world.apply(**keep)["changed"]
    assert world.data()["PEERPODS_LIMIT_PER_NODE"] == "5"


def test_on_delete_of_the_user_is_kept(world: Settings):
    if not world.rolls:
        pytest.skip("this release has no caaUpdateStrategy")
    node = busy(world)
    before = world.adaptors()
    result = world.apply(feature_gates={"caaUpdateStrategy": "OnDelete"})
    assert result["written"] == ["ConfigMap/osc-feature-gates"]
    wait_for("OnDelete", lambda: world.strategy() == "OnDelete", seconds=20)
    result = world.apply(config_map={"PROXY_TIMEOUT": "11m"}, replace=False)
    assert world.adaptors() == before
    # If the strategy were RollingUpdate again, the operator would replace them.
    result = world.apply(feature_gates={"caaUpdateStrategy": "RollingUpdate"}, fails=True)
    assert f"default/kept on {node}" in result["msg"]
    assert world.adaptors() == before
    assert world.lost() == []
    world.cluster.delete("pod", "kept", "-n", "default", "--force", "--grace-period=0")
    result = world.apply(feature_gates={"caaUpdateStrategy": "RollingUpdate"})
    assert result["adaptor"]["strategy"] == {"before": "OnDelete", "after": "RollingUpdate"}
    assert not before.keys() & world.settled_adaptors().keys()
    world.cluster.delete("configmap", "osc-feature-gates", *NAMESPACE_ARGS)


def test_a_strategy_that_the_operator_would_ignore_is_rejected(world: Settings):
    result = world.apply(feature_gates={"caaUpdateStrategy": "ondelete"}, fails=True)
    assert "caaUpdateStrategy must be RollingUpdate or OnDelete" in result["msg"]


def test_the_requests_of_a_run_that_changes_nothing(world: Settings):
    before = len(world.requests())
    world.apply(config_map={"CLOUD_PROVIDER": "aws"}, secret={}, feature_gates={})
    new_requests = world.requests()[before:]
    assert "get /api/v1/namespaces/openshift-sandboxed-containers-operator/configmaps/peer-pods-cm" in new_requests
    assert len([request for request in new_requests if request != "get /version"]) <= 6, new_requests
